"""The timeline of a failing test, in both its forms, as the docs and the example project show it.

``python -m tests.docs.timeline_shown`` writes the table into the pages, the picture beside them.
"""

from __future__ import annotations

import re
import shutil
from functools import cache
from html import escape
from pathlib import Path
from typing import Final

from tests.docs.failure_shown import EXAMPLE, ROOT, run_in_example

COMMAND: Final = "python -m tests.docs.timeline_shown"
MARKED: Final = re.compile(r"(?<=<!-- timeline -->\n).*?(?=<!-- /timeline -->)", re.DOTALL)
PAGES: Final = (ROOT / "docs/how-to/read-the-timeline.md", EXAMPLE / "README.md")
PICTURE: Final = ROOT / "docs/how-to/timeline.svg"
STYLE: Final = ROOT / "pytest_djcelery/trace/page_parts/trace.css"
TEST: Final = """\
from datetime import timedelta

import pytest
import time_machine
from demoapp.tasks import flaky


@pytest.mark.django_db
@time_machine.travel("2030-01-01 09:00+00:00", tick=False)
def test_welcome(client, celery_inline, django_user_model):
    flaky.delay(failures=1)
    client.post("/users/", {"username": "ada"})
    django_user_model.objects.all().delete()
    celery_inline.run(until=timedelta(hours=1), raise_failures=False)
"""
_NAMES: Final = 120  # pixels for the names of the lanes


@cache
def _made() -> tuple[str, str]:
    """What pytest prints of the test, and the page of it."""
    output, folder = run_in_example(
        TEST, "test_welcome.py", "-p", "even_times", "--djcelery-trace=on"
    )
    [page] = Path(folder, "celery-trace").glob("*.html")
    text = page.read_text(encoding="utf-8")
    shutil.rmtree(folder)
    return output, text


def table() -> str:
    """The table, as a block of a page."""
    [shown] = re.findall(
        r"^-+ celery: timeline -+\n(.*?)\n-+ celery", _made()[0], re.DOTALL | re.MULTILINE
    )
    shown = re.sub(r"(?<= )\S*site-packages/", "", shown)
    return "".join(f"    {line}".rstrip() + "\n" for line in shown.splitlines())


def picture() -> str:
    """The picture as a file: the lanes' names beside it, and the colours within it."""
    page = _made()[1]
    [svg] = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    names = re.findall(r"<li>(.*?)</li>", page)
    width, height = re.findall(r'width="(\d+)" height="(\d+)"', svg)[0]
    style = STYLE.read_text(encoding="utf-8")
    rules = "\n".join(
        [
            *re.findall(r"^:root \{.*?^\}", style, re.DOTALL | re.MULTILINE),
            *re.findall(r"^@media \(prefers.*?^\}", style, re.DOTALL | re.MULTILINE),
            *re.findall(r"^svg \..*", style, re.MULTILINE),
            *re.findall(r"^svg text.*", style, re.MULTILINE),
        ]
    )
    labels = "\n".join(
        f'<text x="8" y="{30 + 46 * at + 27}">{name}</text>' for at, name in enumerate(names)
    )
    inner = re.sub(r' <a href="[^"]*"', " <a", svg.replace("<svg ", f'<svg x="{_NAMES}" ', 1))
    inner = re.sub(r'<a href="[^"]*"', "<g", inner).replace("</a>", "</g>")
    total = int(width) + _NAMES
    title = escape("The timeline of a failing test, as a picture")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="{height}" '
        f'viewBox="0 0 {total} {height}" role="img" aria-label="{title}">\n'
        f"<style>\n{rules}\n</style>\n"
        f'<rect width="{total}" height="{height}" fill="var(--surface)"/>\n'
        f"{labels}\n{inner}\n</svg>\n"
    )


if __name__ == "__main__":
    for page in PAGES:
        shown = f"\n{table()}\n"
        text = MARKED.sub(lambda _, shown=shown: shown, page.read_text(encoding="utf-8"))
        page.write_text(text, encoding="utf-8")
    PICTURE.write_text(picture(), encoding="utf-8")
