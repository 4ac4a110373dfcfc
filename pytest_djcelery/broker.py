"""The in-memory broker: its queues, and the messages that wait in them.

There is one `Broker` for each virtual host. It has a condition variable that wakes who waits,
priorities, message TTL and redelivery; `pytest_djcelery.transport` is how kombu reaches it.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import count
from queue import Empty
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakSet

from kombu.transport import virtual

if TYPE_CHECKING:
    from pytest_djcelery.transport import Transport


class _Ready(NamedTuple):
    """A message in a queue: the highest priority first, then the oldest; no two are as old."""

    rank: int
    order: int
    message: dict[str, Any]
    expires_at: float | None


@dataclass(slots=True)
class _Queue:
    ready: list[_Ready] = field(default_factory=list)
    auto_delete: bool = False
    ttl: float | None = None  # seconds
    consumers: int = 0


@dataclass(frozen=True, slots=True)
class Topology:
    """What was declared at some moment, to go back to."""

    queues: frozenset[str]
    exchanges: dict[str, Any]
    bindings: dict[Any, Any]


class Broker:
    """The queues of one virtual host, shared by all connections to it."""

    def __init__(self) -> None:
        self.state = virtual.BrokerState()
        self.queues: dict[str, _Queue] = {}
        self.changed = threading.Condition(threading.RLock())
        self.transports: WeakSet[Transport] = WeakSet()
        self.version = 0
        self.on_delivered: Callable[[], None] = _nothing  # a reader is done, or found nothing
        self._order = count()
        self._restored_order = count(-1, -1)
        self._tags = count(1)

    def notify(self) -> None:
        """Wake every reader."""
        with self.changed:
            self.version += 1
            self.changed.notify_all()

    def declare(self, name: str, *, auto_delete: bool = False, ttl: float | None = None) -> _Queue:
        """The queue ``name``, made if it is missing."""
        with self.changed:
            queue = self.queues.get(name)
            if queue is None:
                queue = self.queues[name] = _Queue(auto_delete=auto_delete, ttl=ttl)
            return queue

    def put(self, name: str, message: dict[str, Any], *, first: bool = False) -> None:
        """Put a message of its own (a fanout has many) at the end of a queue, or first."""
        properties = message["properties"]
        message = {
            **message,
            "properties": {
                **properties,
                "delivery_tag": next(self._tags),
                "delivery_info": dict(properties["delivery_info"]),
            },
        }
        with self.changed:
            queue = self.declare(name)
            order = next(self._restored_order if first else self._order)
            heapq.heappush(
                queue.ready,
                _Ready(-_priority(message), order, message, _expiry(message, queue.ttl)),
            )
            self.notify()

    def get(self, name: str) -> dict[str, Any]:
        """Take the next message; `queue.Empty` when there is none."""
        with self.changed:
            if self._head(name) is None:
                raise Empty
            return heapq.heappop(self.queues[name].ready).message

    def oldest(self, takes: Callable[[str], bool]) -> str | None:
        """The queue, of those that ``takes`` names, whose next message came before the others'."""
        with self.changed:
            heads = [
                (head.order, name)
                for name in self.queues
                if (head := self._head(name)) is not None and takes(name)
            ]
        return min(heads)[1] if heads else None

    def peek(self, name: str) -> dict[str, Any]:
        """The next message of a queue, left where it is."""
        with self.changed:
            return self.queues[name].ready[0].message

    def ready(self, takes: Callable[[str], bool]) -> list[tuple[str, dict[str, Any]]]:
        """Queue and message of all that is ready, in the order in which `oldest` takes them."""
        with self.changed:
            queues = {
                name: sorted(queue.ready, reverse=True)
                for name, queue in self.queues.items()
                if takes(name) and self._head(name) is not None
            }
        found = []
        while queues:
            name = min(queues, key=lambda each: queues[each][-1].order)
            found.append((name, queues[name].pop().message))
            if not queues[name]:
                del queues[name]
        return found

    def _head(self, name: str) -> _Ready | None:
        """The next message of a queue; those before it that outlived their TTL are gone."""
        queue = self.queues.get(name)
        while queue is not None and queue.ready:
            head = queue.ready[0]
            if head.expires_at is None or head.expires_at > time.time():
                return head
            heapq.heappop(queue.ready)
        return None

    def depth(self, name: str) -> int:
        """How many messages are ready in a queue."""
        queue = self.queues.get(name)
        return len(queue.ready) if queue else 0

    def depths(self) -> dict[str, int]:
        """Ready messages by queue, empty queues left out."""
        with self.changed:
            return {name: len(queue.ready) for name, queue in self.queues.items() if queue.ready}

    def purge(self, name: str) -> int:
        """Drop the ready messages of a queue; their number."""
        with self.changed:
            queue = self.queues.get(name)
            if queue is None:
                return 0
            size = len(queue.ready)
            queue.ready.clear()
            return size

    def delete(self, name: str) -> None:
        """Remove a queue with its bindings."""
        with self.changed:
            self.queues.pop(name, None)
            self.state.queue_bindings_delete(name)
            for exchange in self.state.exchanges.values():
                table = exchange["table"]
                table[:] = [row for row in table if row[2] != name]
            self._forget_declarations()

    def topology(self) -> Topology:
        """What is declared now."""
        with self.changed:
            return Topology(
                queues=frozenset(self.queues),
                exchanges=deepcopy(self.state.exchanges),
                bindings=dict(self.state.bindings),
            )

    def reset(self, to: Topology | None = None) -> None:
        """Drop every message, and everything declared since ``to``."""
        keep = to or Topology(frozenset(), {}, {})
        with self.changed:
            for name in list(self.queues):
                if name in keep.queues:
                    self.queues[name].ready.clear()
                else:
                    del self.queues[name]
            state = self.state
            state.clear()
            state.exchanges.update(deepcopy(keep.exchanges))
            for (queue, exchange, routing_key), arguments in keep.bindings.items():
                state.binding_declare(queue, exchange, routing_key, arguments)
            self._forget_declarations()

    def _forget_declarations(self) -> None:
        """Kombu declares an entity once for each connection; a deleted one is new again."""
        for transport in list(self.transports):
            if transport.client is not None:
                transport.client.declared_entities.clear()

    @property
    def pristine(self) -> bool:
        """Whether nothing was ever declared or put since the last reset."""
        return not self.queues and not self.state.exchanges


def _nothing() -> None:
    pass


_brokers: dict[str, Broker] = {}
_brokers_lock = threading.Lock()


def broker(virtual_host: str) -> Broker:
    """The broker behind ``djcelery://localhost/virtual_host``."""
    with _brokers_lock:
        return _brokers.setdefault(virtual_host.strip("/"), Broker())


def forget(virtual_host: str) -> None:
    """Drop a broker for good."""
    with _brokers_lock:
        _brokers.pop(virtual_host.strip("/"), None)


def _priority(message: dict[str, Any]) -> int:
    """Zero to nine, nine first, as in RabbitMQ."""
    try:
        return max(0, min(9, int(message["properties"]["priority"])))
    except (KeyError, TypeError, ValueError):
        return 0


def _expiry(message: dict[str, Any], queue_ttl: float | None) -> float | None:
    # A task carries its own ``expires``: the worker that meets it too late stores REVOKED,
    # which a message that silently vanished could not do.
    own = message["properties"].get("expiration")
    seconds = float(own) / 1000 if own and "task" not in message["headers"] else None
    limits = [ttl for ttl in (seconds, queue_ttl) if ttl is not None]
    return time.time() + min(limits) if limits else None
