"""The figures of ``--djcelery-audit``."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from pace import within
from runs import OURS, PROJECT, Cost, measured, run_pytest
from table import Row, duration

if TYPE_CHECKING:
    from figures import Repeats

SLOWER = 1.10  # times
REPORT = 1.0  # seconds
KEPT = 0.5  # memory blocks for each hook; pytest itself keeps a hundred for each test
MANY = 5  # times as many hooks, to see what they keep
FILE = "bench_audit.py"
AUDIT = "--djcelery-audit"


def audit(repeats: Repeats) -> Iterator[Row]:
    """A suite under the audit and without, and the report of many hooks."""
    yield _suite(repeats)
    yield from _hooks(repeats.hooks)


def _suite(repeats: Repeats) -> Row:
    count = repeats.database_tests
    off, on = [], []
    for _ in range(repeats.audited_runs):
        off.append(_tests(count))
        on.append(_tests(count, AUDIT))
    # Run next to each other, since the machine has other things to do.
    factor = median(
        audited.processor / without.processor for audited, without in zip(on, off, strict=True)
    )
    return Row(
        what=f"{count:,} database tests with the audit on, against off (processor)",
        today=duration(median(each.processor for each in off)),
        ours=duration(median(each.processor for each in on)),
        ratio=f"{factor:.2f} times as long",
        must=f"at most {SLOWER:.2f} times",
        met=factor <= SLOWER,
    )


def _tests(count: int, *options: str) -> Cost:
    """What the tests cost, from the first that ends to the last, their reports included."""
    raw = measured(f"{FILE}::test_of_a_suite", *options, keep=[OURS], count=count).raw
    first, last = raw["phases"]["tests"]
    return Cost(clock=last[0] - first[0], processor=last[1] - first[1])


def _hooks(count: int) -> Iterator[Row]:
    some, many = _reported(count), _reported(count * MANY)
    yield Row(
        what=f"audit: the report of a suite that registers {count:,} hooks, and its HTML page",
        ours=duration(some["report"]),
        **within(REPORT, some["report"]),
    )
    kept = (many["blocks"] - some["blocks"]) / (count * (MANY - 1))
    yield Row(
        what=f"… blocks of memory that each of {count * MANY:,} keeps to the end of the run",
        ours=f"{kept:.2f}",
        must="bounded",
        met=kept < KEPT,
    )


def _reported(count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        output, page = Path(folder, "figures.json"), Path(folder, "audit.html")
        run_pytest(
            "-p", "probe_audit", AUDIT, f"--djcelery-audit-report={page}", f"{FILE}::test_hooks",
            keep=[OURS], folder=PROJECT,
            environment={"BENCHMARK_COUNT": str(count), "BENCHMARK_OUTPUT": str(output)},
        )  # fmt: skip
        figures: dict[str, Any] = json.loads(output.read_text())
        return figures
