"""What happened in a test: its events in order, and a way to wait for the next.

Celery's signals, publishes, the result backend and the commit hooks append to it; the outbox, the
hooks, the results and the failure report are views that read it and keep no state themselves.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from itertools import islice
from operator import itemgetter
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from pytest_djcelery.clock import Deadline
from pytest_djcelery.errors import BridgedMessageNotSeenError, UnknownResultError
from pytest_djcelery.messages.events import (
    Ended,
    Enqueued,
    Event,
    HookFinished,
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

    def recorded(
        self, since: int = 0, kinds: Container[type[Event]] | None = None
    ) -> list[Recorded]:
        """Events and notes from position ``since`` on, in the order in which they were recorded.

        Args:
            since: The position.
            kinds: Only those of these classes; ``None`` for all.
        """
        with self._lock:
            first, end = max(since, self._first), len(self._events)
            found = [
                note
                for note in self._notes
                if note[0] >= first and (kinds is None or type(note[2]) in kinds)
            ]
            found += [
                (position, (self._times[position], self._clocks[position], thread), event)
                for position, event, thread in zip(
                    range(first, end), self._events[first:], self._threads[first:], strict=True
                )
                if kinds is None or type(event) in kinds
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


# Short numbers that stand for the ids of tasks in what a failing test prints --------------

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


# The Celery messages of tasks of `django.tasks` that a test has enqueued ------------------


def refuse_unseen(journal: Journal, path: str, since: int = 0, until: int | None = None) -> None:
    """Refuse to answer for a Django task whose messages can't be seen.

    Args:
        journal: The journal of the test.
        path: The ``module_path`` of the task.
        since: The position in the journal from which calls of ``enqueue()`` count.
        until: The position up to which they count; ``None`` for the end.

    Raises:
        BridgedMessageNotSeenError: It was enqueued, but no Celery message of it was seen, and none
            waits for a commit.
    """
    __tracebackhide__ = True
    events = islice(journal.events(Event, since), None if until is None else until - since)
    enqueued = [event for event in events if isinstance(event, Enqueued) and event.path == path]
    if not enqueued:
        return
    seen = _seen(journal)
    finished = {event.hook for event in journal.events(HookFinished)}
    for event in enqueued:
        waits = event.hooks and not finished.issuperset(event.hooks)
        if event.id not in seen and not waits:
            raise BridgedMessageNotSeenError(_text(event))


def message_of_result(journal: Journal, result: Any) -> str:
    """The id of the Celery message that was sent for a result of a Django task.

    Raises:
        BridgedMessageNotSeenError: It was enqueued, but no Celery message of it was seen.
        UnknownResultError: It was not enqueued in this test, or its message isn't sent yet.
    """
    __tracebackhide__ = True
    path, number = result.task.module_path, str(result.id)
    for event in journal.events(Enqueued):
        if event.result == number and event.path == path:
            if event.id in (seen := _seen(journal)):
                return seen[event.id]
            refuse_unseen(journal, path)
            raise UnknownResultError(
                f"{path} was enqueued at {event.location}, but its message is only sent after the "
                "commit, which is yet to come: see celery_on_commit.pending and "
                "celery_on_commit.discarded."
            )
    raise UnknownResultError(f"No enqueue() of {path} in this test returned the result {number!r}.")


def _seen(journal: Journal) -> dict[str, str]:
    """The id of the first message of each call of ``enqueue()``."""
    seen: dict[str, str] = {}
    for event in journal.events(Published):
        call = event.message.django_call
        if call is not None:
            seen.setdefault(call.enqueued, event.message.id)
    return seen


def _text(event: Enqueued) -> str:
    return (
        f"{event.path} was enqueued at {event.location or 'no line of the project'}, but no Celery "
        "message of it was seen.\n"
        f"Its backend is {event.backend}. If that does not send through Celery, look at the task "
        "without this plugin, or name in TASKS a backend that does. If it sends later, or in "
        "another thread, the messages can't be told apart: find them by the Celery task that it "
        "sends, celery_outbox.of('name.of.that.task')."
    )
