"""The figures of `celery_live_worker`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from pace import within
from runs import OURS, measured
from table import Row, duration

if TYPE_CHECKING:
    from figures import Repeats

START = 3.0  # seconds
FILE = "bench_live.py"


def live(repeats: Repeats) -> Iterator[Row]:
    """``celery -A proj worker``, over files."""
    with tempfile.TemporaryDirectory() as folder:
        figures = measured(
            FILE,
            keep=[OURS],
            count=repeats.live_tests,
            environment={"DATABASE_FILE": str(Path(folder, "test.sqlite3"))},
        )
    first, *others = figures.seconds("test_next_task", "setup")
    yield Row(
        what="live worker, over files: start to ready",
        ours=duration(first),
        **within(START, first),
    )
    yield Row(
        what=f"… times that {repeats.live_tests + 1} tests start it, and what the later ones wait",
        ours=f"{figures.raw['workers']}, and {duration(median(others))}",
        must="once",
        met=figures.raw["workers"] == 1,
    )
    yield Row(
        what="… `delay()` to `get()`",
        ours=duration(median(figures.raw["round_trip"])),
    )
