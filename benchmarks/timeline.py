"""The figures of the timeline: what it costs a test that passes, fails, or has a page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pace import within
from runs import OURS, measured
from table import Row, duration

if TYPE_CHECKING:
    from figures import Repeats

# The limits.
PASSING = 0.01  # of a task
FAILING = 0.100
PAGE = 0.002
OPENS = 1.0
FILE = "bench_timeline.py"


def timeline(repeats: Repeats) -> Iterator[Row]:
    """A task, a failing test of ten thousand messages, a page of ten."""
    raw = measured(FILE, keep=[OURS], count=repeats.inline_tasks).raw
    _, without = raw["passing"]
    yield Row(
        what="the timeline, added to a task of `celery_inline` in a test that passes",
        today=duration(without),
        ours=duration(raw["adds"]),
        ratio=f"{raw['adds'] / without:.2%} (of two runs in turns: {raw['added']:.1%})",
        must=f"at most {PASSING:.0%}",
        met=raw["adds"] <= PASSING * without,
    )
    yield Row(
        what="… the table of a failing test with 10,000 messages (processor)",
        ours=duration(raw["failing"]),
        **within(FAILING, raw["failing"]),
    )
    yield Row(
        what="… `--djcelery-trace=on`, the page of a test with ten messages (processor)",
        ours=duration(raw["page"]),
        **within(PAGE, raw["page"]),
    )
    if "opens" in raw:  # there is a Chromium
        yield Row(
            what="… a page of 2,000 messages, opened in Chromium, above one of ten",
            ours=duration(raw["opens"]),
            **within(OPENS, raw["opens"]),
        )
