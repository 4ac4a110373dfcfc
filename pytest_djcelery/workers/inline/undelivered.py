"""The messages that `celery_inline` has yet to deliver, what is due, and redelivery."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from kombu import serialization

from pytest_djcelery.errors import BadOptionError
from pytest_djcelery.messages.headers import Recorded
from pytest_djcelery.messages.sent_task import SentTask
from pytest_djcelery.workers.inline.guests import Due
from pytest_djcelery.workers.inline.timer import Turn

if TYPE_CHECKING:
    from celery import Celery

    from pytest_djcelery.brokers.memory.queues import Broker, Ready
    from pytest_djcelery.messages.origins import Origins
    from pytest_djcelery.workers.inline.guests import Delivery
    from pytest_djcelery.workers.inline.timer import Scheduled, Timer


class Holder(Protocol):
    """The worker, as far as what it has yet to run is concerned."""

    broker: Broker
    timer: Timer

    def takes(self, queue: str, /) -> bool:
        """Whether it takes the messages of a queue."""


class Undelivered:
    """The messages in the queues, together with those that the worker has received and holds.

    Args:
        worker: The worker that delivers them.
        origins: Finds their records.
    """

    def __init__(self, worker: Holder, origins: Origins) -> None:
        self._worker = worker
        self._origins = origins

    def due(self, now: datetime) -> list[SentTask]:
        """The messages that are due, in the order in which `InlineWorker.deliver` takes them."""
        plain, timed = self._waiting()
        turns = deque(sorted(waiting for waiting in timed if waiting[0].eta <= now))
        found = []
        for turn, sent in plain:
            while turns and turns[0][0].due < turn:
                found.append(turns.popleft()[1])
            found.append(sent)
        return [*found, *(sent for _, sent in turns)]

    def later(self, now: datetime) -> list[SentTask]:
        """The messages with an ETA in the future, by ETA."""
        _, timed = self._waiting()
        return [sent for turn, sent in sorted(timed) if turn.eta > now]

    def count_later(self, now: datetime) -> int:
        """How many messages have an ETA in the future."""
        worker = self._worker
        if not (worker.timer or worker.broker.has_timed):
            return 0
        queued = map(self._queued, worker.broker.timed(worker.takes))
        unreceived = sum(1 for sent in queued if sent and sent.eta and sent.eta > now)
        return unreceived + worker.timer.count_later()

    def _waiting(self) -> tuple[list[tuple[Any, SentTask]], list[tuple[Turn, SentTask]]]:
        """Messages without an ETA, in the order of delivery, and those with one, in no order."""
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


def redeliver(message: object, app: Celery) -> None:
    """Put a message at the head of its queue, marked as redelivered.

    Raises:
        BadOptionError: It is no message, or went to no queue of the in-memory broker.
    """
    if not isinstance(message, SentTask):
        msg = f"redeliver() takes a message of the outbox, got {message!r}."
        raise BadOptionError(msg)
    if message.queue is None:
        msg = f"{message.task} [{message.id}] went to an exchange: its queue is not known."
        raise BadOptionError(msg)
    with app.connection_for_write() as connection:
        channel: Any = connection.default_channel
        channel.broker.put(message.queue, _as_redelivered(message, channel), first=True)


def redeliver_alone(delivery: Delivery, channel: Any) -> None:
    """Put a message back as `Delivery.redeliver` does, without what follows it in a canvas."""
    message = delivery.sent
    if message is None or not (
        message.links or message.link_errors or message.chain or message.chord
    ):
        delivery.redeliver()
        return
    channel.broker.put(delivery.queue, _as_redelivered(message, channel, alone=True), first=True)


def _as_redelivered(message: SentTask, channel: Any, *, alone: bool = False) -> dict[str, Any]:
    embed = {
        "callbacks": list(message.links) or None,
        "errbacks": list(message.link_errors) or None,
        "chain": list(message.chain[::-1]) or None,  # Celery pops the next step off its end
        "chord": message.chord,
    }
    body = list(message.args), dict(message.kwargs), dict.fromkeys(embed) if alone else embed
    content_type, encoding, data = serialization.dumps(body, message.serializer)
    prepared: dict[str, Any] = channel.prepare_message(
        data,
        message.priority or 0,
        content_type,
        encoding,
        Recorded(message.headers, message),
        dict(message.properties),
    )
    prepared["properties"]["delivery_info"] = {
        "exchange": message.exchange,
        "routing_key": message.routing_key,
        "redelivered": True,
    }
    return prepared


# Lists what is due, for guests that choose the next message -------------------------------


def due_messages(
    broker: Broker, timer: Timer, origins: Origins, takes: Callable[[str], bool]
) -> list[tuple[Due, Ready | Scheduled]]:
    """Every message that is due, in the order in which they would be delivered.

    Args:
        broker: Holds those that no worker has received.
        timer: Holds those that were received before their ETA.
        origins: Finds the records of messages.
        takes: Whether to list those of a queue.
    """

    def of(queue: str, raw: Any, due_at: datetime) -> Due:
        tag = raw["properties"]["delivery_tag"]
        return Due(
            tag=tag,
            queue=queue,
            sent=origins.of(tag, raw["headers"], raw["body"]),
            redelivered=bool(raw["properties"]["delivery_info"].get("redelivered")),
            due_at=due_at,
        )

    def of_ready(queue: str, ready: Ready) -> tuple[Due, Ready]:
        return of(queue, ready.message, ready.put_at), ready

    waiting = deque(broker.waiting(takes))
    found: list[tuple[Due, Ready | Scheduled]] = []
    for held in timer.all_due(takes):
        while waiting and waiting[0][1].turn < held.turn.due:
            found.append(of_ready(*waiting.popleft()))
        raw = held.request.message._raw
        found.append((of(held.queue, raw, held.turn.due[0]), held))
    return found + [of_ready(*entry) for entry in waiting]
