"""Lists what is due, for guests that choose the next message."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pytest_djcelery.workers.inline.guests import Due

if TYPE_CHECKING:
    from pytest_djcelery.brokers.memory.queues import Broker, Ready
    from pytest_djcelery.messages.origins import Origins
    from pytest_djcelery.workers.inline.timer import Scheduled, Timer


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
