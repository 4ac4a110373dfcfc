"""What happened in a test: immutable events, in order, and a way to wait for the next.

Celery's signals, the publishing tap, the result backend and the commit hooks append; the
outbox, the hooks, the results and the failure report are views that read. No view keeps a
state of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_djcelery.deadlines import Deadline

if TYPE_CHECKING:
    from pytest_djcelery.locations import Location
    from pytest_djcelery.messages import SentTask


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events. The order of the journal is the order of time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published(Event):
    """A message is about to leave for the broker, or to be run at once by eager mode.

    It stands before all that comes of it; a worker may be quicker than the sender's next line.
    """

    message: SentTask
    hook: int | None = None  # the on_commit hook that sent it
    eager: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NotSent(Event):
    """Sending failed after `Published`: there is no such message."""

    message: SentTask


@dataclass(frozen=True, slots=True, kw_only=True)
class HookRegistered(Event):
    """``transaction.on_commit`` was called."""

    hook: int
    location: Location | None
    using: str
    robust: bool
    function: str  # what was registered, as a person would name it


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Received(Event):
    """A worker took the message."""

    task_id: str
    task: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Event):
    """An attempt of a task begins (``task_prerun``)."""

    task_id: str
    task: str
    retries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StateStored(Event):
    """The result backend was told a state, ``update_state`` included."""

    task_id: str
    state: str
    meta: Any
    traceback: str | None = None


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
    expired: bool = False  # it was too late to run it
    eager: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped(Event):
    """A worker took a message that it can't read, or that names no task, and let it go."""

    task_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned(Event):
    """A process of the worker warned of a message that was sent inside a transaction."""

    text: str
    location: Location | None  # that sent it


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked(Event):
    """The test read the outcome of a task."""

    task_id: str


E = TypeVar("E", bound=Event)


class Journal:
    """A thread-safe list of events that wakes those who wait for more."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._lock = threading.RLock()
        self._waiters: list[tuple[type[Event], threading.Condition]] = []
        self._version = 0

    def __len__(self) -> int:
        return len(self._events)

    def append(self, event: Event) -> None:
        """Add an event and wake those who wait for one of its kind."""
        with self._lock:
            self._events.append(event)
            self._version += 1
            self._notify(type(event))

    def wake(self) -> None:
        """Let those who wait for anything look again, for a change that is no event."""
        with self._lock:
            self._version += 1
            self._notify(Event)

    def _notify(self, happened: type[Event]) -> None:
        for kind, condition in self._waiters:
            if issubclass(happened, kind):
                condition.notify_all()

    def events(self, kind: type[E], since: int = 0) -> Iterator[E]:
        """The events of a kind, oldest first, from position ``since`` on."""
        return (event for event in self._events[since:] if isinstance(event, kind))

    def published(self) -> list[Published]:
        """Every message that was really sent, in the order of sending."""
        published = list(self.events(Published))
        # By what they say: records of other processes are copies.
        failed = {event.message for event in self.events(NotSent)}
        return (
            [event for event in published if event.message not in failed] if failed else published
        )

    def wait_until(
        self, condition: Callable[[], bool], timeout: float, *, kind: type[Event] = Event
    ) -> bool:
        """Block until ``condition()`` holds, looking again after each event of ``kind``.

        Returns whether it held before ``timeout`` seconds had passed. ``condition`` is
        called without the journal's lock, so that it may read anything. A waiter that is woken
        for nothing slows the worker down, which shares the interpreter with it.
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
