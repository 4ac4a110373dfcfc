"""A run of tasks that never ends, noticed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pytest_djcelery.errors import NeverEndsError
from pytest_djcelery.journal import Published

if TYPE_CHECKING:
    from pytest_djcelery.journal import Journal
    from pytest_djcelery.views.executions import Execution

_ENDLESS: Final = 10_000  # messages that tasks of a run have published, and that it has delivered


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
        self._published: set[str] = set()
        self._delivered = 0

    def count(self, execution: Execution, *, redelivered: bool) -> None:
        """Note a delivery.

        Raises:
            NeverEndsError: it is one too many.
        """
        __tracebackhide__ = True
        if self._bounded:
            return
        self._delivered += redelivered or execution.id in self._published
        new, self._read = self._journal.events(Published, self._read), len(self._journal)
        self._published.update(event.message.id for event in new)
        if self._delivered > _ENDLESS:
            msg = (
                f"More than {_ENDLESS:,} messages that the tasks of this run had published (or put "
                f"back) were delivered; the last was {execution}. Does it publish, retry or "
                "requeue itself without end?\n"
                "Say how far to go: run(limit=…), or run(until=…) with a nearer moment."
            )
            raise NeverEndsError(msg)
