"""A schedule as the text that replays it: ``--djcelery-schedule=TOKEN``.

A token names its test by six digits, so that the option alone selects it, and each decision up to
the last deviation by two letters, so that a run that comes to another decision is noticed there:
``1f09ac-abxy2cd1``. A number after the letters is the way that was taken.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Final

from pytest_djcelery.exploration.schedules import Course, Decisions, Schedule

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
