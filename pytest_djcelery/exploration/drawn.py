"""Schedules beyond the bound, which Hypothesis draws; one that fails is made smaller by it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

    from pytest_djcelery.exploration.schedules import Course

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


class Draws:
    """Draws with Hypothesis.

    A schedule is drawn as the list of its deviations, since Hypothesis makes what it has found
    smaller by making lists shorter.

    Args:
        seed: What the draws depend on, the same in each run.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __call__(
        self,
        run: Callable[[Callable[[int, int], int]], bool],
        room: Callable[[], int],
        undisturbed: Course,
        fewest: int,
    ) -> None:
        """See `search.Draws`."""
        plans = _plans(undisturbed, fewest)
        batch, failed, before = 0, False, -1
        while room() > 0 and room() != before and not failed:
            before = room()
            failed = _batch(run, room, plans, self._seed + batch)
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
    run: Callable[[Callable[[int, int], int]], bool],
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
