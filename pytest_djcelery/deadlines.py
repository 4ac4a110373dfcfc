"""Deadlines on a clock that no test can freeze."""

from __future__ import annotations

import time

from pytest_djcelery.errors import BadOptionError


class Deadline:
    """A moment ``seconds`` from now, on the monotonic clock.

    freezegun replaces every *module* attribute that is ``time.monotonic``; a class
    attribute stays what it was.

    Raises:
        BadOptionError: ``seconds`` are none.
    """

    __slots__ = ("_end", "seconds")
    _clock = staticmethod(time.monotonic)

    def __init__(self, seconds: float) -> None:
        self.seconds = _number(seconds)
        self._end = self._clock() + seconds

    @property
    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._end - self._clock())

    @property
    def passed(self) -> bool:
        """Whether nothing is left."""
        return self.remaining == 0.0


def _number(seconds: object) -> float:
    if isinstance(seconds, int | float):
        return seconds
    msg = f"timeout={seconds!r}: expected seconds, a number."
    raise BadOptionError(msg)
