"""The figures of ``djcelery_redeliver``: what it costs while it is off, and what a report takes."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import TYPE_CHECKING

from runs import HERE, OURS, Cost, measured, run_pytest
from table import Row, duration

if TYPE_CHECKING:
    from figures import Repeats

UNUSED = 1e-6  # of a task, which takes some 200 times as long
SUITE = 2.2  # times
FILE = "bench_redelivery.py"
REPORT = "--djcelery-redeliver=report"
EXAMPLE = HERE.parent / "example_project"


def redelivery(repeats: Repeats) -> Iterator[Row]:
    """A task that is run once, one that is run twice, and a suite of tests."""
    count = repeats.inline_tasks
    raw = measured(f"{FILE}::test_unused", keep=[OURS], count=count).raw
    yield Row(
        what="`djcelery_redeliver`, added to each task while it is off",
        ours=duration(raw["unused"]),
        must=duration(UNUSED),
        met=raw["unused"] <= UNUSED and not raw["loaded"],
    )
    for test, what in (("test_add", "that adds"), ("test_write", "that updates a row")):
        once = measured(f"{FILE}::{test}", keep=[OURS], count=count).raw["seconds"]
        twice = measured(f"{FILE}::{test}", REPORT, keep=[OURS], count=count).raw["seconds"]
        yield Row(
            what=f"… with a report, a task {what}, run twice and compared, against once",
            today=duration(once),
            ours=duration(twice),
            ratio=f"{twice / once:.2f} times as long",
        )
    yield _suite(repeats)


def _suite(repeats: Repeats) -> Row:
    pairs = [(_example(), _example(REPORT)) for _ in range(repeats.audited_runs // 2 + 1)]
    factor = median(twice.processor / once.processor for once, twice in pairs)
    return Row(
        what="`djcelery_redeliver = report` over the example project's suite (processor)",
        today=duration(median(once.processor for once, _ in pairs)),
        ours=duration(median(twice.processor for _, twice in pairs)),
        ratio=f"{factor:.2f} times as long",
        must=f"at most {SUITE:g} times",
        met=factor <= SUITE,
    )


def _example(*options: str) -> Cost:
    return run_pytest(*options, "tests", keep=[OURS], folder=EXAMPLE)
