"""What is recorded of the losses of prefork workers is true, and is kept as it was recorded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.contract import record_losses
from tests.contract.losses import declared, truth
from tests.contract.losses.project.shop.cases import CASES, PLACES
from tests.support.services import require, url

if TYPE_CHECKING:
    from collections.abc import Iterable

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
#: Those in which a live worker of the plugin, or its child, is really killed.
KILLED = (
    "single, killed at start, atomic []",
    "single, killed at charge, atomic [acks_late reject_on_worker_lost]",
    "single, host at charge, atomic [acks_late]",
    "chain, host at start, atomic []",
    "chain, killed at end, autocommit [acks_late]",
    "header, killed at charge, atomic []",
    "body, killed at charge, atomic [acks_late reject_on_worker_lost]",
)


def the_record() -> truth.Record:
    """Return what is recorded of the installed Celery; skip where that is nothing."""
    version = record_losses.celery()
    record = truth.read().get(f"{version} redis")
    if record is None:
        pytest.skip(f"nothing is recorded of Celery {version}. Run: {record_losses.COMMAND}")
    return record


@pytest.mark.parametrize("broker", record_losses.BROKERS)
def test_the_record_is_still_true(broker: str) -> None:
    assert the_record()
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


def test_a_record_that_is_no_longer_true_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truth, "read", lambda: {"5.7 redis": {"a case": {"rows": ["first"]}}})
    assert record_losses.compare({"5.7 redis": {"a case": {"rows": ["first"]}}}) == []
    [difference] = record_losses.compare({"5.7 redis": {"a case": {"rows": []}}})
    assert difference.splitlines() == [
        "5.7 redis: a case: rows",
        '  recorded ["first"]',
        "  now      []",
    ]


def test_records_are_read_as_they_were_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(truth, "FILE", tmp_path / "losses.json")
    one, two = {"rows": ["first"]}, {"rows": []}
    records = {
        "5.6 redis": {"a": one, "b": one},
        "5.7 redis": {"a": one, "b": two, "of 5.7 alone": one},
    }
    made_with = dict.fromkeys(records, "celery 5")
    truth.write(records, made_with)
    assert (truth.read(), truth.versions()) == (records, made_with)


def test_what_is_recorded_anew_takes_the_place_of_what_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = truth.read()
    here = record_losses.celery()
    changed = {**the_record(), KILLED[0]: {"rows": ["another"]}}
    monkeypatch.setattr(truth, "FILE", tmp_path / "losses.json")
    truth.write(before, dict.fromkeys(before, "celery 5"))
    monkeypatch.setattr(record_losses, "_recorded", lambda _broker, _cases: changed)
    monkeypatch.setattr("sys.argv", ["record_losses"])
    assert record_losses.main() == 0
    after = dict.fromkeys([f"{here} redis", f"{here} rabbitmq"], changed)
    assert truth.read() == {**before, **after}
    assert truth.versions()[f"{here} redis"].startswith(f"celery {here}")
    monkeypatch.setattr(record_losses, "_recorded", lambda _broker, _cases: before[f"{here} redis"])
    record_losses.main()
    assert truth.read() == before


def test_cases_are_named_only_to_be_compared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("sys.argv", ["record_losses", KILLED[0]])
    with pytest.raises(SystemExit):
        record_losses.main()
    assert "a record is of all cases; name some with --check" in capsys.readouterr().err


def test_every_broker_agrees_in_every_case() -> None:
    records = truth.read()
    for where, record in records.items():
        version, _, _ = where.partition(" ")
        assert record == records[f"{version} redis"], where


def prepare(project: Project) -> None:
    """Write the project that the record was made with, in place of the usual one."""
    shutil.rmtree(project.path / "shop")
    for path in (HERE / "project").rglob("*.py"):
        name = path.relative_to(HERE / "project").with_suffix("")
        if name.name != "recorded":
            project.write(**{str(name): path.read_text()})
    project.write(test_losses=(HERE / "in_the_project.py").read_text())


def outcomes_of(
    project: Project, monkeypatch: pytest.MonkeyPatch, worker: str, cases: Iterable[str]
) -> truth.Record:
    """Return what a worker of the plugin makes of cases."""
    prepare(project)
    found = project.path / "found.jsonl"
    monkeypatch.setenv("LOSSES_CASES", json.dumps(list(cases)))
    monkeypatch.setenv("LOSSES_FOUND", str(found))
    monkeypatch.setenv("LOSSES_WORKER", worker)
    # What Celery calls of redis-py is deprecated there.
    ignored = ("-W", "ignore:Call to deprecated:DeprecationWarning")
    project.run("", "test_losses.py", *ignored).assert_outcomes(passed=len(PLACES))
    outcomes: truth.Record = {}
    for line in found.read_text().splitlines():
        outcomes |= json.loads(line)
    return outcomes


@pytest.mark.long
@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("worker", ["celery_inline", "celery_worker"])
def test_a_worker_of_one_process_loses_a_task_as_recorded(
    project: Project, monkeypatch: pytest.MonkeyPatch, worker: str
) -> None:
    recorded = the_record()
    differences = truth.differences(
        {name: declared.expected(CASES[name], outcome) for name, outcome in recorded.items()},
        outcomes_of(project, monkeypatch, worker, recorded),
    )
    assert not differences, "\n".join([f"{len(differences)} differences", *differences[:20]])


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("broker", record_losses.BROKERS)
def test_a_worker_of_one_process_loses_the_connection_of_its_host(
    project: Project, monkeypatch: pytest.MonkeyPatch, broker: str
) -> None:
    require(broker)
    project.ini(f"djcelery_broker = {url(broker)}")
    recorded = {name: each for name, each in the_record().items() if CASES[name].loss == "host"}
    found = outcomes_of(project, monkeypatch, "celery_worker", recorded)
    # RabbitMQ may still hand the first message of a case to the connection of the one before.
    for outcome in found.values():
        steps = outcome["victim"]["steps"]
        first = next(i for i, step in enumerate(steps) if step.startswith("before_start"))
        steps[first] = "before_start redelivered=False retries=0"
    differences = truth.differences(
        {name: declared.expected(CASES[name], outcome) for name, outcome in recorded.items()}, found
    )
    assert not differences, "\n".join(differences[:20])


@pytest.mark.long
@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("broker", ["filesystem", *record_losses.BROKERS])
def test_a_live_worker_is_killed_as_recorded(
    project: Project, monkeypatch: pytest.MonkeyPatch, broker: str
) -> None:
    if broker != "filesystem":
        require(broker)
        project.ini(f"djcelery_broker = {url(broker)}")
    monkeypatch.setenv("LOSSES_NOTES", str(project.path / "notes"))
    monkeypatch.setenv("LOSSES_DATABASE", str(project.path / "test.sqlite3"))
    # Starting and killing workers takes its time: once in all cases, then in each kind of them.
    cases = KILLED if broker == "filesystem" else KILLED[:3]
    recorded = the_record()
    differences = truth.differences(
        {name: recorded[name] for name in cases},
        outcomes_of(project, monkeypatch, "celery_live_worker", cases),
    )
    assert not differences, "\n".join(differences)


def test_what_is_declared_is_a_difference() -> None:
    recorded = the_record()
    for difference in declared.TABLE:
        cases = [case for case in CASES.values() if difference.of(case) and case.name in recorded]
        outcomes = {case.name: deepcopy(recorded[case.name]) for case in cases}
        for outcome in outcomes.values():
            difference.apply(outcome)
        # Not in each: a task's process and its worker may also report in the other order.
        assert any(outcome != recorded[name] for name, outcome in outcomes.items()), difference.what
