"""What became of the messages that `celery_inline` delivered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery import states
from celery.exceptions import NotRegistered

from pytest_djcelery.messages.descriptions import call_text
from pytest_djcelery.messages.records import quickly_made
from pytest_djcelery.messages.task_message import Items

if TYPE_CHECKING:
    from pytest_djcelery.messages.journal import Ended
    from pytest_djcelery.messages.sent_task import SentTask

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


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """One delivery of one message.

    ``state`` is one of Celery's: ``SUCCESS``, ``FAILURE``, ``RETRY``, ``REVOKED`` (also when it
    had expired), ``IGNORED`` or ``REJECTED``. ``value`` is what the task returned, ``exception``
    what it raised or was retried, ignored or rejected with. ``attempt`` counts from 1.
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
        """What became of a kombu message, by the events since it was delivered."""
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
        """Whether the task ended in failure, an unknown task included."""
        return self.state in _FAILED

    @property
    def counted_as(self) -> str:
        """Which of the counts of `Summary` it belongs to."""
        if isinstance(self.exception, NotRegistered):
            return "unknown"
        return "expired" if self.expired else _BY_STATE.get(self.state, "ignored")

    def __str__(self) -> str:
        sent = self.message
        call = call_text(self.task, sent.args, sent.kwargs) if sent else self.task
        return f"{call} [{self.id}], attempt {self.attempt}"


class Summary:
    """What one run delivered.

    ``executions`` in the order of delivery, and how many of them succeeded, failed, were
    retried, ignored, rejected, revoked, expired or unknown; ``scheduled`` is how many messages
    with an ETA to come it left.

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
