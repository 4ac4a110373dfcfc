"""What is recorded of the losses of prefork workers is true, and is kept as it was recorded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract import record_losses
from tests.contract.losses import truth
from tests.support.services import require

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


def test_a_record_that_is_no_longer_true_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truth, "read", lambda: {"5.7 redis": {"a case": {"rows": ["first"]}}})
    assert record_losses.compare({"5.7 redis": {"a case": {"rows": ["first"]}}}) == []
    [difference] = record_losses.compare({"5.7 redis": {"a case": {"rows": []}}})
    assert difference.splitlines() == [
        "5.7 redis: a case",
        '  recorded {"rows": ["first"]}',
        '  now      {"rows": []}',
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


def test_every_broker_agrees_in_every_case() -> None:
    records = truth.read()
    for where, record in records.items():
        version, _, _ = where.partition(" ")
        assert record == records[f"{version} redis"], where
