"""The figures of exploring schedules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from runs import OURS, Cost, least, measured
from table import Row, duration

if TYPE_CHECKING:
    from figures import Repeats

# The limits.
A_SECOND = 100  # schedules
WITHIN = 50  # schedules
KILOBYTES = 8192  # more than after a tenth of them: what Hypothesis needs for a batch, twice
FILE = "bench_explore.py"
BUGS = {"stock": "an order", "mail": "a redelivery", "import": "a lost host"}


def explore(repeats: Repeats) -> Iterator[Row]:
    """One test, run once for each schedule."""
    raw = measured(FILE, keep=[OURS, "hypothesispytest"], count=repeats.schedules).raw
    each = least([Cost(clock=clock, processor=spent) for clock, spent in raw["explored"]])
    yield Row(
        what="`celery_explore`, a test of five tasks that write to SQLite, schedules a second",
        ours=f"{1 / each.clock:,.0f} (of the processor: {1 / each.processor:,.0f})",
        ratio=f"{duration(each.clock)} each",
        must=f"at least {A_SECOND}",
        met=each.processor <= 1 / A_SECOND,
    )
    found = raw["explored_found"]
    yield Row(
        what=f"… the bugs that only {', '.join(BUGS.values())} shows, found by schedule",
        ours=", ".join(str(found[name]) for name in BUGS),
        must=f"at most {WITHIN}",
        met=all(found[name] <= WITHIN for name in BUGS),
    )
    growth = raw["explored_growth"]
    yield Row(
        what=f"… {repeats.schedules:,} schedules, memory more than after a tenth of them",
        ours=f"{growth:,} kB",
        must="flat",
        met=growth <= KILOBYTES,
    )
