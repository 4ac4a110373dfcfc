"""What happened in a test: its events in order, and a way to wait for the next.

Celery's signals, publishes, the result backend and the commit hooks append to it; the outbox, the
hooks, the results and the failure report are views that read it and keep no state themselves.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from operator import itemgetter
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from pytest_djcelery.clock import Deadline
from pytest_djcelery.messages.events import (
    Ended,
    Event,
    Note,
    NotSent,
    NotStored,
    Published,
    Storing,
)

if TYPE_CHECKING:
    from pytest_djcelery.messages.sent_task import SentTask

#: Real time, in nanoseconds. freezegun replaces the attribute of the module, but not this one.
_ticks: Final = time.perf_counter_ns


#: When an event was recorded, and in which thread: nanoseconds of real time since some moment,
#: what code under test saw as ``time.time()``, and the thread's identifier.
Stamp: TypeAlias = tuple[int, float, int]
#: An event or a note: its position in the journal, where a note has that of the event that comes
#: next; when it was recorded; and itself, of a class that its reader knows.
Recorded: TypeAlias = tuple[int, Stamp, Any]
E = TypeVar("E", bound=Event)


class _All:
    """Contains everything."""

    def __contains__(self, kind: object) -> bool:
        return True


_ALL: Final = _All()


class Journal:
    """A thread-safe list of events that wakes those who wait for more."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        # The stamps of the events. As tuples they would have the garbage collector run more often.
        self._times: list[int] = []
        self._clocks: list[float] = []
        self._threads: list[int] = []
        self._notes: list[Recorded] = []
        self._first = 0  # earlier events are not shown
        self._by_task: dict[str, list[Event]] = {}  # filled on demand, not as events come
        self._sorted = 0  # how many events are in it
        self._lock = threading.RLock()
        self._waiters: list[tuple[type[Event] | tuple[type[Event], ...], threading.Condition]] = []
        self._version = 0

    def __len__(self) -> int:
        return len(self._events)

    def append(self, event: Event) -> None:
        """Add an event and wake those who wait for one of its kind."""
        with self._lock:
            self._events.append(event)
            self._times.append(_ticks())
            self._clocks.append(time.time())
            self._threads.append(get_ident())
            self._version += 1
            if self._waiters:
                self._notify(type(event))

    def note(self, note: Note) -> None:
        """Add what only the timeline reads, which wakes nobody and has no position itself."""
        with self._lock:
            self._notes.append((len(self._events), (_ticks(), time.time(), get_ident()), note))

    def wake(self) -> None:
        """Have everyone who waits look again, after a change that isn't an event."""
        with self._lock:
            self._version += 1
            self._notify(Event)

    def _notify(self, happened: type[Event]) -> None:
        for kind, condition in self._waiters:
            if issubclass(happened, kind):
                condition.notify_all()

    def events(self, kind: type[E] | tuple[type[E], ...], since: int = 0) -> Iterator[E]:
        """The events of a kind, or of several, oldest first, from position ``since`` on."""
        events = self._events[max(since, self._first) :]
        return (event for event in events if isinstance(event, kind))

    def recorded(self, since: int = 0, kinds: Container[type[Event]] = _ALL) -> list[Recorded]:
        """Events and notes from position ``since`` on, in the order in which they were recorded.

        Args:
            since: The position.
            kinds: The classes of which they are to be.
        """
        with self._lock:
            first, end = max(since, self._first), len(self._events)
            found = [note for note in self._notes if note[0] >= first and type(note[2]) in kinds]
            found += [
                (position, (self._times[position], self._clocks[position], thread), event)
                for position, event, thread in zip(
                    range(first, end), self._events[first:], self._threads[first:], strict=True
                )
                if type(event) in kinds
            ]
        found.sort(key=itemgetter(0))  # it is stable: notes come before the event that came next
        return found

    @contextmanager
    def emptied(self) -> Iterator[None]:
        """Hide earlier events within the ``with``, and forget at its end what it has appended."""
        before, self._first = self._first, len(self)
        notes = len(self._notes)
        self._sort_again()
        try:
            yield
        finally:
            with self._lock:
                self._forget(self._first, notes)
                self._first = before
                self._sort_again()

    @contextmanager
    def taken_back(self) -> Iterator[int]:
        """Yield the present position, and forget at the end what was appended within the ``with``.

        Until then it is shown like everything else.
        """
        since, notes = len(self), len(self._notes)
        try:
            yield since
        finally:
            with self._lock:
                self._forget(since, notes)
                if self._sorted > since:
                    self._sort_again()

    def _forget(self, since: int, notes: int) -> None:
        # Positions up to which readers have read must stay valid.
        own = slice(since, None)
        self._events[own] = [Event()] * len(self._events[own])
        del self._notes[notes:]

    def drain(self) -> list[Event]:
        """Return all events, and forget them."""
        with self._lock:
            events, self._events = self._events, []
            self._times, self._clocks, self._threads, self._notes = [], [], [], []
            self._sort_again()
            return events

    def of_task(self, task_id: str) -> list[Event]:
        """The events of one task, including its messages, oldest first.

        For all tasks together this takes time in proportion to the length of the journal.
        """
        with self._lock:
            for event in self._events[self._sorted :]:
                message = event.message if isinstance(event, Published | NotSent) else None
                owner = message.id if message else getattr(event, "task_id", None)
                if owner is not None:
                    self._by_task.setdefault(owner, []).append(event)
            self._sorted = len(self._events)
            return list(self._by_task.get(task_id, ()))

    def _sort_again(self) -> None:
        with self._lock:
            self._by_task, self._sorted = {}, self._first

    def sent(self, task_id: str) -> list[SentTask]:
        """The messages with an id that were actually sent, oldest first."""
        events = self.of_task(task_id)
        failed = {event.message for event in events if isinstance(event, NotSent)}
        messages = [event.message for event in events if isinstance(event, Published)]
        return [message for message in messages if message not in failed] if failed else messages

    def ended(self, task_id: str) -> list[Ended]:
        """The attempts of a task that are over, oldest first."""
        return [event for event in self.of_task(task_id) if isinstance(event, Ended)]

    def published(self, since: int = 0) -> list[Published]:
        """Every message that was actually sent, in the order of sending, from ``since`` on."""
        published = list(self.events(Published, since))
        # By equality: records from other processes are copies.
        failed = {event.message for event in self.events(NotSent, since)}
        return (
            [event for event in published if event.message not in failed] if failed else published
        )

    def states(self, task_id: str) -> list[Storing]:
        """Every state of a task that was stored in the result backend, in order."""
        stored: list[Storing] = []
        for event in self.of_task(task_id):
            if isinstance(event, Storing):
                stored.append(event)
            elif isinstance(event, NotStored):
                stored.remove([known for known in stored if known.state == event.state][-1])
        return stored

    def wait_until(
        self,
        condition: Callable[[], bool],
        timeout: float,
        *,
        kind: type[Event] | tuple[type[Event], ...] = Event,
    ) -> bool:
        """Block until ``condition()`` is true, checking again after each event of ``kind``.

        Args:
            condition: Called without the journal's lock, so that it can read anything.
            timeout: Seconds.
            kind: The events to wake for. Waking for nothing slows the worker down, which shares
                the interpreter with the waiter.

        Returns:
            Whether it was true before the timeout.
        """
        deadline = Deadline(timeout)
        changed = threading.Condition(self._lock)
        waiter = kind, changed
        with self._lock:
            self._waiters.append(waiter)
        try:
            while True:
                seen = self._version
                if condition():
                    return True
                with self._lock:
                    if deadline.passed:
                        return False
                    if self._version == seen:
                        changed.wait(deadline.remaining)
        finally:
            with self._lock:
                self._waiters.remove(waiter)
