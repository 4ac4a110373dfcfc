"""The messages of a test that `celery_inline` has yet to deliver."""

from __future__ import annotations

from collections import deque
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pytest_djcelery.workers.inline.timer import Turn

if TYPE_CHECKING:
    from pytest_djcelery.brokers.memory.queues import Ready
    from pytest_djcelery.messages.origins import Origins
    from pytest_djcelery.messages.sent_task import SentTask
    from pytest_djcelery.workers.inline.inline_worker import InlineWorker


class Undelivered:
    """What waits in the queues, and what the worker has received and holds, as one.

    Args:
        worker: who delivers.
        origins: finds their records.
    """

    def __init__(self, worker: InlineWorker, origins: Origins) -> None:
        self._worker = worker
        self._origins = origins

    def due(self, now: datetime) -> list[SentTask]:
        """The messages that are due, in the order in which `InlineWorker.deliver` takes them."""
        plain, timed = self._waiting()
        turns = deque(sorted(each for each in timed if each[0].eta <= now))
        found = []
        for turn, sent in plain:
            while turns and turns[0][0].due < turn:
                found.append(turns.popleft()[1])
            found.append(sent)
        return [*found, *(sent for _, sent in turns)]

    def later(self, now: datetime) -> list[SentTask]:
        """Those with an ETA to come, by ETA."""
        _, timed = self._waiting()
        return [sent for turn, sent in sorted(timed) if turn.eta > now]

    def count_later(self, now: datetime) -> int:
        """How many there are with an ETA to come."""
        worker = self._worker
        if not (worker.timer or worker.broker.has_timed):
            return 0
        queued = map(self._queued, worker.broker.timed(worker.takes))
        unreceived = sum(1 for sent in queued if sent and sent.eta and sent.eta > now)
        return unreceived + worker.timer.count_later()

    def _waiting(self) -> tuple[list[tuple[Any, SentTask]], list[tuple[Turn, SentTask]]]:
        """Those without an ETA, in the order of delivery, and those with one, in none."""
        worker = self._worker
        plain: list[tuple[Any, SentTask]] = []
        timed: list[tuple[Turn, SentTask]] = []
        for ready in (*worker.broker.ready(worker.takes), *worker.broker.timed(worker.takes)):
            sent = self._queued(ready)
            if sent is not None and sent.eta is not None:
                timed.append((Turn(sent.eta, ready.order, ready.put_at), sent))
            elif sent is not None:
                plain.append((ready.turn, sent))
        for held in worker.timer.held():
            message = held.request.message
            sent = self._origins.of(message.delivery_tag, message.headers, message.body)
            if sent is not None:
                timed.append((held.turn, sent))
        return plain, timed

    def _queued(self, ready: Ready) -> SentTask | None:
        message = ready.message
        tag = message["properties"]["delivery_tag"]
        return self._origins.of(tag, message["headers"], message["body"])
