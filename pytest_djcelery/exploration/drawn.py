"""Schedules beyond the bound, which Hypothesis draws; one that fails is made smaller by it."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Final

_SMALLER: Final = 200  # schedules that may be run to make one that fails smaller


class _FailsError(Exception):
    """The schedule fails: always this one error, from one line, so that Hypothesis sees one bug."""


class _EnoughError(BaseException):
    """No more schedules may be run; Hypothesis lets this through at once."""


def can_draw() -> bool:
    """Whether Hypothesis is installed."""
    return find_spec("hypothesis") is not None


class Draws:
    """Draws with Hypothesis.

    Args:
        seed: What the draws depend on, the same in each run.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __call__(
        self, run: Callable[[Callable[[int, int], int]], bool], room: Callable[[], int]
    ) -> None:
        """See `search.Draws`."""
        from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings, strategies

        left = room()
        if left <= 0:
            return
        failed, smaller = False, _SMALLER

        def drawn(data: Any) -> None:
            nonlocal failed, smaller
            smaller -= failed
            if (room() <= 0 and not failed) or smaller < 0:
                raise _EnoughError

            def way(_number: int, ways: int) -> int:
                return data.draw(strategies.integers(0, ways - 1)) if ways > 1 else 0

            if run(way):
                failed = True
                raise _FailsError

        try:
            seed(self._seed)(
                settings(
                    # Some of those that it draws have been run before, and count for nothing.
                    max_examples=left * 10,
                    phases=(Phase.generate, Phase.shrink),
                    database=None,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                    verbosity=Verbosity.quiet,
                    report_multiple_bugs=False,
                )(given(strategies.data())(drawn))
            )()
        except (_FailsError, _EnoughError):
            pass
