"""Delivers the messages of `celery_inline` one after another, and says what became of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from celery import states
from celery.exceptions import NotRegistered

from pytest_djcelery.errors import NeverEndsError
from pytest_djcelery.messages.descriptions import message_text
from pytest_djcelery.messages.journal import Ended, Published
from pytest_djcelery.messages.task_message import Items, quickly_made
from pytest_djcelery.transactions.task_connections import AutocommitRestorer

if TYPE_CHECKING:
    from pytest_djcelery.clock import Stretch
    from pytest_djcelery.messages.journal import Journal
    from pytest_djcelery.messages.origins import Origins
    from pytest_djcelery.messages.sent_task import SentTask
    from pytest_djcelery.transactions.watch import TransactionWatch
    from pytest_djcelery.workers.inline.inline_worker import InlineWorker


_COUNTS = (
    "succeeded", "failed", "retried", "ignored", "rejected", "revoked", "expired", "unknown",
)  # fmt: skip
_FAILED = (states.FAILURE,)
_BY_STATE = {
    states.SUCCESS: "succeeded",
    states.FAILURE: "failed",
    states.RETRY: "retried",
    states.IGNORED: "ignored",
    states.REJECTED: "rejected",
    states.REVOKED: "revoked",
}
#: The length of a line of tasks, each published by the one before. A task that publishes many
#: others only makes short lines.
_LINE: Final = 10
_ENDLESS: Final = 10_000  # deliveries at the end of longer lines
_Takes = Callable[[str], bool]  # whether a queue is delivered from


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """One delivery of one message by `celery_inline`, and what became of it.

    ``celery_inline.step()`` returns one, and ``celery_inline.run().executions`` has those of a
    run, in order.

    ``state`` is one of Celery's: ``SUCCESS``, ``FAILURE``, ``RETRY``, ``REVOKED`` (also if the
    message had expired), ``IGNORED`` or ``REJECTED``. ``value`` is what the task returned;
    ``exception`` is what it raised, or was retried, ignored or rejected with. ``attempt`` counts
    from 1. ``message`` is the `SentTask`, or ``None`` if it wasn't published through Celery.
    """

    message: SentTask | None  # None: not published through Celery
    task: str
    id: str
    state: str
    value: Any = None
    exception: BaseException | None = None
    attempt: int = 1
    expired: bool = False

    @classmethod
    def of(
        cls,
        message: Any,
        sent: SentTask | None,
        ended: Iterable[Ended],
        refused: BaseException | None,
    ) -> Execution:
        """Make the record of a kombu message's delivery from the events since then."""
        headers = message.headers or {}
        task_id = sent.id if sent else str(headers.get("id"))
        for own in ended:
            if own.task_id == task_id and not own.eager:
                break
        else:
            return cls(
                message=sent,
                task=sent.task if sent else str(headers.get("task")),
                id=task_id,
                state=states.REJECTED,
                exception=refused,
            )
        error = own.value if isinstance(own.value, BaseException) else None
        return cls(
            message=sent,
            task=own.task,
            id=task_id,
            state=own.state,
            value=own.value if own.state == states.SUCCESS else None,
            exception=error if own.state != states.SUCCESS else None,
            attempt=own.retries + 1,
            expired=own.expired,
        )

    @property
    def failed(self) -> bool:
        """Whether the task failed, or was unknown."""
        return self.state in _FAILED

    @property
    def counted_as(self) -> str:
        """The count of `Summary` that it belongs to."""
        if isinstance(self.exception, NotRegistered):
            return "unknown"
        return "expired" if self.expired else _BY_STATE.get(self.state, "ignored")

    def __str__(self) -> str:
        sent = self.message
        call = message_text(sent) if sent else self.task
        return f"{call} [{self.id}], attempt {self.attempt}"


class Summary:
    """What one call of ``celery_inline.run()`` delivered, for assertions about a whole run.

    It has the ``executions`` in the order of delivery, and how many of them ``succeeded`` or
    ``failed``, or were ``retried``, ``ignored``, ``rejected``, ``revoked``, ``expired`` or
    ``unknown``. ``scheduled`` is how many messages with an ETA in the future the run left.

    A failure counts as looked at once ``executions`` or ``failed`` has been read.
    """

    succeeded: int
    failed: int
    retried: int
    ignored: int
    rejected: int
    revoked: int
    expired: int
    unknown: int

    def __init__(
        self,
        executions: Sequence[Execution],
        *,
        scheduled: int,
        looked: Callable[[Execution], None],
    ) -> None:
        self._executions = Items(executions)
        self._counts = dict.fromkeys(_COUNTS, 0)
        for execution in executions:
            self._counts[execution.counted_as] += 1
        self._looked = looked
        self.scheduled = scheduled

    @property
    def executions(self) -> tuple[Execution, ...]:
        """Each delivery, in order."""
        self._look_at("failed", "unknown")
        return self._executions

    def __getattr__(self, name: str) -> int:
        if name not in _COUNTS:
            msg = f"{type(self).__name__!r} object has no attribute {name!r}"
            raise AttributeError(msg)
        self._look_at(name)
        return self._counts[name]

    def _look_at(self, *names: str) -> None:
        for execution in self._executions:
            if execution.failed and execution.counted_as in names:
                self._looked(execution)

    def __repr__(self) -> str:
        counts = {**self._counts, "scheduled": self.scheduled}
        shown = ", ".join(f"{name}={count}" for name, count in counts.items() if count)
        return f"<Summary {shown or 'nothing was due'}>"


class Deliveries:
    """Delivers messages, and says how each went.

    Args:
        worker: The worker that delivers them.
        origins: Finds the records of the messages.
        journal: The journal of the test.
        watch: The watch over the test's transactions.
    """

    def __init__(
        self, worker: InlineWorker, origins: Origins, journal: Journal, watch: TransactionWatch
    ) -> None:
        self._worker = worker
        self._origins = origins
        self._journal = journal
        self._watch = watch
        self._others: list[Execution] = []  # those that ended while another was delivered

    def executions(
        self, takes: _Takes, stretch: Stretch | None, limit: int | None
    ) -> Iterator[list[Execution]]:
        """Deliver one message after another, moving the clock from ETA to ETA.

        Yields each execution after those that ended during it, in the order in which they ended:
        tasks that it waited for, and the others of its batch.
        """
        __tracebackhide__ = True
        delivered, endless = 0, Endless(self._journal, bounded=limit is not None)
        connections = AutocommitRestorer()
        while limit is None or delivered < limit:
            execution = self._next(takes, connections, endless)
            if execution is not None:
                ended = [*self._taken_others(), execution]
                delivered += len(ended)
                yield ended
                continue
            following = None if stretch is None else self.next_eta(takes)
            if following is None or stretch is None or not stretch.reach(following):
                return

    def one(self, takes: _Takes) -> Execution | None:
        """Deliver one message."""
        __tracebackhide__ = True
        execution = self._next(takes, AutocommitRestorer())
        self._taken_others()
        return execution

    def inside_until(self, done: Callable[[], bool]) -> None:
        """Deliver from inside a waiting task, until ``done()`` or nothing is due."""
        __tracebackhide__ = True
        endless, connections = Endless(self._journal, bounded=False), AutocommitRestorer()
        with self._watch.autocommit():
            while not done():
                execution = self._next(self._worker.takes, connections, endless)
                if execution is None:
                    return
                self._others.append(execution)

    def next_eta(self, takes: _Takes) -> datetime | None:
        """When the next scheduled message, or the next repeated function, is due."""
        timer = self._worker.timer
        first, repeated = timer.first(takes), timer.next_repeated()
        eta = None if first is None else first.turn.eta
        if repeated is None or (eta is not None and eta < repeated.due):
            return eta
        return repeated.due

    def _taken_others(self) -> list[Execution]:
        others, self._others = self._others, []
        return others

    def _next(
        self, takes: _Takes, connections: AutocommitRestorer, endless: Endless | None = None
    ) -> Execution | None:
        __tracebackhide__ = True
        while True:
            since = len(self._journal)
            try:
                with self._watch.eager_task():
                    message = self._worker.deliver(takes)
            finally:
                connections.restore()
            if message is None:
                return None
            ended = self._executions_of(message, since)
            if ended:  # otherwise a batch task holds it, to run it with others
                break
        *others, execution = ended
        self._others += others
        if endless is not None:
            info = getattr(message, "delivery_info", {})
            endless.count(execution, redelivered=bool(info.get("redelivered")))
        return execution

    def _executions_of(self, delivered: Any, since: int) -> list[Execution]:
        """What became of a message, or of a due function; for a batch, one for each message."""
        batched = self._worker.batched
        is_message = hasattr(delivered, "headers")
        if not batched:
            return [self._execution(delivered, since)] if is_message else []
        own = is_message and delivered not in batched.values()
        ended = dict.fromkeys(event.task_id for event in self._journal.events(Ended, since))
        messages = [batched.pop(task_id) for task_id in ended if task_id in batched]
        messages += [delivered] if own else []
        return [self._execution(message, since) for message in messages]

    def _execution(self, message: Any, since: int) -> Execution:
        sent = self._origins.of(message.delivery_tag, message.headers, message.body)
        events = self._journal.events(Ended, since)
        return Execution.of(message, sent, events, self._worker.refused)


class Endless:
    """Notices that the tasks of a run publish without end.

    Args:
        journal: where their messages are recorded.
        bounded: whether the run has a limit.
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
            self._lines[execution.id] = line  # in case it is put back once more
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
