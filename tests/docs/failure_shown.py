"""The failing assertion that the README shows, as pytest prints it.

``python -m tests.docs.failure_shown`` writes it there.
"""

from __future__ import annotations

import re
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


@pytest.mark.django_db
def test_it(client, celery_outbox):
    client.post("/users/", {"username": "ada"})
    assert celery_outbox == [send_email.s(2)]
"""


def printed() -> str:
    """Run the test, and return what pytest prints of its assertion."""
    with tempfile.TemporaryDirectory() as folder:
        module = Path(folder) / "test_it.py"
        module.write_text(TEST, encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--color=no"]
        command += ["-c", str(EXAMPLE / "pyproject.toml"), str(module)]
        run = subprocess.run(command, cwd=EXAMPLE, capture_output=True, text=True, check=False)
    [shown] = re.findall(
        r"^>  .*?(?=^\S+:\d+: |^\n\S+:\d+: )", run.stdout, re.DOTALL | re.MULTILINE
    )
    return "".join(f"    {line.rstrip()}\n" for line in shown.rstrip().splitlines())


if __name__ == "__main__":
    shown = printed()
    text = MARKED.sub(lambda _: shown, README.read_text(encoding="utf-8"))
    README.write_text(text, encoding="utf-8")
