"""Schedules as values: which decisions differ from those of an undisturbed single worker.

A run of a test is a line of decisions. At each of them a real system may go on in several ways,
numbered from 0, which is what an undisturbed single worker does. So a schedule is the decisions
that are not 0, and two schedules with the same ones are the same.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from string import ascii_lowercase
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy


#: Decides: returns the way to go on, for the number of a decision and that of its ways.
Way = Callable[[int, int], int]


@dataclass(frozen=True, slots=True)
class Schedule:
    """The deviations: the number of a decision, and the way that is taken there, in order."""

    deviations: tuple[tuple[int, int], ...] = ()

    def __len__(self) -> int:
        return len(self.deviations)

    @property
    def last(self) -> int:
        """The number of the last decision that deviates; -1 without one."""
        return self.deviations[-1][0] if self.deviations else -1

    def deviating(self, decision: int, way: int) -> Schedule:
        """The schedule that deviates once more, at a later decision."""
        return Schedule((*self.deviations, (decision, way)))


def with_one_fewer(schedule: Schedule) -> Iterator[Schedule]:
    """Schedules with one deviation fewer, which may fail for the same reason.

    Without a message that was delivered early, those after it come one delivery (which is one
    decision, or two) sooner, and are one place later among what is due.
    """
    for index, (number, way) in enumerate(schedule.deviations):
        before, after = schedule.deviations[:index], schedule.deviations[index + 1 :]
        yield Schedule(before + after)
        for sooner in (1, 2):
            moved = tuple((n - sooner, w + (w >= way)) for n, w in after)
            if moved and moved[0][0] >= number:
                yield Schedule(before + moved)


@dataclass(slots=True)
class Decision:
    """A decision of a run.

    ``what`` says between what, without values that differ between two runs of one schedule, such
    as ids and primary keys. ``ways`` is how many ways there are to go on.
    """

    what: str
    ways: int
    way: int


@dataclass(frozen=True, slots=True)
class Course:
    """The decisions of a run that is over."""

    what: tuple[str, ...]
    ways: tuple[int, ...]
    schedule: Schedule

    @classmethod
    def of(cls, decisions: Sequence[Decision]) -> Course:
        """Make it from the decisions of a run."""
        deviations = [(n, decision.way) for n, decision in enumerate(decisions) if decision.way]
        return cls(
            tuple(decision.what for decision in decisions),
            tuple(decision.ways for decision in decisions),
            Schedule(tuple(deviations)),
        )


class Decisions:
    """Decides in a run, and notes what was decided.

    Args:
        way: Returns the way to go on, for the number of a decision and that of its ways.
        expected: What each decision is between, as far as an earlier run shows it.
    """

    def __init__(self, way: Way, expected: Sequence[str] = ()) -> None:
        self.made: list[Decision] = []
        self.left: int | None = None
        """The first decision that is another than expected: the run can't follow its schedule."""
        self._way = way
        self.expected = expected

    def decide(self, what: str, ways: int) -> int:
        """Return which of the ways is taken.

        Once the run has left its schedule, it goes on as an undisturbed one: an error here would
        be raised in the middle of the project's code.
        """
        number, way = len(self.made), 0
        if self.left is None and number < len(self.expected) and self.expected[number] != what:
            self.left = number
        if self.left is None:
            way = self._way(number, ways)
            if way >= ways:
                self.left, way = number, 0
        self.made.append(Decision(what, ways, way))
        return way

    def undecided(self, number: int) -> None:
        """Note that a decision made no difference: there was only one way to go on."""
        self.made[number].ways, self.made[number].way = 1, 0

    def over(self) -> Course:
        """Note that the run is over, and return its course."""
        if self.left is None and len(self.made) < len(self.expected):
            self.left = len(self.made)
        return Course.of(self.made)


def follow(schedule: Schedule, expected: Sequence[str]) -> Decisions:
    """The decisions of a run that follows a schedule.

    Args:
        schedule: The schedule.
        expected: What each decision up to the last deviation is between.
    """
    ways = dict(schedule.deviations)
    return Decisions(lambda number, _: ways.get(number, 0), expected[: schedule.last + 1])


# Schedules beyond the bound, drawn and shrunk by Hypothesis -------------------------------

_SMALLER: Final = 200  # schedules that may be run to make one that fails smaller
_BATCH: Final = 200  # new schedules
_MORE: Final = 2  # decisions that a schedule may have beyond those of the undisturbed one


class _FailsError(Exception):
    """The schedule fails: always this one error, from one line, so that Hypothesis sees one bug."""


class _EnoughError(BaseException):
    """No more schedules may be run; Hypothesis lets this through at once."""


def can_draw() -> bool:
    """Whether Hypothesis is installed."""
    return find_spec("hypothesis") is not None


def draw(
    seed: int,
    run: Callable[[Way], bool],
    room: Callable[[], int],
    undisturbed: Course,
    fewest: int,
) -> None:
    """Run schedules that Hypothesis draws, and smaller ones once one of them fails.

    A schedule is drawn as the list of its deviations, since Hypothesis makes what it has found
    smaller by making lists shorter.

    Args:
        seed: What the draws depend on, the same in each run.
        run: Runs the schedule in which a function decides; returns whether it failed.
        room: How many more schedules may be run.
        undisturbed: The schedule without deviations.
        fewest: All schedules with fewer deviations have been run.
    """
    plans = _plans(undisturbed, fewest)
    batch, failed, before = 0, False, -1
    while room() > 0 and room() != before and not failed:
        before = room()
        failed = _batch(run, room, plans, seed + batch)
        batch += 1


def _plans(undisturbed: Course, fewest: int) -> SearchStrategy[list[tuple[int, int]]]:
    """Draws the numbers of decisions that deviate, and how, with at least so many of them."""
    from hypothesis import strategies

    end = len(undisturbed.ways)
    branching = [number for number, ways in enumerate(undisturbed.ways) if ways > 1]
    decisions = [*branching, *range(end, end + _MORE)]
    ways = strategies.integers(0, max(undisturbed.ways, default=1))
    return strategies.lists(
        strategies.tuples(strategies.sampled_from(decisions), ways),
        min_size=min(fewest, len(decisions)),
        unique_by=lambda drawn: drawn[0],
    )


def _batch(
    run: Callable[[Way], bool],
    room: Callable[[], int],
    plans: SearchStrategy[list[tuple[int, int]]],
    number: int,
) -> bool:
    """Draw some schedules, and return whether one failed; Hypothesis remembers all of them."""
    from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings

    size = min(room(), _BATCH)
    failed, smaller, until = False, _SMALLER, room() - size

    def drawn(deviations: list[tuple[int, int]]) -> None:
        nonlocal failed, smaller
        chosen = dict(deviations)

        def way(number: int, count: int) -> int:
            return 1 + chosen[number] % (count - 1) if number in chosen and count > 1 else 0

        smaller -= failed
        fails = run(way)
        if smaller <= 0 or (room() <= until and not (failed or fails)):
            raise _EnoughError
        if fails:
            failed = True
            raise _FailsError

    with suppress(_FailsError, _EnoughError):
        seed(number)(
            settings(
                # Some of those that it draws have been run before, and count for nothing.
                max_examples=size * 10,
                phases=(Phase.generate, Phase.shrink),
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                verbosity=Verbosity.quiet,
                report_multiple_bugs=False,
            )(given(plans)(drawn))
        )()
    return failed


# A schedule as the text that replays it: ``--djcelery-schedule=TOKEN`` --------------------
# A token names its test by six digits, so that the option alone selects it, and each decision up to
# the last deviation by two letters, so that a run that comes to another decision is noticed there:
# ``1f09ac-abxy2cd1``. A number after the letters is the way that was taken.

_UNDISTURBED: Final = "0"
_DECISION: Final = re.compile(r"([a-z]{2})(\d*)")
_LETTERS: Final = len(ascii_lowercase)


@dataclass(frozen=True, slots=True)
class Token:
    """What a token says: the test, and its decisions."""

    test: str
    decisions: tuple[tuple[str, int], ...]

    @classmethod
    def read(cls, text: str) -> Token:
        """Read a token, as `options` has checked it."""
        test, _, decisions = text.partition("-")
        read = [] if decisions == _UNDISTURBED else _DECISION.findall(decisions)
        return cls(test, tuple((letters, int(way or 0)) for letters, way in read))

    @classmethod
    def of(cls, nodeid: str, course: Course) -> Token:
        """Make the token of a run of a test."""
        ways = dict(course.schedule.deviations)
        until = course.schedule.last + 1
        decisions = [
            (_letters(what), ways.get(number, 0)) for number, what in enumerate(course.what[:until])
        ]
        return cls(name_of(nodeid), tuple(decisions))

    def __str__(self) -> str:
        shown = "".join(f"{letters}{way or ''}" for letters, way in self.decisions)
        return f"{self.test}-{shown or _UNDISTURBED}"

    @property
    def schedule(self) -> Schedule:
        """The schedule."""
        ways = enumerate(way for _, way in self.decisions)
        return Schedule(tuple((number, way) for number, way in ways if way))

    def left_at(self, decisions: Decisions) -> int | None:
        """The first decision at which a run did not follow it."""
        made = decisions.made
        for number, (letters, _) in enumerate(self.decisions):
            if number == len(made) or _letters(made[number].what) != letters:
                return number
        return decisions.left


def name_of(nodeid: str) -> str:
    """Six digits for a test, whatever folder pytest was started in."""
    return f"{zlib.crc32(nodeid.rpartition('/')[2].encode()) & 0xFFFFFF:06x}"


def _letters(what: str) -> str:
    number = zlib.crc32(what.encode()) % _LETTERS**2
    return ascii_lowercase[number // _LETTERS] + ascii_lowercase[number % _LETTERS]
