"""The README and the pages in docs/: their examples run, and their links lead somewhere."""

from __future__ import annotations

import os
import re
import shutil
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

from tests.docs import failure_shown, timeline_shown

if TYPE_CHECKING:
    from tests.support.forking import ForkServer

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "example_project"
#: Options of the run that a page is about; pages with the same ones share a run.
OPTIONS = {"from-eager-mode": ("-o", "djcelery_mode=inline")}
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").rglob("*.md"))
BLOCK = re.compile(r"^( *)```python\n(.*?)^\1```", re.DOTALL | re.MULTILINE)


def blocks(page: Path) -> list[str]:
    """Return the Python on a page."""
    found = [dedent(block) for _, block in BLOCK.findall(page.read_text())]
    return found[:1] if page == README else found  # what follows the first is in fragments


def quoted_file(block: str) -> Path | None:
    """Return the file of the example that a block quotes: its first line names it."""
    name = re.match(r"# (\w+/\S+\.py)\n", block)
    return EXAMPLE / name[1] if name else None


def can_run(page: Path) -> bool:
    """Tell whether what the examples of a page import is there."""
    needed = re.findall(r'importorskip\("([\w.]+)"\)', "".join(blocks(page)))
    return all(find_spec(name.partition(".")[0]) and find_spec(name) for name in needed)


OWN_PROJECT = ROOT / "docs/how-to/fastapi-and-sqlalchemy.md"  # see test_fastapi_page.py
WITH_EXAMPLES = [
    page for page in (README, *PAGES) if blocks(page) and can_run(page) and page != OWN_PROJECT
]


def options(page: Path) -> tuple[str, ...]:
    return OPTIONS.get(page.stem, ())


@pytest.mark.long
@pytest.mark.parametrize(
    "pages",
    [[*pages] for _, pages in groupby(sorted(WITH_EXAMPLES, key=options), key=options)],
    ids=lambda pages: " ".join(options(pages[0])),
)
def test_the_examples_of_the_pages_pass_in_the_example_project(
    pages: list[Path], tmp_path: Path, fork_server: ForkServer
) -> None:
    # The pages speak of the example project, and so of its fixtures.
    shutil.copy(EXAMPLE / "tests" / "conftest.py", tmp_path)
    tests = 0
    for page in pages:
        run = [block for block in blocks(page) if not quoted_file(block)]
        tests += sum(block.count("def test_") for block in run)
        name = "_".join(page.relative_to(ROOT).with_suffix("").parts).replace("-", "_")
        (tmp_path / f"test_{name}.py").write_text("\n\n".join(run))
    run = fork_server.complete(
        "-q", "-p", "no:cacheprovider", "-c", EXAMPLE / "pyproject.toml",
        *options(pages[0]), tmp_path,
        folder=EXAMPLE,
        environment={**os.environ, "DATABASE": "sqlite"},  # of a server it is one for all runs
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"\n{tests} passed" in run.stdout


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: page.stem)
def test_what_a_page_quotes_stands_in_the_example_project(page: Path) -> None:
    for block in blocks(page):
        if file := quoted_file(block):
            assert block.partition("\n")[2] in file.read_text()


@pytest.mark.parametrize(
    "page",
    [*sorted(ROOT.glob("*.md")), *PAGES, EXAMPLE / "README.md"],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        found = (page.parent / name).resolve() if name else page
        if not found.exists() or (anchor and anchor not in anchors(found)):
            dead.append(target)
    assert not dead


def anchors(page: Path) -> set[str]:
    """Return the names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


def test_the_failure_that_the_readme_shows_is_what_pytest_prints() -> None:
    [shown] = failure_shown.MARKED.findall(README.read_text())
    stale = f"Stale. Run: {failure_shown.COMMAND}"
    words, printed = without_times(shown).split(), without_times(failure_shown.printed()).split()
    assert len(words) == len(printed), stale
    assert [word for word in zip(words, printed, strict=True) if not are_alike(*word)] == [], stale


def are_alike(one: str, other: str) -> bool:
    """Whether two words are one: where it is cut depends on the width of a slow machine's times."""
    if one.endswith("…") and other.endswith("…"):
        one, other = sorted((one[:-1], other[:-1]), key=len)
        return other.startswith(one)
    return one == other


def test_the_readme_is_short_and_no_link_in_it_is_dead_on_a_package_index() -> None:
    text = README.read_text()
    assert text.count("\n") <= 150
    assert re.findall(r"\]\((?!https://)", text) == []
    defined = dict(re.findall(r"^\[(\w+)\]: (\S+)$", text, re.MULTILINE))
    assert {*re.findall(r"\]\[(\w+)\]", text)} == {*defined}
    assert [path for path in defined.values() if not (ROOT / path).exists()] == []


def without_times(text: str) -> str:
    """A timeline without what a version of Celery or Django may change: places and times."""
    return " ".join(re.sub(r"[\d.]+", "0", text).split())


def test_the_timeline_that_pages_show_is_that_of_the_example_project() -> None:
    stale = f"Stale. Run: {timeline_shown.COMMAND}"
    for page in timeline_shown.PAGES:
        [shown] = timeline_shown.MARKED.findall(page.read_text(encoding="utf-8"))
        assert without_times(shown) == without_times(timeline_shown.table()), stale
    drawn = timeline_shown.PICTURE.read_text(encoding="utf-8")
    assert without_times(drawn) == without_times(timeline_shown.picture()), stale
