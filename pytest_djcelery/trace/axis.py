"""Where on the picture a moment lies: an axis of time that is folded where nothing happened.

Moments keep the order of the journal. A pause is as long as it was, within limits, so that a
hundredth of a millisecond can be seen and a minute fits; where the clock was moved, or nothing
happened for long, the axis is folded, and the fold says by how much.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

from pytest_djcelery.trace import wording

if TYPE_CHECKING:
    from pytest_djcelery.messages.journal import Recorded

_ROOM: Final = 720  # pixels for all pauses together, as far as they are in proportion
_CROWDED: Final = 9000  # pixels; many moments come closer to each other
_CLOSEST: Final = 1.5  # pixels between two moments, where there are very many
_APART: Final = 14.0  # pixels between two moments, where there are few
_LONGEST: Final = 160.0  # pixels of a pause before it is folded
_SECOND: Final = 1000.0  # milliseconds; what is shorter is never folded
_FOLD: Final = 44.0  # pixels of a fold
_MOVED: Final = 0.5  # seconds by which a clock differs from real time if it was moved
MARGIN: Final = 14.0  # pixels before the first moment and after the last


class Fold(NamedTuple):
    """A place at which the axis leaves out time."""

    x: float  # of its middle
    label: str  # how much


class Tick(NamedTuple):
    """A place at which the axis names the time."""

    x: float
    label: str


class Axis:
    """The horizontal places of the moments of a story.

    Args:
        moments: All of them, in any order.
        real_time: What to add to the time of the journal for the time of day.
    """

    def __init__(self, moments: Iterable[Recorded], real_time: float) -> None:
        found = {entry[1][0]: entry for entry in moments}
        self._moments = [found[ticks] for ticks in sorted(found)]
        self._real_time = real_time
        self.folds: list[Fold] = []
        self.ticks: list[Tick] = []
        self._x: dict[int, float] = {}
        self._lay_out()

    def x(self, entry: Recorded) -> float:
        """The place of a moment, in pixels from the left."""
        return self._x[entry[1][0]]

    @property
    def width(self) -> float:
        """How wide the picture is."""
        return (max(self._x.values()) if self._x else 0.0) + MARGIN + 40

    def _lay_out(self) -> None:
        if not self._moments:
            return
        first = self._moments[0]
        total = max((self._moments[-1][1][0] - first[1][0]) / 1e6, 1e-6)
        scale = _ROOM / total  # pixels of a millisecond
        apart = max(_CLOSEST, min(_APART, _CROWDED / len(self._moments)))
        x, before, labelled = MARGIN, first, -1e9
        for moment in self._moments:
            pause = (moment[1][0] - before[1][0]) / 1e6
            moved = self._moved(moment) - self._moved(before)
            space = max(pause * scale, apart) if moment is not before else 0.0
            if abs(moved) > _MOVED:
                self.folds.append(Fold(x + _FOLD / 2, wording.duration(moved)))
                space = _FOLD
            elif space > _LONGEST and pause > _SECOND:
                self.folds.append(Fold(x + _FOLD / 2, wording.duration(pause / 1000)))
                space = _FOLD
            x += space
            self._x[moment[1][0]] = x
            if x - labelled > 110:  # noqa: PLR2004 - pixels, for a label
                self.ticks.append(Tick(x, f"{(moment[1][0] - first[1][0]) / 1e6:.1f}"))
                labelled = x
            before = moment

    def _moved(self, moment: Recorded) -> float:
        """By how many seconds the clock was off real time."""
        off = moment[1][1] - moment[1][0] / 1e9 - self._real_time
        return off if abs(off) > _MOVED else 0.0
