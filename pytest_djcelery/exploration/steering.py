"""Steers the inline worker along a schedule, and notes each delivery as a step of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

from pytest_djcelery.errors import BadOptionError
from pytest_djcelery.markers import call_of
from pytest_djcelery.recording.losses import Loss
from pytest_djcelery.recording.task_threads import in_task
from pytest_djcelery.workers.inline.guests import Delivery, Guest

if TYPE_CHECKING:
    import pytest

    from pytest_djcelery.exploration.schedules import Decisions
    from pytest_djcelery.messages.sent_task import SentTask
    from pytest_djcelery.workers.inline.executions import Execution
    from pytest_djcelery.workers.inline.guests import Due


_LOSSES: Final = (
    None,
    Loss(at="start", host=True),
    Loss(at="end", host=True),
)
_NEVER_RAN: Final = frozenset({"revoked", "expired", "unknown"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One delivery of a schedule, and in what it differs from those of an undisturbed worker.

    ``decision`` is the number of the decision to deliver it. ``overtook`` is the message that was
    due before it. ``acknowledged`` is whether the message had been acknowledged when the worker was
    lost at ``lost_at``.
    """

    decision: int
    task: str
    sent: SentTask | None
    queue: str
    overtook: SentTask | None = None
    again: bool = False
    redelivered: bool = False
    lost_at: Literal["start", "end"] | None = None
    acknowledged: bool = False

    @property
    def is_lost(self) -> bool:
        """Whether nothing will deliver the message again, though its run didn't end."""
        return self.lost_at is not None and self.acknowledged


class Steering(Guest):
    """Takes part in the deliveries of one run of a test.

    Args:
        bounds: How much may vary.
        decisions: Decides.
    """

    chooses = True
    moment = timedelta(milliseconds=999)  # two countdowns of a minute end at one moment

    def __init__(self, bounds: Bounds, decisions: Decisions) -> None:
        self.steps: list[Step] = []
        self._decisions = decisions
        self._orders = bounds.orders
        self._again = bounds.duplicates
        self._losses = bounds.crashes
        self._delivered: dict[Any, Delivery] = {}  # that the broker may deliver again
        self._under_way: list[_Run] = []  # a run may wait for another one

    def choose(self, due: Sequence[Due], takes: Callable[[str], bool]) -> Due | Delivery | None:
        """See `Guest.choose`."""
        waiting = {_key(entry) for entry in due}
        again = [
            delivery
            for key, delivery in self._delivered.items()
            if self._again and key not in waiting and takes(delivery.queue)
        ]
        first = _first_by_priority(due) if self._orders else list(due[:1])
        if not first and not again:
            return None
        # With nothing due, the undisturbed way is to deliver nothing.
        ways: list[Due | Delivery | None] = [*first, *([] if first else [None]), *again]
        number = len(self._decisions.made)
        names = " ".join("|".join(map(_task, entries)) for entries in (first, again))
        chosen = ways[self._decisions.decide(names, len(ways))]
        if chosen is None:
            return None
        is_again = isinstance(chosen, Delivery)
        self._again -= is_again
        self._begin(
            Step(
                decision=number,
                task=_task(chosen),
                sent=chosen.sent,
                queue=chosen.queue,
                again=is_again,
                redelivered=is_again or chosen.redelivered,
                overtook=None if is_again or chosen is due[0] else due[0].sent,
            ),
            chosen,
        )
        return chosen

    def loses(self, delivery: Delivery) -> Loss | None:
        """See `Guest.loses`."""
        if not self._losses or not self._under_way or in_task():
            return None
        run = self._under_way[-1]
        run.loss = len(self._decisions.made)
        loss = _LOSSES[self._decisions.decide(f"lost {_task(delivery)}", len(_LOSSES))]
        if loss is not None:
            self._losses -= 1
            self._change(run, lost_at=loss.at)
        return loss

    def ended(self, delivery: Delivery, execution: Execution) -> Execution:
        """See `Guest.ended`."""
        key = _key(delivery)
        run = next((run for run in reversed(self._under_way) if run.key == key), None)
        if run is None:  # it was refused when it was received, before it was due
            self.steps.append(
                Step(
                    decision=len(self._decisions.made),
                    task=_task(delivery),
                    sent=delivery.sent,
                    queue=delivery.queue,
                    redelivered=delivery.redelivered,
                )
            )
        else:
            self._under_way.remove(run)
            if execution.counted_as in _NEVER_RAN:
                self._lost_nothing(run)
            elif execution.lost:
                self._change(run, acknowledged=bool(delivery.message.acknowledged))
        if execution.lost:
            self._delivered.pop(key, None)
        else:
            self._delivered[key] = delivery
        return execution

    def over(self) -> None:
        """Note that the test is over: what is under way now, such as a batch, never ran."""
        for run in self._under_way:
            self._lost_nothing(run)

    def _begin(self, step: Step, chosen: Due | Delivery) -> None:
        self._under_way.append(_Run(_key(chosen), len(self.steps)))
        self.steps.append(step)

    def _change(self, run: _Run, **changes: Any) -> None:
        self.steps[run.step] = replace(self.steps[run.step], **changes)

    def _lost_nothing(self, run: _Run) -> None:
        """Take back that the worker might be lost in a run, since it didn't come to one."""
        if run.loss is not None:
            self._losses += self.steps[run.step].lost_at is not None
            self._change(run, lost_at=None)
            self._decisions.undecided(run.loss)


@dataclass(slots=True)
class _Run:
    """A delivery that has begun."""

    key: object
    step: int
    loss: int | None = None  # the decision whether the worker is lost


def _first_by_priority(due: Sequence[Due]) -> list[Due]:
    """What a broker may deliver next: a queue gives those of the highest priority first.

    A message with an ETA has left its queue when it was received; its priority counts no more.
    """
    highest: dict[str, int] = {}
    for entry in due:
        if not _has_eta(entry):
            highest[entry.queue] = max(highest.get(entry.queue, 0), _priority(entry))
    return [entry for entry in due if _has_eta(entry) or _priority(entry) == highest[entry.queue]]


def _has_eta(entry: Due) -> bool:
    return entry.sent is not None and entry.sent.eta is not None


def _priority(entry: Due) -> int:
    return max(0, min(9, (entry.sent and entry.sent.priority) or 0))


def _key(entry: Due | Delivery) -> object:
    """What a message and its copies have in common."""
    return entry.tag if entry.sent is None else id(entry.sent)


def _task(entry: Due | Delivery) -> str:
    return "?" if entry.sent is None else entry.sent.task


# How much may vary from one schedule of a test to the next --------------------------------


def _is_count(value: object, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


_VALID: Final[Mapping[str, tuple[Callable[[object], bool], str]]] = {
    "orders": (lambda value: isinstance(value, bool), "True or False"),
    "duplicates": (_is_count, "a whole number, 0 or more"),
    "crashes": (_is_count, "a whole number, 0 or more"),
    "examples": (lambda value: _is_count(value, 1), "a whole number, 1 or more"),
    "lost": (lambda value: value in ("allow", "error"), "'allow' or 'error'"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What ``@pytest.mark.celery_explore(…)`` says."""

    orders: bool = True
    duplicates: int = 0
    crashes: int = 0
    examples: int = 100
    lost: Literal["allow", "error"] = "allow"

    @classmethod
    def of(cls, marker: pytest.Mark) -> Bounds:
        """Read the marker.

        Raises:
            BadOptionError: It is used in a wrong way.
        """
        if marker.args or set(marker.kwargs) - set(_VALID):
            msg = (
                f"@pytest.mark.{marker.name}{call_of(marker)}: expected keyword arguments only, "
                f"out of {', '.join(_VALID)}."
            )
            raise BadOptionError(msg)
        for name, value in marker.kwargs.items():
            is_valid, expected = _VALID[name]
            if not is_valid(value):
                msg = f"@pytest.mark.{marker.name}({name}={value!r}): expected {expected}."
                raise BadOptionError(msg)
        return cls(**marker.kwargs)
