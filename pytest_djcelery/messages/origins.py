"""Which publish a message of the in-memory broker comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_djcelery.messages.journal import Event, NotSent, Published
from pytest_djcelery.messages.sent_task import fields_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_djcelery.messages.journal import Journal
    from pytest_djcelery.messages.sent_task import SentTask


class Origins:
    """Finds the record of a message on its way, in the journal of the test.

    Several messages may have one id: a task is retried, or replaces itself, or the test has
    given it. Of those, a message is the first that says the same, or most of it, and is no other's.

    Args:
        journal: of the test.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._read = 0  # how far
        self._new: dict[Any, list[SentTask]] = {}  # no message seen yet
        self._seen: dict[Any, list[SentTask]] = {}  # a message that is put back is seen again
        self._of: dict[Any, SentTask] = {}  # by delivery tag

    def of(self, delivery_tag: Any, headers: Any, body: Any) -> SentTask | None:
        """The record of a message; ``None`` for what was not published as a task."""
        if delivery_tag not in self._of:
            self._read_on()
            found = self._found(fields_of(headers, body))
            if found is None:
                return None
            self._of[delivery_tag] = found
        return self._of[delivery_tag]

    def _read_on(self) -> None:
        end = len(self._journal)
        for event in self._journal.events(Event, self._read):
            if isinstance(event, Published) and not event.eager:
                self._new.setdefault(_key(event.message), []).append(event.message)
            elif isinstance(event, NotSent):
                _removed(event.message, self._new.get(_key(event.message), []))
        self._read = end

    def _found(self, fields: Mapping[str, Any]) -> SentTask | None:
        key: Any = fields.get("id"), fields.get("task"), fields.get("retries") or 0
        new = self._new.get(key, [])
        found = _nearest(fields, [*new, *self._seen.get(key, ())])
        if found is not None and _removed(found, new):
            if not new:
                del self._new[key]
            self._seen.setdefault(key, []).append(found)
        return found


def _nearest(fields: Mapping[str, Any], records: Sequence[SentTask]) -> SentTask | None:
    if len(records) < 2:  # noqa: PLR2004 - as nearly always
        return records[0] if records else None
    exact = (each for each in records if not _differences(fields, each))
    return next(exact, None) or min(records, key=lambda each: _differences(fields, each))


def _differences(fields: Mapping[str, Any], sent: SentTask) -> int:
    said = {**sent.headers, "args": sent.args, "kwargs": sent.kwargs}
    return sum(name in fields and bool(fields[name] != value) for name, value in said.items())


def _removed(sent: SentTask, records: list[SentTask]) -> bool:
    """Take this very record away: another of its id may be equal to it."""
    for index, each in enumerate(records):
        if each is sent:
            del records[index]
            return True
    return False


def _key(sent: SentTask) -> tuple[str, str, int]:
    return sent.id, sent.task, sent.retries
