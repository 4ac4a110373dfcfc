"""Delivers the messages of `celery_inline` one after another, and says what became of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Final, Protocol

from celery import states

from pytest_djcelery.errors import NeverEndsError
from pytest_djcelery.messages.events import Ended, Event, Published, WorkerLost
from pytest_djcelery.recording.losses import ProcessGoneError
from pytest_djcelery.transactions.connections import AutocommitRestorer
from pytest_djcelery.workers.inline import guests
from pytest_djcelery.workers.inline.executions import Execution
from pytest_djcelery.workers.inline.guests import Delivery

if TYPE_CHECKING:
    from pytest_djcelery.clock import Stretch
    from pytest_djcelery.messages.journal import Journal
    from pytest_djcelery.messages.sent_task import SentTask
    from pytest_djcelery.transactions.watch import TransactionWatch
    from pytest_djcelery.workers.inline.inline_worker import InlineWorker
    from pytest_djcelery.workers.inline.timer import Repeated


# A second run of a message that has run to success, with nothing else due -----------------
# What else is in the queues, or waits for its ETA, is set aside meanwhile, so a task that waits for
# another one finds only those that it has published itself. What the second run leaves there is
# dropped. No guest has a say in it.

#: Called with the record of a second run, once it is over.
RunEnded = Callable[["Execution"], None]


class Repeater(Protocol):
    """Says which messages are run a second time, and looks at what that does."""

    def repeats(self, message: SentTask) -> bool:
        """Whether a message that has run to success is run once more."""

    def second_run(self, message: SentTask) -> AbstractContextManager[RunEnded]:
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


#: The length of a line of tasks, each published by the one before. A task that publishes many
#: others only makes short lines.
_LINE: Final = 10
_ENDLESS: Final = 10_000  # deliveries at the end of longer lines
_Takes = Callable[[str], bool]  # whether a queue is delivered from


class Deliveries:
    """Delivers messages, and says how each went.

    Args:
        worker: The worker that delivers them.
        journal: The journal of the test.
        watch: The watch over the test's transactions.
        second_runs: Runs messages twice.
    """

    def __init__(
        self,
        worker: InlineWorker,
        journal: Journal,
        watch: TransactionWatch,
        second_runs: SecondRuns,
    ) -> None:
        self._worker = worker
        self._second_runs = second_runs
        self._journal = journal
        self._watch = watch
        self._others: list[Execution] = []  # those that ended while another was delivered

    def executions(
        self, takes: _Takes, stretch: Stretch | None, limit: int | None
    ) -> Iterator[list[Execution]]:
        """Deliver one message after another, moving the clock from ETA to ETA.

        Yields each execution after those that ended during it, in the order in which they ended:
        tasks that it waited for, and the others of its batch. If it is run twice, the second
        execution follows.
        """
        __tracebackhide__ = True
        delivered, endless = 0, Endless(self._journal, bounded=limit is not None)
        connections = AutocommitRestorer()
        while limit is None or delivered < limit:
            executions = self._next(takes, connections, endless)
            if executions is not None:
                ended = [*self._taken_others(), *executions]
                delivered += sum(execution.counted for execution in ended)
                yield ended
                continue
            if stretch is None or (following := self.next_eta(takes)) is None:
                return
            if not (
                stretch.reach(self._end_of_moment(takes, following)) or stretch.reach(following)
            ):
                return

    def one(self, takes: _Takes) -> Execution | None:
        """Deliver one message."""
        __tracebackhide__ = True
        executions = self._next(takes, AutocommitRestorer())
        self._taken_others()
        return None if executions is None else executions[0]

    def inside_until(self, done: Callable[[], bool]) -> None:
        """Deliver from inside a waiting task, until ``done()`` or nothing is due."""
        __tracebackhide__ = True
        endless, connections = Endless(self._journal, bounded=False), AutocommitRestorer()
        with self._watch.autocommit():
            while not done():
                executions = self._next(self._worker.takes, connections, endless)
                if executions is None:
                    return
                self._others += executions

    def next_eta(self, takes: _Takes) -> datetime | None:
        """When the next scheduled message, or the next repeated function, is due."""
        timer = self._worker.timer
        first, repeated = timer.first(takes), timer.next_repeated()
        eta = None if first is None else first.turn.eta
        if repeated is None or (eta is not None and eta < repeated.due):
            return eta
        return repeated.due

    def _end_of_moment(self, takes: _Takes, eta: datetime) -> datetime:
        """The last ETA of those that a guest wants to be due at one moment with this one."""
        moment = max((guest.moment for guest in guests.present()), default=None)
        return self._worker.timer.last(takes, eta + moment) or eta if moment else eta

    def _taken_others(self) -> list[Execution]:
        others, self._others = self._others, []
        return others

    def _next(
        self, takes: _Takes, connections: AutocommitRestorer, endless: Endless | None = None
    ) -> list[Execution] | None:
        """Deliver a message: what became of it, and then of its second run, if it has one."""
        __tracebackhide__ = True
        while True:
            since = len(self._journal)
            delivered = self._delivered(takes, connections)
            if delivered is None:
                return None
            ended = self._executions_of(delivered, since)
            if ended:  # otherwise a batch task holds it, to run it with others
                break
        *others, execution = ended
        self._others += others
        if endless is not None:
            endless.count(execution)
        repeater = self._second_runs.of(delivered, execution)
        if repeater is None:
            return [execution]
        return [execution, *self._run_again(repeater, delivered, connections)]

    def _delivered(
        self, takes: _Takes, connections: AutocommitRestorer
    ) -> Delivery | Repeated | None:
        __tracebackhide__ = True
        try:
            with self._watch.eager_task():
                return self._worker.deliver(takes)
        finally:
            connections.restore()

    def _run_again(
        self, repeater: Repeater, delivery: Delivery | Repeated, connections: AutocommitRestorer
    ) -> list[Execution]:
        __tracebackhide__ = True
        if not isinstance(delivery, Delivery) or delivery.sent is None:
            return []
        found: list[Execution] = []
        others = self._others.copy()  # tasks that the second run waits for are dropped like it
        with repeater.second_run(delivery.sent) as ended:
            since = len(self._journal)
            with self._second_runs.message_alone(delivery):
                again = self._delivered(delivery.queue.__eq__, connections)
                if isinstance(again, Delivery):
                    found = [replace(self._execution(again, since), counted=False)]
                    ended(found[0])
        self._others = others
        return found

    def _executions_of(self, delivered: Delivery | Repeated, since: int) -> list[Execution]:
        """What became of a message, or of a due function; for a batch, one for each message."""
        batched = self._worker.batched
        own = delivered if isinstance(delivered, Delivery) else None
        if not batched:
            return [] if own is None else [self._execution(own, since)]
        ended = dict.fromkeys(event.task_id for event in self._journal.events(Ended, since))
        deliveries = [batched.pop(task_id) for task_id in ended if task_id in batched]
        if own is not None and own not in batched.values() and own not in deliveries:
            deliveries.append(own)
        return [self._execution(delivery, since) for delivery in deliveries]

    def _execution(self, delivery: Delivery, since: int) -> Execution:
        events: Iterator[Event] = self._journal.events((Ended, WorkerLost), since)
        execution = Execution.of(delivery.message, delivery.sent, events, self._worker.refused)
        for guest in guests.present():
            execution = guest.ended(delivery, execution)
        return execution


class Endless:
    """Notices that the tasks of a run publish without end.

    Args:
        journal: Where their messages are recorded.
        bounded: Whether the run has a limit.
    """

    def __init__(self, journal: Journal, *, bounded: bool) -> None:
        self._journal = journal
        self._bounded = bounded
        self._read = len(journal)
        self._lines: dict[str, int] = {}  # how many publishers led to a message, by its id
        self._delivered = 0

    def count(self, execution: Execution) -> None:
        """Note a delivery.

        Raises:
            NeverEndsError: It is one too many.
        """
        __tracebackhide__ = True
        if self._bounded:
            return
        line = self._lines.get(execution.id, 0) + execution.redelivered
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
