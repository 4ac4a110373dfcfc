"""Limits in seconds, and what they come to at the pace of this machine.

They were set on a machine on which a task takes Celery's eager mode 92 µs. On a slower one all
takes longer, Celery as well as this plugin. Whether a limit is met is said of the limit as it was
set; where it isn't, the table also says whether it is at this machine's pace.
"""

from __future__ import annotations

from functools import cache
from typing import TypedDict

from runs import measured
from table import duration

EAGER = 92e-6  # seconds of processor time, with Python 3.11
COUNT = 2000


class Limited(TypedDict):
    """Two columns of the table."""

    must: str
    met: bool
    beside: str


@cache  # until the next group of figures: the pace of a busy machine changes
def eager() -> float:
    """Seconds of processor time that a task takes in Celery's eager mode, without this plugin."""
    costs = measured("bench_inline.py::test_eager_delay", keep=(), count=COUNT).raw["eager"]
    return float(min(costs))


def slower() -> float:
    """How many times as long things take here as where the limits were set, at least once."""
    return max(1.0, eager() / EAGER)


def within(limit: float, seconds: float, unit: str = "") -> Limited:
    """What a `Row` shows of a limit, and whether it is met here.

    Args:
        limit: Seconds, where the limits were set.
        seconds: What was measured.
        unit: What kind of seconds, to follow the limit.
    """
    here = limit * slower()
    said = "yes" if seconds <= here else "no"
    return Limited(
        must=" ".join(filter(None, [duration(limit), unit])),
        met=seconds <= limit,
        beside=f"at this machine's pace, {duration(here)}: {said}",
    )
