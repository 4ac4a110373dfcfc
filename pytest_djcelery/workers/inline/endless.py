"""A run of tasks that never ends, noticed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pytest_djcelery.errors import NeverEndsError
from pytest_djcelery.messages.journal import Published

if TYPE_CHECKING:
    from pytest_djcelery.messages.journal import Journal
    from pytest_djcelery.workers.inline.executions import Execution

_LINE: Final = 10  # publishers, one published by the other; a task that sends many has a short one
_ENDLESS: Final = 10_000  # deliveries at the end of a longer line


class Endless:
    """Notices that the tasks of a run go on publishing without end.

    Args:
        journal: where their messages are recorded.
        bounded: the run was told where to stop.
    """

    def __init__(self, journal: Journal, *, bounded: bool) -> None:
        self._journal = journal
        self._bounded = bounded
        self._read = len(journal)
        self._lines: dict[str, int] = {}  # how many publishers led to a message, by its id
        self._delivered = 0

    def count(self, execution: Execution, *, redelivered: bool) -> None:
        """Note a delivery.

        Raises:
            NeverEndsError: it is one too many.
        """
        __tracebackhide__ = True
        if self._bounded:
            return
        line = self._lines.get(execution.id, 0) + redelivered
        if line:
            self._lines[execution.id] = line  # if it is put back once more
        new, self._read = self._journal.events(Published, self._read), len(self._journal)
        for event in new:
            self._lines[event.message.id] = line + 1
        self._delivered += line > _LINE
        if self._delivered > _ENDLESS:
            msg = (
                f"More than {_ENDLESS:,} messages were delivered to which a line of more than "
                f"{_LINE} tasks of this run had led, each published (or put back) by the one "
                f"before; the last was {execution}. Does it publish, retry or requeue itself "
                "without end?\n"
                "Say how far to go: run(limit=…), or run(until=…) with a nearer moment."
            )
            raise NeverEndsError(msg)
