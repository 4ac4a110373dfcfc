"""What `celery_inline` says about its deliveries: one record for each, and a summary of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from celery import states
from celery.exceptions import NotRegistered

from pytest_djcelery.messages.descriptions import message_text
from pytest_djcelery.messages.events import Ended, WorkerLost
from pytest_djcelery.messages.task_message import Items, quickly_made

if TYPE_CHECKING:
    from pytest_djcelery.messages.events import Event
    from pytest_djcelery.messages.sent_task import SentTask

_COUNTS = (
    "succeeded", "failed", "retried", "ignored", "rejected", "revoked", "expired", "unknown",
    "lost",
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
_LOST: Final = "LOST"  # ours: Celery has no state for what nobody lives to store


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

    ``redelivered`` is whether the broker had delivered the message before. ``lost`` is whether
    the worker was lost in this run: the state is then ``LOST``, or what Celery made of it, such as
    a ``FAILURE`` with a `WorkerLostError`. ``counted`` is whether it is in the counts of its
    `Summary`: the second run of a message that ``djcelery_redeliver`` has run twice is in none.
    """

    message: SentTask | None  # None: not published through Celery
    task: str
    id: str
    state: str
    value: Any = None
    exception: BaseException | None = None
    attempt: int = 1
    expired: bool = False
    redelivered: bool = False
    lost: bool = False
    counted: bool = True  # in the counts of a `Summary`

    @classmethod
    def of(
        cls,
        message: Any,
        sent: SentTask | None,
        events: Iterable[Event],
        refused: BaseException | None,
    ) -> Execution:
        """Make the record of a kombu message's delivery from the events since then."""
        headers = message.headers or {}
        task_id = sent.id if sent else str(headers.get("id"))
        redelivered = bool(message.delivery_info.get("redelivered"))
        own: Ended | None = None
        lost = False
        for event in events:
            if isinstance(event, WorkerLost):
                lost = lost or event.task_id == task_id
            elif own is None and isinstance(event, Ended) and event.task_id == task_id:
                own = None if event.eager else event
        if own is None:
            return cls(
                message=sent,
                task=sent.task if sent else str(headers.get("task")),
                id=task_id,
                state=_LOST if lost else states.REJECTED,
                exception=refused,
                attempt=(headers.get("retries") or 0) + 1,
                redelivered=redelivered,
                lost=lost,
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
            redelivered=redelivered,
            lost=lost,
        )

    @property
    def failed(self) -> bool:
        """Whether the task failed, or was unknown."""
        return self.state in _FAILED

    @property
    def counted_as(self) -> str:
        """The count of `Summary` that it belongs to."""
        if self.lost:
            return "lost"
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
    ``failed``, or were ``retried``, ``ignored``, ``rejected``, ``revoked``, ``expired``,
    ``unknown`` or ``lost`` with their worker. ``scheduled`` is how many messages with an ETA in the
    future the run left.

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
    lost: int

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
            self._counts[execution.counted_as] += execution.counted
        self._looked = looked
        self.scheduled = scheduled

    @property
    def executions(self) -> tuple[Execution, ...]:
        """Each delivery, in order."""
        self._look_at("failed", "unknown", "lost")
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
