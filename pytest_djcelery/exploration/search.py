"""Which schedules are run: all with few deviations first, as long as they fit.

The schedules form a tree: each has those below it that deviate once more, at a later decision. So
each is found exactly once, and after those with one number of deviations it is known how many have
one more. As long as these fit into the bound, they are run too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pytest_djcelery.exploration.schedules import (
    Course,
    Decisions,
    Schedule,
    Way,
    follow,
    with_one_fewer,
)

_SMALLER: Final = 100  # schedules that may be run to find one with fewer deviations


@dataclass(frozen=True, slots=True)
class Ran:
    """A run of the test by one schedule."""

    course: Course
    failed: bool


#: Runs schedules beyond the bound, as `draw` does with a seed.
Draws = Callable[[Callable[[Way], bool], Callable[[], int], Course, int], None]


@dataclass(slots=True)
class Seen:
    """What a search has seen so far.

    ``depth`` is the largest number of deviations of which all schedules were run, and ``drawn`` the
    number of schedules that were drawn beyond that.
    """

    schedules: int = 0
    failing: int = 0
    least: Course | None = None
    complete: bool = False
    depth: int = -1
    drawn: int = 0

    def text(self) -> str:
        """What was covered, in words."""
        count = f"{self.schedules:,} schedule{'s' * (self.schedules != 1)}"
        if self.complete:
            return f"{count}, all there are"
        deviations = f"{self.depth} deviation{'s' * (self.depth != 1)}"
        most = f"all of up to {deviations}" if self.depth else "the undisturbed one"
        return f"{count}: {most}" + (f", and {self.drawn:,} drawn" if self.drawn else "")


class Search:
    """Runs the schedules of one test.

    Args:
        run: Runs the test by decisions.
        examples: How many schedules to run at most.
        draws: Runs schedules beyond the bound.
    """

    def __init__(self, run: Callable[[Decisions], Ran], *, examples: int, draws: Draws) -> None:
        self._run = run
        self._examples = examples
        self._draws = draws
        self._known: set[int] = set()
        self._undisturbed: Course
        self.seen = Seen()
        self.late: set[Course] = set()
        """Those that failed when the fixtures were torn down."""

    def go(self) -> Seen:
        """Run them, and return what was seen."""
        level: list[tuple[Schedule, tuple[str, ...]]] = [(Schedule(), ())]
        while True:
            following = self._level(level)
            self.seen.depth += 1
            if following is None:
                break
            if not following:
                self.seen.complete = True
                break
            level = following
        if not self.seen.complete and not self.seen.failing:
            # One that fails would have no fewer deviations.
            self._draws(
                self._drawn,
                lambda: self._examples - self.seen.schedules,
                self._undisturbed,
                self.seen.depth + 1,
            )
            self._make_smaller()
        return self.seen

    def _level(
        self, level: list[tuple[Schedule, tuple[str, ...]]]
    ) -> list[tuple[Schedule, tuple[str, ...]]] | None:
        """Run schedules; return those with one deviation more, or ``None`` if they don't fit."""
        following: list[tuple[Schedule, tuple[str, ...]]] | None = []
        room = self._examples - self.seen.schedules - len(level)
        for schedule, expected in level:
            course = self._note(self._run(follow(schedule, expected)), schedule)
            if following is None:
                continue
            for number in range(schedule.last + 1, len(course.ways)):
                # A loop of millions of ways must not be listed to be found too long.
                ways = range(1, min(course.ways[number], room + 2))
                following += [(schedule.deviating(number, way), course.what) for way in ways]
                if len(following) > room:
                    following = None
                    break
        return following

    def failed_late(self, course: Course) -> None:
        """Note that a run has failed after all, since its fixtures could not be torn down."""
        self.late.add(course)
        self._note_failure(Ran(course, failed=True))

    def _note(self, ran: Ran, schedule: Schedule) -> Course:
        self._known.add(hash(schedule))
        if not schedule:
            self._undisturbed = ran.course
        self.seen.schedules += 1
        self._note_failure(ran)
        return ran.course

    def _note_failure(self, ran: Ran) -> None:
        seen = self.seen
        if ran.failed:
            seen.failing += 1
            if seen.least is None or len(ran.course.schedule) < len(seen.least.schedule):
                seen.least = ran.course

    def _make_smaller(self) -> None:
        """Try schedules with fewer deviations than the least that fails."""
        tries, least = 0, None
        while self.seen.least is not None and self.seen.least is not least:
            least = self.seen.least
            for schedule in with_one_fewer(least.schedule):
                if hash(schedule) not in self._known and tries < _SMALLER:
                    tries += 1
                    self._drawn(_as_far_as_possible(schedule))
                    if self.seen.least is not least:
                        break

    def _drawn(self, way: Way) -> bool:
        ran = self._run(Decisions(way))
        key = hash(ran.course.schedule)
        if key not in self._known:
            self._known.add(key)
            self.seen.schedules += 1
            self.seen.drawn += 1
            self._note_failure(ran)
        return ran.failed


def _as_far_as_possible(schedule: Schedule) -> Way:
    """Decides by a schedule that may not be one of this test."""
    plan = dict(schedule.deviations)
    return lambda number, ways: min(plan.get(number, 0), ways - 1)
