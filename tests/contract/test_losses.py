"""A worker of one process loses a task as real ones do, in each case that is recorded of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.contract import record_losses
from tests.contract.losses import truth
from tests.support.services import require

if TYPE_CHECKING:
    from tests.support.project import Project

HERE = Path(__file__).parent / "losses"
ROOT = Path(__file__).parents[2]
#: Of the record, those that are looked at again: an early and a late acknowledgement, a redelivery,
#: and a host.
ASKED_AGAIN = (
    "chain, killed at start, atomic []",
    "single, killed at charge, atomic [acks_late reject_on_worker_lost]",
    "header, hard at charge, atomic [acks_late acks_on_failure_or_timeout=False]",
    "body, host at charge, atomic [acks_late]",
)


@pytest.mark.parametrize("broker", record_losses.BROKERS)
def test_the_record_is_still_true(broker: str) -> None:
    require("redis")
    require(broker)
    asked = subprocess.run(
        [
            sys.executable, "-m", "tests.contract.record_losses",
            "--check", "--broker", broker, *ASKED_AGAIN,
        ],
        cwd=ROOT, check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (asked.returncode, asked.stdout) == (0, ""), asked.stderr


def prepare(project: Project) -> None:
    """Write the project that the record was made with."""
    for path in (HERE / "project").rglob("*.py"):
        name = path.relative_to(HERE / "project").with_suffix("")
        if name.name != "recorded":
            project.write(**{str(name): path.read_text()})
    project.write(test_losses=(HERE / "in_one_process.py").read_text())


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("worker", ["celery_inline", "celery_worker"])
def test_it_is_lost_as_recorded(
    project: Project, monkeypatch: pytest.MonkeyPatch, worker: str
) -> None:
    recorded = truth.read()[f"{record_losses.celery()} redis"]
    prepare(project)
    found = project.path / "found.jsonl"
    monkeypatch.setenv("LOSSES_CASES", json.dumps(list(recorded)))
    monkeypatch.setenv("LOSSES_FOUND", str(found))
    monkeypatch.setenv("LOSSES_WORKER", worker)
    result = project.run("", "test_losses.py")
    result.assert_outcomes(passed=len(recorded))
    outcomes = dict(map(json.loads, found.read_text().splitlines()))
    assert outcomes == recorded
