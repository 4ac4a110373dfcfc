"""Which publish a message of the in-memory broker comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_djcelery.messages.events import Event, NotSent, Published
from pytest_djcelery.messages.task_message import fields_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_djcelery.messages.journal import Journal
    from pytest_djcelery.messages.sent_task import SentTask


class Records:
    """The records of the messages that a broker in memory was given, by delivery tag."""

    def __init__(self) -> None:
        self.of: dict[Any, SentTask] = {}

    def keep(self, delivery_tag: Any, record: SentTask) -> None:
        """A message is of this record; a copy of it, or one that is put back, may be, too."""
        self.of[delivery_tag] = record

    def knows(self, record: SentTask) -> bool:
        """Whether a message is of this very record."""
        return any(known is record for known in self.of.values())

    def clear(self) -> None:
        """Forget all."""
        self.of.clear()


class Origins:
    """Finds the record of a message on its way, in the journal of the test.

    Nearly all carry it to the broker with them. A library that copies the headers on that way
    loses it: then it is the first record that says the same, or most of it, and is no other
    message's. Several messages may have one id: a task is retried, or replaces itself, or the test
    has given it.

    Args:
        journal: of the test.
        records: of the broker.
    """

    def __init__(self, journal: Journal, records: Records) -> None:
        self._journal = journal
        self._records = records
        self._read = 0  # how far
        self._sent: dict[Any, list[SentTask]] = {}

    def of(self, delivery_tag: Any, headers: Any, body: Any) -> SentTask | None:
        """The record of a message; ``None`` for what was not published as a task."""
        record = self._records.of.get(delivery_tag)
        if record is None:
            self._read_on()
            record = self._found(fields_of(headers, body))
            if record is not None:
                self._records.keep(delivery_tag, record)
        return record

    def _read_on(self) -> None:
        end = len(self._journal)
        for event in self._journal.events(Event, self._read):
            if isinstance(event, Published) and not event.eager:
                self._sent.setdefault(_key(event.message), []).append(event.message)
            elif isinstance(event, NotSent):
                _removed(event.message, self._sent.get(_key(event.message), []))
        self._read = end

    def _found(self, fields: Mapping[str, Any]) -> SentTask | None:
        key: Any = fields.get("id"), fields.get("task"), fields.get("retries") or 0
        records = self._sent.get(key, [])
        if len(records) > 1:
            # Those that no message was of come first: what is put back is seen again.
            records = sorted(records, key=self._records.knows)
        return _nearest(fields, records)


def _nearest(fields: Mapping[str, Any], records: Sequence[SentTask]) -> SentTask | None:
    if len(records) <= 1:  # as nearly always
        return records[0] if records else None
    exact = (record for record in records if not _differences(fields, record))
    return next(exact, None) or min(records, key=lambda record: _differences(fields, record))


def _differences(fields: Mapping[str, Any], sent: SentTask) -> int:
    said = {**sent.headers, "args": sent.args, "kwargs": sent.kwargs}
    return sum(name in fields and bool(fields[name] != value) for name, value in said.items())


def _removed(sent: SentTask, records: list[SentTask]) -> None:
    """Take this very record away: another of its id may be equal to it."""
    for index, record in enumerate(records):
        if record is sent:
            del records[index]
            return


def _key(sent: SentTask) -> tuple[str, str, int]:
    return sent.id, sent.task, sent.retries
