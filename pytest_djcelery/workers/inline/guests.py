"""What may take part in the deliveries of the inline worker, beside the test that asks for them.

A guest is a `Guest` that was `joined`. It is asked at each delivery, in this order:

1. ``choose``: which of the due messages is delivered next, or which earlier one is delivered again;
   the oldest, unless a guest names one.
2. ``loses``: whether the worker is lost in this run, where, and how much of it.
3. ``ended``: what became of it, with the chance to have the same message delivered again
   (`Delivery.redeliver`), or to return another record for the `Summary`, such as one that isn't
   counted (``dataclasses.replace(execution, counted=False)``).

What a lost worker leads to is Celery's own: for a child, what its `Request.on_failure` does about a
`WorkerLostError`; with ``host``, unacknowledged messages return to their queues, redelivered, and
acknowledged ones are lost. The execution says ``lost`` in either case.

While no guest has joined, a delivery pays one look at an empty tuple.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from pytest_djcelery.messages.task_message import quickly_made

if TYPE_CHECKING:
    from pytest_djcelery.messages.sent_task import SentTask
    from pytest_djcelery.recording.losses import Loss
    from pytest_djcelery.workers.inline.executions import Execution


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A message that is due, and could be delivered next.

    ``tag`` is that of the copy in the queue: another one for each redelivery. ``due_at`` is when
    it was put into the queue, or its ETA if that came later. ``sent`` is its record, unless it
    wasn't published through Celery.
    """

    tag: Any
    queue: str
    sent: SentTask | None
    redelivered: bool
    due_at: datetime


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A message that is being delivered, or was."""

    tag: Any
    queue: str
    sent: SentTask | None
    redelivered: bool
    message: Any  # kombu's
    _put_again: Callable[..., Any]

    def redeliver(self, *, first: bool = True) -> Any:
        """Put the message back, marked as redelivered, though it was acknowledged.

        Args:
            first: At the head of its queue, otherwise at the end.

        Returns:
            The tag of the copy, as `Due` and the next `Delivery` have it.
        """
        return self._put_again(self.queue, self.message, first=first)


class Guest:
    """Base class of guests; the defaults change nothing."""

    #: Whether `choose` is asked: the list of all that is due costs time at each delivery.
    chooses = False

    #: How far apart the ETAs of messages may be that are due at one moment: a run then moves the
    #: clock to the last of them.
    moment = timedelta(0)

    def choose(self, due: Sequence[Due], takes: Callable[[str], bool]) -> Due | Delivery | None:
        """Say which message is delivered next.

        Args:
            due: All that are due, in the order in which they would be delivered; may be empty.
            takes: Whether to deliver from a queue.

        Returns:
            One of them, or an earlier `Delivery` whose message is delivered again now, or ``None``
            to leave it to others.
        """
        return None

    def loses(self, delivery: Delivery) -> Loss | None:
        """Say whether the worker is lost in the run of a message, if it comes to a run."""
        return None

    def ended(self, delivery: Delivery, execution: Execution) -> Execution:
        """React to the end of a run; what is returned goes into the summary."""
        return execution


_guests: tuple[Guest, ...] = ()


def present() -> tuple[Guest, ...]:
    """The guests that have joined, in that order."""
    return _guests


@contextmanager
def away() -> Iterator[None]:
    """Ask no guest within the ``with``."""
    global _guests  # noqa: PLW0603 - as in `joined`
    before, _guests = _guests, ()
    try:
        yield
    finally:
        _guests = before


@contextmanager
def joined(guest: Guest) -> Iterator[None]:
    """Have a guest take part in the deliveries of every inline worker, within the ``with``."""
    global _guests  # noqa: PLW0603 - a guest may join before the worker of a test is made
    _guests = (*_guests, guest)
    try:
        yield
    finally:
        _guests = tuple(other for other in _guests if other is not guest)
