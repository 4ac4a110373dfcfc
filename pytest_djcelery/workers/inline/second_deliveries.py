"""How a message that has run to success is run once more, at once and with nothing else due.

What else is in the queues, or waits for its ETA, is set aside meanwhile, so a task that waits for
another one finds only those that it has published itself. What the second run leaves there is
dropped. No guest has a say in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

from celery import states

from pytest_djcelery.recording.losses import ProcessGoneError
from pytest_djcelery.workers.inline import guests
from pytest_djcelery.workers.inline.guests import Delivery

if TYPE_CHECKING:
    from pytest_djcelery.messages.sent_task import SentTask
    from pytest_djcelery.workers.inline.executions import Execution
    from pytest_djcelery.workers.inline.inline_worker import InlineWorker

#: Called with the record of a second run, once it is over.
Ended = Callable[["Execution"], None]


class Repeater(Protocol):
    """Says which messages are run a second time, and looks at what that does."""

    def repeats(self, message: SentTask) -> bool:
        """Whether a message that has run to success is run once more."""

    def second_run(self, message: SentTask) -> AbstractContextManager[Ended]:
        """Enter around a second run, and take back at the end what it has done."""


class SecondRuns:
    """Runs messages once more, if a test asks for that.

    Args:
        worker: The worker that runs them.
        repeater: Returns what decides, or ``None`` while no message is run twice.
    """

    def __init__(self, worker: InlineWorker, repeater: Callable[[], Repeater | None]) -> None:
        self._worker = worker
        self._repeater = repeater
        self._under_way = False

    def of(self, delivered: object, execution: Execution) -> Repeater | None:
        """What is to look at a second run of a message; ``None`` if there is to be none."""
        repeater = self._repeater()
        if repeater is None:
            return None
        sent = execution.message
        if (
            self._under_way
            or execution.state != states.SUCCESS
            or sent is None
            or not isinstance(delivered, Delivery)
            or delivered.sent is not sent  # one of a batch
            or self._worker.is_batch(sent.task)
        ):
            return None
        return repeater if repeater.repeats(sent) else None

    @contextmanager
    def message_alone(self, delivery: Delivery) -> Iterator[None]:
        """Within the ``with``, have nothing in the queues but this message, once more."""
        worker = self._worker
        self._under_way = True
        try:
            with (
                guests.away(),
                worker.broker.set_aside(),
                worker.timer.set_aside(),
                suppress(ProcessGoneError),
            ):
                worker.put_alone(delivery)
                yield
        finally:
            self._under_way = False
