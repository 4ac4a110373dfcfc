"""Short numbers that stand for the ids of tasks in what a failing test prints."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from pytest_djcelery.messages.events import Published

if TYPE_CHECKING:
    from pytest_djcelery.messages.journal import Journal

_CIRCLED: Final = 20  # numbers that Unicode has in circles, one after the other
_ONE: Final = ord("①")
_IN_BRACKETS: Final = re.compile(r"\[([①-⑳]|#\d+)\]")
_LONGEST_ID: Final = 36  # characters, as many as those of a UUID


class ShortNumbers:
    """Numbers the tasks of a test in the order in which their first messages were published.

    Args:
        journal: The journal of the test.
        since: The position in it where the test begins.
    """

    def __init__(self, journal: Journal, since: int = 0) -> None:
        self._numbers: dict[str, int] = {}
        # In a block that is wider than a test, messages of earlier tests may run in this one.
        for start in (since, 0) if since else (0,):
            for published in journal.events(Published, start):
                self._numbers.setdefault(published.message.id, len(self._numbers) + 1)

    def named_in(self, text: str) -> frozenset[str]:
        """The ids of the tasks that a text names, by their ids or by their numbers in brackets."""
        if not text:
            return frozenset()
        numbers = set(_IN_BRACKETS.findall(text))
        return frozenset(
            task_id
            for task_id in self._numbers
            if str(task_id) in text or (numbers and self.of(task_id) in numbers)
        )

    def __len__(self) -> int:
        return len(self._numbers)

    def of(self, task_id: str) -> str:
        """The number of a task, such as ``①`` or ``#21``; its id if none of its messages is known.

        A test may give a task an id of any length, so only its beginning is shown.
        """
        number = self._numbers.get(task_id)
        if number is None:
            text = str(task_id)  # a test may have given it a UUID
            return text if len(text) <= _LONGEST_ID else f"{text[:_LONGEST_ID]}…"
        return chr(_ONE + number - 1) if number <= _CIRCLED else f"#{number}"
