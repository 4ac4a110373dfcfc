"""Schedules as values: which decisions differ from those of an undisturbed single worker.

A run of a test is a line of decisions. At each of them a real system may go on in several ways,
numbered from 0, which is what an undisturbed single worker does. So a schedule is the decisions
that are not 0, and two schedules with the same ones are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass


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

    def __init__(self, way: Callable[[int, int], int], expected: Sequence[str] = ()) -> None:
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
        """Note that a decision made no difference: there was but one way to go on."""
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
