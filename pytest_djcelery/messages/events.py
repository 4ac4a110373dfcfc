"""What may happen in a test: immutable events, and notes that only the timeline reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pytest_djcelery.messages.task_message import quickly_made

if TYPE_CHECKING:
    from types import CodeType

    from pytest_djcelery.locations import Location
    from pytest_djcelery.messages.sent_task import SentTask

_REPLACED = "Replaced by new task"  # what `Task.replace` ignores with, Celery 5.4 to 5.7


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

    ``acknowledged`` is whether the message had been acknowledged by then.
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
    """A fault that the test has set has happened.

    ``fault`` is its number, ``text`` says what it does, and ``task_id`` is the task in whose run it
    happened, if it was in one.
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


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Note):
    """A worker has begun to run a message of this task."""

    task_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestStarted(Note):
    """Django began to answer a request."""

    method: str
    path: str
    location: Location | None  # the line that made it


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRaised(Note):
    """The view raised an error that Django answered with its page for errors."""

    error: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFinished(Note):
    """Django has answered it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SentByBeat(Note):
    """The last message of this task was an entry of the periodic schedule."""

    task_id: str
    entry: str  # its name


class BlockOpener(Protocol):
    """What opened a transaction; `str()` says it as a person would."""

    @property
    def location(self) -> Location | None:
        """The project's line that opened it."""


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class BlockEntered(Note):
    """The code under test has begun a transaction, in production's terms."""

    block: int
    opener: BlockOpener


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class BlockLeft(Note):
    """The transaction is over."""

    block: int
    committed: bool
