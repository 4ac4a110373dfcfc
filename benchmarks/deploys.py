"""The figures of ``--djcelery-contract``."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pace import within
from runs import OURS, PROJECT, Cost, added, least, measured, run_pytest
from table import Row, both, duration

if TYPE_CHECKING:
    from figures import Repeats

SLOWER = 1.03  # times
CHECK = 1.0  # seconds
TASKS = 1000
FILE = "bench_deploys.py"
CONTRACT = "--djcelery-contract"


def deploys(repeats: Repeats) -> Iterator[Row]:
    """A suite that sends, with the contract updated and without, and a check of many tasks."""
    for test, what in (
        ("test_without_fixture", "a suite that sends {:,} messages, with a contract, against none"),
        ("test_with_outbox", "… whose tests use `celery_outbox`"),
    ):
        yield _suite(repeats, test, what)
    yield _check(repeats)


def _suite(repeats: Repeats, test: str, what: str) -> Row:
    off, on = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(repeats.contract_runs):
            for updates in (number % 2, (number + 1) % 2):
                path = Path(folder, f"{number}.json")
                options = [f"{CONTRACT}=update", f"{CONTRACT}-file={path}"] if updates else []
                (on if updates else off).append(_tests(repeats.messages, test, *options))
    # The least of each, in turns: other work on the machine only adds to it.
    before, after = least(off).processor, least(on).processor
    return Row(
        what=f"{what.format(repeats.messages)} (processor)",
        today=duration(before),
        ours=duration(after),
        ratio=f"{after / before:.3f} times as long",
        must=f"at most {SLOWER:.2f} times",
        met=after <= before * SLOWER,
    )


def _tests(count: int, test: str, *options: str) -> Cost:
    """What the tests cost, from the first that ends to the last."""
    raw = measured(f"{FILE}::{test}", *options, keep=[OURS], count=count).raw
    first, last = raw["phases"]["tests"]
    return Cost(clock=last[0] - first[0], processor=last[1] - first[1])


def _check(repeats: Repeats) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "celery-contract.json")

        def run(*options: str) -> Cost:
            return run_pytest(
                "bench_one_test.py", "--collect-only", *options, keep=[OURS], folder=PROJECT,
                environment={"BENCHMARK_TASKS": str(TASKS)},
            )  # fmt: skip

        file = f"{CONTRACT}-file={path}"
        run(f"{CONTRACT}=update", file)
        written = json.loads(path.read_text())["tasks"]
        assert len(written) > TASKS, written.keys()
        ours = added(run, lambda: run(f"{CONTRACT}=check", file), max(3, repeats.processes // 3))
    return Row(
        what=f"the check of {TASKS:,} tasks without a test, their import included",
        ours=both(ours),
        **within(CHECK, ours.processor, "of the processor"),
    )
