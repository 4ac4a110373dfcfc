"""The failing assertion that the README shows, as pytest prints it, with its timeline.

``python -m tests.docs.failure_shown`` writes it there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
README: Final = ROOT / "README.md"
EXAMPLE: Final = ROOT / "example_project"
COMMAND: Final = "python -m tests.docs.failure_shown"
MARKED: Final = re.compile(r"(?<=<!-- failure -->\n).*?(?=<!-- /failure -->)", re.DOTALL)
TEST: Final = """\
import pytest
from demoapp.tasks import send_email


pytestmark = pytest.mark.django_db


def test_first(client, celery_outbox):  # which loads what the next test is not to wait for
    client.post("/users/", {"username": "grace"})


def test_it(client, celery_outbox):
    client.post("/users/", {"username": "ada"})
    assert celery_outbox == [send_email.s(2)]
"""


def run_in_example(test: str, name: str, *options: str) -> tuple[str, Path]:
    """Run a test in a copy of the example project.

    Args:
        test: The module.
        name: Its file.
        options: Options of pytest.

    Returns:
        What pytest prints, and the folder of the copy, which the caller removes.
    """
    folder = Path(tempfile.mkdtemp())
    for part in ("demoapp", "proj"):
        shutil.copytree(EXAMPLE / part, folder / part)
    shutil.copy(EXAMPLE / "pyproject.toml", folder)
    (folder / name).write_text(test, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--color=no"]
    settings = {"PYTHONPATH": str(ROOT / "tests/docs"), "COLUMNS": "90", "DATABASE": "sqlite"}
    run = subprocess.run(
        [*command, *options, name],
        cwd=folder,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )
    return run.stdout, folder


def printed() -> str:
    """Run the test, and return what pytest prints of its assertion, and the timeline below it."""
    output, folder = run_in_example(TEST, "test_it.py", "-p", "no:randomly")
    shutil.rmtree(folder)
    [shown] = re.findall(r"^>  .*?(?=^\S+:\d+: |^\n\S+:\d+: )", output, re.DOTALL | re.MULTILINE)
    [table] = re.findall(
        r"^-+ celery: timeline -+\n.*?(?=^[-=]+ )", output, re.DOTALL | re.MULTILINE
    )
    lines = [*shown.rstrip().splitlines(), *table.rstrip().splitlines()]
    return "".join(f"    {line.rstrip()}\n" for line in lines)


if __name__ == "__main__":
    shown = printed()
    text = MARKED.sub(lambda _: shown, README.read_text(encoding="utf-8"))
    README.write_text(text, encoding="utf-8")
