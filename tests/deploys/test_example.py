"""The example project's contract, broken in each way that there is, and then planned."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "example_project"
CONTRACT = "celery-contract.json"
# What is changed in the code, and what the check says about it.
BREAKS = {
    "demoapp/tasks.py": {
        "@shared_task\ndef mul(": "def mul(",
        "def send_email_once(self, ": "def welcome(self, ",
        "def rename_widget(widget_id, name)": "def rename_widget(widget_id, owner, name=None)",
        "def work(seconds)": "def work(seconds, unit)",
        "def add(x, y)": "def add(x)",
        "def import_widgets(self, names)": "def import_widgets(self, *, names)",
        "def flaky(self, failures=3)": "def flaky(self, times=3)",
        "@shared_task\ndef delete_archived_widgets": "def delete_archived_widgets",
    },
    "proj/settings.py": {
        'CELERY_TIMEZONE = "Australia/Tasmania"': 'CELERY_TASK_DEFAULT_QUEUE = "bulk"\n'
        'CELERY_ACCEPT_CONTENT = ["yaml"]'
    },
}
SAID = {
    "demoapp.tasks.add:y": "'y' is passed by name, and is not taken",
    "demoapp.tasks.delete_archived_widgets": "demoapp.tasks.delete_archived_widgets is gone",
    "demoapp.tasks.flaky:failures": "'failures' is passed by name, and is not taken",
    "demoapp.tasks.import_widgets:names": "argument 1 ('names') is one too many",
    "demoapp.tasks.mul": "demoapp.tasks.mul is gone",
    "demoapp.tasks.rename_widget:owner": "argument 2 was 'name', and would be taken as 'owner'",
    "demoapp.tasks.send_email_once": "its function is now demoapp.tasks.welcome",
    "demoapp.tasks.work:unit": "'unit' is missing in the message",
    "queue:celery": "the queue 'celery' is not declared any more",
    "beat:delete-archived-widgets": "the beat entry 'delete-archived-widgets' sends",
    "demoapp.tasks.add": " tasks were sent as application/json, which accept_content",
    "demoapp.tasks.welcome": "demoapp.tasks.welcome is new: old workers don't know it",
}
SENDS = """
from demoapp.tasks import welcome


def test_it():
    welcome.delay(1)
"""


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The example project, to be changed."""
    ignored = shutil.ignore_patterns(".broker", "__pycache__", "*.sqlite3", "celery-trace")
    return Path(shutil.copytree(EXAMPLE, tmp_path / "example", ignore=ignored))


def _check(example: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Check the contract of a copy, by the settings of the first file."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly",
         "--djcelery-contract=check", *options],
        cwd=example, env={**os.environ, "DATABASE": "sqlite"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.long
def test_the_example_breaks_in_each_way_and_each_can_be_planned(example: Path) -> None:
    green = _check(example, "--collect-only", "tests/test_outbox.py")
    assert green.returncode == 0, green.stdout + green.stderr
    assert "No message of the contract in celery-contract.json would break." in green.stdout

    for name, changes in BREAKS.items():
        text = (example / name).read_text()
        for before, after in changes.items():
            assert before in text, before
            text = text.replace(before, after)
        (example / name).write_text(text)
    (example / "test_sends.py").write_text(SENDS)
    red = _check(example, "test_sends.py", "--djcelery-contract-rolling=error")
    assert red.returncode == 1, red.stdout + red.stderr
    said = re.sub(r"\s+", " ", red.stdout)
    for text in SAID.values():
        assert text in said
    assert set(re.findall(r'planned\? "retired": {"(.+?)": "the reason"}', said)) == set(SAID)

    contract = json.loads((example / CONTRACT).read_text())
    retired = dict.fromkeys((*SAID, *contract["tasks"]), "planned")
    (example / CONTRACT).write_text(json.dumps({**contract, "retired": retired}))
    planned = _check(example, "test_sends.py", "--djcelery-contract-rolling=error")
    assert planned.returncode == 0, planned.stdout + planned.stderr
