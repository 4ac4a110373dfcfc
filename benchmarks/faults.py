"""The figures of ``celery_faults``: what it costs where it is not used, and what where it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from runs import OURS, measured
from table import Row, duration

if TYPE_CHECKING:
    from figures import Repeats

FILE = "bench_faults.py"
MOST = 1.05  # times what a task takes without


def faults(repeats: Repeats) -> Iterator[Row]:
    """A task of a test without faults, and one that has had its fault."""
    count = repeats.inline_tasks
    loaded = measured(f"{FILE}::test_unused", keep=[OURS], count=count).raw["loaded"]
    yield Row(
        what="modules of `celery_faults` that a test loads which does not use it",
        ours=str(len(loaded)),
        must="none",
        met=not loaded,
    )
    raw = measured(f"{FILE}::test_used", keep=[OURS], count=count).raw
    for name, what in (
        ("over", "a task whose fault has happened (processor)"),
        ("other", "a task with a fault for another call of it (processor)"),
    ):
        factor = raw[name] / raw["plain"]
        yield Row(
            what=f"`celery_faults`: {what}",
            today=duration(raw["plain"]),
            ours=duration(raw[name]),
            ratio=f"{factor:.2f} times as long",
            must=f"at most {MOST:g} times",
            met=factor <= MOST,
        )
