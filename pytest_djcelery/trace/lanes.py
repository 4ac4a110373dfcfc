"""The picture: an SVG with a lane each for the test, its transactions, queues, workers and beat."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Final, NamedTuple

from pytest_djcelery.messages.events import Ended
from pytest_djcelery.trace import wording

if TYPE_CHECKING:
    from pytest_djcelery.messages.journal import Recorded
    from pytest_djcelery.trace.steps import Step
    from pytest_djcelery.trace.story import Story


TOP: Final = 30  # pixels of the axis, above the lanes
LANE: Final = 46  # pixels of a lane
_BAR: Final = 20  # pixels of a bar
_LEAST_BAR: Final = 4.0  # pixels of a bar that took no time
_SHALLOWEST: Final = 8  # pixels of a bar in many others
_NUMBERED: Final = 400  # steps; in a picture of more, numbers would hide each other

_TEST: Final = "test"
_TRANSACTION: Final = "transaction"
_EAGER: Final = "eager mode"
_BEAT: Final = "beat"


class Picture(NamedTuple):
    """The SVG, and the names of its lanes from top to bottom."""

    svg: str
    lanes: tuple[str, ...]


def picture(story: Story, shown: Sequence[int]) -> Picture:
    """Draw the steps of a story.

    Args:
        story: What happened.
        shown: The places of the steps to draw, in order.
    """
    return _Drawing(story, shown).picture()


class _Drawing:
    def __init__(self, story: Story, shown: Sequence[int]) -> None:
        self._story = story
        self._shown = shown
        self._kept = set(shown)
        steps = [story.steps[place] for place in shown]
        moments = [
            entry
            for step in steps
            for entry in (step.began, step.ran, step.ended)
            if entry is not None
        ]
        self._axis = Axis(moments, story.real_time)
        self._numbered = len(shown) <= _NUMBERED
        self._workers = self._named_workers(steps)
        self._lanes = self._ordered_lanes(steps)

    # Lanes ----------------------------------------------------------------------------------

    @staticmethod
    def _named_workers(steps: Sequence[Step]) -> dict[int, str]:
        """The lanes of the threads, and connections of processes, that have run messages."""
        threads = list(dict.fromkeys(step.began[1][2] for step in steps if step.kind == "run"))
        if len(threads) == 1:
            return {threads[0]: "worker"}
        return {thread: f"worker {number}" for number, thread in enumerate(threads, 1)}

    def _ordered_lanes(self, steps: Sequence[Step]) -> dict[str, int]:
        names = [_TEST]
        if any(step.kind in ("atomic", "hook") for step in steps):
            names.append(_TRANSACTION)
        published = (step for step in steps if step.kind == "publish")
        names += dict.fromkeys(map(_queue, published))
        names += self._workers.values()
        if any(step.kind == "eager" for step in steps):
            names.append(_EAGER)
        if any(step.entry is not None for step in steps):
            names.append(_BEAT)
        return {name: number for number, name in enumerate(names)}

    def _lane(self, step: Step) -> str:
        """The lane in which a step is drawn."""
        if step.kind == "run":
            return self._workers.get(step.began[1][2], _TEST)
        if step.kind == "note":
            return self._sender(step)
        lanes = {"atomic": _TRANSACTION, "hook": _TRANSACTION, "eager": _EAGER}
        return _queue(step) if step.kind == "publish" else lanes.get(step.kind, _TEST)

    def _sender(self, step: Step) -> str:
        """The lane of what sent a message."""
        if step.entry is not None:
            return _BEAT
        return _TEST if step.parent < 0 else self._lane(self._story.steps[step.parent])

    def _y(self, lane: str) -> float:
        """The middle of a lane."""
        return TOP + LANE * (self._lanes.get(lane, 0) + 0.5)

    # The picture ----------------------------------------------------------------------------

    def picture(self) -> Picture:
        width, height = round(self._axis.width), TOP + LANE * len(self._lanes) + 6
        size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        parts = [
            f'<svg role="group" aria-labelledby="picture" {size}>',
            '<title id="picture">What happened in the test, from left to right</title>',
            _MARKERS,
            *self._background(width, height),
            *self._arrows(),
        ]
        for place in self._shown:
            step = self._story.steps[place]
            if step.kind != "line":
                parts.append(self._linked(place, step, "".join(self._shape(place, step))))
        parts.append("</svg>")
        return Picture("\n".join(parts), tuple(self._lanes))

    def _background(self, width: int, height: int) -> Iterator[str]:
        for number in range(len(self._lanes)):
            if number % 2 == 0:
                y = TOP + LANE * number
                yield f'<rect class="lane" x="0" y="{y}" width="{width}" height="{LANE}"/>'
        for tick in self._axis.ticks:
            yield f'<text class="tick" x="{tick.x:.1f}" y="14">{tick.label} ms</text>'
            yield _line("grid", tick.x, TOP - 10, tick.x, height)
        for fold in self._axis.folds:
            yield (
                f'<g class="fold"><title>{escape(fold.label)} left out</title>'
                f'<path d="{_zigzag(fold.x - 4, height)}"/>'
                f'<path d="{_zigzag(fold.x + 4, height)}"/>'
                f'<text x="{fold.x:.1f}" y="27">{escape(fold.label)}</text></g>'
            )

    def _arrows(self) -> Iterator[str]:
        for place in self._shown:
            step = self._story.steps[place]
            if step.message is None or step.kind == "note":
                continue
            x, y = self._axis.x(step.began), self._y(self._lane(step))
            if step.kind == "run" and step.parent in self._kept:
                sent = self._story.steps[step.parent]
                later = " later" if step.message.eta is not None else ""
                start = self._axis.x(sent.began), self._y(self._lane(sent))
                yield _line(f"arrow{later}", start[0] + 5, start[1], x - 1, y)
            elif step.kind != "run":
                yield _line("sends", x, self._y(self._sender(step)), x, y)

    def _shape(self, place: int, step: Step) -> Iterator[str]:
        x, y = self._axis.x(step.began), self._y(self._lane(step))
        if step.kind == "publish":
            waits = " waits" if self._story.never_ran(place) else ""
            yield f'<circle class="message{waits}" cx="{x:.1f}" cy="{y}" r="5"/>'
        elif step.kind == "note":
            yield f'<path class="note" d="M{x - 5:.1f} {y - 5}l10 10m0 -10l-10 10"/>'
        elif step.kind == "hook":
            yield f'<path class="hook" d="M{x:.1f} {y - 6}l6 6l-6 6l-6 -6z"/>'
            if step.ran is not None:
                start = self._axis.x(step.ran)
                yield _line("until", x, y, start, y)
                yield self._bar(step, start, y, _BAR / 2)
        else:
            yield self._bar(step, x, y, max(_BAR - 5 * self._nested(step), _SHALLOWEST))

    def _bar(self, step: Step, start: float, y: float, size: float) -> str:
        end = start + _LEAST_BAR * 4 if step.ended is None else self._axis.x(step.ended)
        open_end = " open" if step.ended is None else ""
        return (
            f'<rect class="bar {step.kind}{open_end}" x="{start:.1f}" y="{y - size / 2:.1f}" '
            f'width="{max(end - start, _LEAST_BAR):.1f}" height="{size:.1f}" rx="3"/>'
        )

    def _nested(self, step: Step) -> int:
        """In how many others of its lane it ran."""
        lane, count, above = self._lane(step), 0, step.parent
        while above >= 0:
            around = self._story.steps[above]
            inside = around.ended is None or around.ended[1][0] > step.began[1][0]
            count += around.kind == step.kind and inside and self._lane(around) == lane
            above = around.parent
        return count

    def _linked(self, place: int, step: Step, shape: str) -> str:
        text = self._story.what(place)
        if outcome := self._story.outcome(place):
            text = f"{text}: {outcome}"
        bad = ' class="bad"' if self._story.failed(place) else ""
        if isinstance(step.end, Ended) and step.end.state == "RETRY":
            bad = ' class="again"'
        shape += self._number(step)
        return f'<a href="#s{place}"{bad}><title>{escape(text)}</title>{shape}</a>'

    def _number(self, step: Step) -> str:
        if not self._numbered or step.message is None or step.kind == "note":
            return ""
        x, y = self._axis.x(step.began), self._y(self._lane(step)) - _BAR / 2 - 2
        x -= 5 if step.kind == "publish" else 0
        number = escape(self._story.numbers.of(step.message.id))
        return f'<text class="number" x="{x:.1f}" y="{y:.1f}" aria-hidden="true">{number}</text>'


def _queue(step: Step) -> str:
    message = step.message
    name = message.queue or message.exchange or "" if message is not None else ""
    return f"queue {name}".rstrip()


def _line(kind: str, x: float, y: float, to_x: float, to_y: float) -> str:
    return f'<line class="{kind}" x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}"/>'


def _zigzag(x: float, height: int) -> str:
    turns = "".join(f"l{3 if turn % 2 == 0 else -3} 6" for turn in range((height - TOP) // 6))
    return f"M{x:.1f} {TOP}{turns}"


_MARKERS: Final = (
    '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
    'orient="auto"><path class="head" d="M0 0L8 4L0 8z"/></marker></defs>'
)


# The axis of time, folded where nothing happened ------------------------------------------
# Moments keep the order of the journal. A pause is as long as it was, within limits, so that a
# hundredth of a millisecond can be seen and a minute fits; where the clock was moved, or nothing
# happened for long, the axis is folded, and the fold says by how much.

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
