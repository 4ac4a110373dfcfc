"""What happened in a test: immutable events, in order, and a way to wait for the next.

Celery's signals, publishes, the result backend and the commit hooks append to it; the outbox, the
hooks, the results and the failure report are views that read it and keep no state themselves.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from pytest_djcelery.clock import Deadline
from pytest_djcelery.messages.task_message import quickly_made

if TYPE_CHECKING:
    from types import CodeType

    from pytest_djcelery.locations import Location
    from pytest_djcelery.messages.sent_task import SentTask

_REPLACED = "Replaced by new task"  # what `Task.replace` ignores with, Celery 5.4 to 5.7
#: Real time, in nanoseconds. freezegun replaces the attribute of the module, but not this one.
_ticks: Final = time.perf_counter_ns


def stores_nothing(state: str) -> str:
    """Why a task that ended in such a state has no outcome."""
    raised = {"IGNORED": "Ignore", "REJECTED": "Reject"}[state]
    return (
        f"it ended as {state}, which stores no result (the task raised {raised}): its state stays "
        "what it was"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """The base class of all events. Their order in the journal is the order of time."""


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Published(Event):
    """A message is about to be sent to the broker, or to be run at once by eager mode.

    This event comes before everything that the message leads to: a worker may be faster than the
    sender's next line.
    """

    message: SentTask
    hook: int | None = None  # the on_commit hook that sent it
    eager: bool = False
    other_app: bool = False  # by an app other than the project's
    test_line: Location | None = None  # the line of the test that called what sent it


@dataclass(frozen=True, slots=True, kw_only=True)
class NotSent(Event):
    """Sending failed after `Published`: there is no such message."""

    message: SentTask


@dataclass(frozen=True, slots=True, kw_only=True)
class Enqueued(Event):
    """``enqueue()`` of a task of `django.tasks` has returned.

    The messages that its backend has sent so far come before it.
    """

    id: str  # which `DjangoCall.enqueued` refers to
    path: str  # of the task
    backend: str  # its class
    result: str  # the id of the task's result
    hooks: tuple[int, ...]  # that the backend has registered, to send it after the commit
    location: Location | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RaceRaised(Event):
    """An error, or a warning that is an error here, was raised about messages that race."""

    error: Exception
    tests: frozenset[CodeType]  # the tests that were running
    caught_at: str | None = None  # by code under test, in another process


@dataclass(frozen=True, slots=True, kw_only=True)
class HookRegistered(Event):
    """``transaction.on_commit`` was called."""

    hook: int
    location: Location | None
    using: str
    robust: bool
    function: str  # what was registered, as a person would name it
    through: str | None = None  # the method of a task that registered it: ``delay_on_commit``
    test_line: Location | None = None  # the line of the test that called what registered it
    task: str | None = None  # the name of that task
    package: str | None = None  # the installed package that the function belongs to


@dataclass(frozen=True, slots=True, kw_only=True)
class HookDue(Event):
    """Production would run the hook now, but the test's own transaction keeps it."""

    hook: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HookStarted(Event):
    """The transaction committed and the hook begins."""

    hook: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HookFinished(Event):
    """The hook returned, or raised ``error``."""

    hook: int
    error: BaseException | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HookDiscarded(Event):
    """The hook will never run; ``reason`` says why."""

    hook: int
    reason: str


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Storing(Event):
    """A state is about to be stored in the result backend, possibly by ``update_state``.

    This event comes before everything that the state leads to: whoever has read the state in the
    backend also finds it here.
    """

    task_id: str
    state: str
    meta: Any
    retries: int | None = None  # of the attempt, if the task itself stores the state


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class StateStored(Event):
    """What `Storing` announced is in the result backend now, for those who wait for it."""

    task_id: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NotStored(Event):
    """Storing failed after `Storing`: the result backend has no such state."""

    task_id: str
    state: str


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Ended(Event):
    """An attempt is over: ``state`` is a Celery state, or ``IGNORED``/``REJECTED``."""

    task_id: str
    task: str
    state: str
    value: Any  # the return value, or the exception
    retries: int
    args: tuple[Any, ...] | None = None
    kwargs: dict[str, Any] | None = None
    expected: bool = False  # the exception is one that ``Task.throws`` names
    expired: bool = False  # it came too late to be run
    eager: bool = False

    @property
    def goes_on(self) -> bool:
        """Whether the task has another attempt, so that this one isn't its outcome."""
        if self.state == "REJECTED":
            return bool(getattr(self.value, "requeue", False))
        return self.state == "RETRY" or (self.state == "IGNORED" and str(self.value) == _REPLACED)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedWithoutOutcome(Ended):
    """An attempt is over and nothing is stored, because it raised ``Ignore`` or ``Reject``.

    For ``Reject``, Celery 5.7 stores a failure instead.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLost(Event):
    """The process that ran a task was lost on purpose, or the whole worker: ``host``.

    ``acknowledged`` is whether the broker had been told by then to forget the message.
    """

    task_id: str
    host: bool
    acknowledged: bool = False

    @property
    def for_good(self) -> bool:
        """Whether nobody will ever run the task again, nor say what became of it."""
        return self.host and self.acknowledged


@dataclass(frozen=True, slots=True, kw_only=True)
class RanTwice(Event):
    """A message that had run to success was run once more, and what that led to is taken back.

    ``effects`` says what the second run did that the first had not done already, one line each.
    """

    task_id: str
    message: SentTask
    effects: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultFired(Event):
    """Something that a test has had happen on purpose has happened.

    ``fault`` numbers the fault; ``text`` says what it does, and ``task_id`` is the task, if it was
    in the run of one.
    """

    fault: int
    text: str
    task_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped(Event):
    """A worker took a message that it can't read, or that names no task, and dropped it."""

    task_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned(Event):
    """A process of the worker warned of a message that was sent inside a transaction."""

    text: str
    location: Location | None  # the line that sent it


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked(Event):
    """The test read the outcome of a task."""

    task_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RaisedElsewhere(Event):
    """Tasks' failures were raised in code that is not the test's, which may let them through."""

    task_ids: tuple[str, ...]
    error: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class Note(Event):
    """The base class of what only the timeline reads: nobody waits for it or counts it."""


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
