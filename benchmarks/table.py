"""One row for each figure, and the Markdown that shows them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runs import Cost

HEAD = ("what", "today", "pytest-djcelery", "ratio", "must", "met?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure."""

    what: str
    ours: str
    today: str = ""
    ratio: str = ""
    must: str = ""
    met: bool | None = None  # None: for information
    beside: str = ""  # what there is to say where it isn't met


def markdown(rows: Iterable[Row]) -> str:
    """The table."""
    lines = [_line(HEAD), _line(["---"] * len(HEAD))]
    for row in rows:
        met = {True: "yes", False: "**no**", None: ""}[row.met]
        if row.met is False and row.beside:
            met = f"{met}; {row.beside}"
        lines.append(_line([row.what, row.today, row.ours, row.ratio, row.must, met]))
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def duration(seconds: float) -> str:
    """Seconds in the unit that a person would choose, to three digits."""
    for unit, factor in (("s", 1), ("ms", 1e3), ("µs", 1e6)):
        if abs(seconds) * factor >= 1:
            return f"{_three_digits(seconds * factor)} {unit}"
    return f"{seconds * 1e6:.2f} µs"


def both(cost: Cost) -> str:
    """Wall-clock time and processor time."""
    return f"{duration(cost.clock)} (processor: {duration(cost.processor)})"


def times(factor: float) -> str:
    """A ratio, in the words used for speed."""
    return f"{_three_digits(factor)} times"


def _three_digits(value: float) -> str:
    digits = len(str(int(abs(value))))
    return f"{value:,.{max(0, 3 - digits)}f}"
