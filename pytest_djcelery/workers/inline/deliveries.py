"""What `celery_inline` delivers, one after another, and what came of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pytest_djcelery.messages.journal import Ended
from pytest_djcelery.transactions.task_connections import ConnectionsAsBegun
from pytest_djcelery.workers.inline.endless import Endless
from pytest_djcelery.workers.inline.executions import Execution

if TYPE_CHECKING:
    from pytest_djcelery.clock import Stretch
    from pytest_djcelery.messages.journal import Journal
    from pytest_djcelery.messages.origins import Origins
    from pytest_djcelery.transactions.watch import TransactionWatch
    from pytest_djcelery.workers.inline.inline_worker import InlineWorker

_Takes = Callable[[str], bool]  # whether a queue is delivered from


class Deliveries:
    """Delivers, and tells how it went.

    Args:
        worker: who delivers.
        origins: finds the records of the messages.
        journal: of the test.
        watch: of the test's transactions.
    """

    def __init__(
        self, worker: InlineWorker, origins: Origins, journal: Journal, watch: TransactionWatch
    ) -> None:
        self._worker = worker
        self._origins = origins
        self._journal = journal
        self._watch = watch
        self._others: list[Execution] = []  # that ended during the delivery of another

    def executions(
        self, takes: _Takes, stretch: Stretch | None, limit: int | None
    ) -> Iterator[list[Execution]]:
        """Deliver one after another, the clock going from ETA to ETA.

        Yields each with those that ended during its delivery, as they ended: tasks that it has
        waited for, and the others of its batch.
        """
        __tracebackhide__ = True
        delivered, endless = 0, Endless(self._journal, bounded=limit is not None)
        connections = ConnectionsAsBegun()
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
        """Deliver one."""
        __tracebackhide__ = True
        execution = self._next(takes, ConnectionsAsBegun())
        self._taken_others()
        return execution

    def inside_until(self, done: Callable[[], bool]) -> None:
        """Deliver in a task that waits, until ``done()`` or nothing is due."""
        __tracebackhide__ = True
        endless, connections = Endless(self._journal, bounded=False), ConnectionsAsBegun()
        with self._watch.autocommit():
            while not done():
                execution = self._next(self._worker.takes, connections, endless)
                if execution is None:
                    return
                self._others.append(execution)

    def next_eta(self, takes: _Takes) -> datetime | None:
        """When the next one is due of what was received and left."""
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
        self, takes: _Takes, connections: ConnectionsAsBegun, endless: Endless | None = None
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
            ended = self._came_of(message, since)
            if ended:  # else a task holds it, to run it with others
                break
        *others, execution = ended
        self._others += others
        if endless is not None:
            info = getattr(message, "delivery_info", {})
            endless.count(execution, redelivered=bool(info.get("redelivered")))
        return execution

    def _came_of(self, delivered: Any, since: int) -> list[Execution]:
        """What a message, or a function that was due, has led to: of a batch, one for each."""
        batched = self._worker.batched
        is_message = hasattr(delivered, "headers")
        if not batched:
            return [self._execution(delivered, since)] if is_message else []
        own = is_message and delivered not in batched.values()
        ended = dict.fromkeys(event.task_id for event in self._journal.events(Ended, since))
        messages = [batched.pop(task_id) for task_id in ended if task_id in batched]
        return [self._execution(each, since) for each in (*messages, *([delivered] if own else ()))]

    def _execution(self, message: Any, since: int) -> Execution:
        sent = self._origins.of(message.delivery_tag, message.headers, message.body)
        events = self._journal.events(Ended, since)
        return Execution.of(message, sent, events, self._worker.refused)
