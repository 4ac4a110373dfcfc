"""An in-memory broker that wakes its readers, as a kombu transport.

kombu's own ``memory://`` looks for messages once a second and keeps its queues for the
whole process. This one stands on the same virtual AMQP layer (`kombu.transport.virtual`),
so exchanges, bindings and acknowledgements are kombu's; it adds one `Broker` for each
virtual host, a condition variable that wakes who waits, priorities, message TTL and
redelivery. An app reaches it by its URL alone: ``djcelery://localhost/NAME``.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import count
from queue import Empty
from typing import Any
from weakref import WeakSet

from kombu.transport import virtual
from kombu.transport.base import to_rabbitmq_queue_arguments

from pytest_djcelery.addresses import SCHEME
from pytest_djcelery.deadlines import Deadline


@dataclass(order=True, slots=True)
class _Ready:
    """A message in a queue: the highest priority first, then the oldest."""

    rank: int
    order: int
    message: dict[str, Any] = field(compare=False)
    expires_at: float | None = field(compare=False)


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
        """The next message that has not outlived its TTL; `queue.Empty` when there is none."""
        with self.changed:
            queue = self.queues.get(name)
            while queue is not None and queue.ready:
                ready = heapq.heappop(queue.ready)
                if ready.expires_at is None or ready.expires_at > time.time():
                    return ready.message
            raise Empty

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


class QoS(virtual.QoS):
    """Acknowledgements wake a consumer that waits for its prefetch window to open."""

    def ack(self, delivery_tag: Any) -> None:
        super().ack(delivery_tag)
        self.channel.acknowledged(delivery_tag)

    def reject(self, delivery_tag: Any, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's signature
        super().reject(delivery_tag, requeue=requeue)
        self.channel.acknowledged(delivery_tag)


class Channel(virtual.Channel):
    """kombu's virtual channel over a `Broker`."""

    QoS = QoS
    supports_fanout = True
    do_restore = True
    body_encoding = None  # nothing leaves the process, so nothing needs base64

    def __init__(self, connection: Transport, **kwargs: Any) -> None:
        super().__init__(connection, **kwargs)
        self.broker = connection.broker
        self._queue_of: dict[Any, str] = {}  # by delivery tag, until acknowledged

    def prepare_queue_arguments(self, arguments: Any, **kwargs: Any) -> Any:
        """Pass ``message_ttl`` and its like on, as kombu's AMQP channels do."""
        return to_rabbitmq_queue_arguments(arguments, **kwargs)

    def exchange_declare(self, *args: Any, **kwargs: Any) -> Any:
        with self.broker.changed:
            return super().exchange_declare(*args, **kwargs)

    def queue_bind(self, *args: Any, **kwargs: Any) -> Any:
        with self.broker.changed:
            return super().queue_bind(*args, **kwargs)

    def queue_unbind(self, *args: Any, **kwargs: Any) -> Any:
        with self.broker.changed:
            return super().queue_unbind(*args, **kwargs)

    def queue_delete(
        self,
        queue: str,
        if_unused: bool = False,  # noqa: FBT001, FBT002 - kombu's signature
        if_empty: bool = False,  # noqa: FBT001, FBT002
        **_: Any,
    ) -> None:
        with self.broker.changed:
            found = self.broker.queues.get(queue)
            in_use = found is not None and found.consumers
            if not ((if_empty and self._size(queue)) or (if_unused and in_use)):
                self.broker.delete(queue)

    def basic_consume(self, queue: str, *args: Any, **kwargs: Any) -> Any:
        self.broker.declare(queue).consumers += 1
        super().basic_consume(queue, *args, **kwargs)
        self.broker.notify()

    def basic_cancel(self, consumer_tag: str) -> None:
        queue = self._tag_to_queue.get(consumer_tag)
        super().basic_cancel(consumer_tag)
        found = self.broker.queues.get(queue) if queue else None
        if found is not None and queue is not None:
            found.consumers = max(0, found.consumers - 1)
            if found.auto_delete and not found.consumers:
                self.broker.delete(queue)

    def acknowledged(self, delivery_tag: Any) -> None:
        """Forget where a message came from and let its consumer look again."""
        self._queue_of.pop(delivery_tag, None)
        self.broker.notify()

    def _next_delivery_tag(self) -> None:
        return None  # the broker numbers each copy of a message

    def _has_queue(self, queue: str, **_: Any) -> bool:
        return queue in self.broker.queues

    def _new_queue(self, queue: str, **kwargs: Any) -> None:
        ttl = (kwargs.get("arguments") or {}).get("x-message-ttl")
        self.broker.declare(
            queue,
            auto_delete=bool(kwargs.get("auto_delete")),
            ttl=None if ttl is None else float(ttl) / 1000,
        )

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:  # noqa: ARG002 - kombu's signature
        message = self.broker.get(queue)
        self._queue_of[message["properties"]["delivery_tag"]] = queue
        return message

    def _put(self, queue: str, message: dict[str, Any], **_: Any) -> None:
        self.broker.put(queue, message)

    def _put_fanout(
        self, exchange: str, message: dict[str, Any], routing_key: str, **_: Any
    ) -> None:
        for queue in self._lookup(exchange, routing_key):
            self.broker.put(queue, message)

    def _queue_bind(self, *_: Any) -> None:
        """The exchange's table already has it."""

    def _size(self, queue: str) -> int:
        return self.broker.depth(queue)

    def _purge(self, queue: str) -> int:
        return self.broker.purge(queue)

    def _restore(self, message: virtual.Message) -> None:
        """Redeliver to the queue it came from, ahead of what waits there."""
        queue = self._queue_of.get(message.delivery_tag)
        payload = message.serializable()
        payload["properties"]["delivery_info"]["redelivered"] = True
        if queue is not None:
            self.broker.put(queue, payload, first=True)

    def after_reply_message_received(self, queue: str) -> None:
        self.queue_delete(queue)


class Transport(virtual.Transport):
    """A connection to a `Broker` whose `drain_events` sleeps until there is something to do."""

    Channel = Channel
    driver_type = "memory"
    driver_name = SCHEME
    implements = virtual.Transport.implements.extend(
        asynchronous=False,
        exchange_type=frozenset(["direct", "topic", "fanout"]),
        heartbeats=False,
    )

    def __init__(self, client: Any, **kwargs: Any) -> None:
        self.broker = broker(client.virtual_host or "")
        self._interrupted = False
        self.parked = False
        self.delivering = False
        super().__init__(client, **kwargs)
        self.state = self.broker.state
        self.broker.transports.add(self)

    def driver_version(self) -> str:
        return "N/A"

    def interrupt(self) -> None:
        """Make a thread that waits in `drain_events` come back as after a time-out."""
        with self.broker.changed:
            self._interrupted = True
            self.broker.notify()

    def park(self, *, parked: bool) -> None:
        """Leave messages where they are until unparked."""
        with self.broker.changed:
            self.parked = parked
            self.broker.notify()

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:  # noqa: ARG002 - kombu's signature
        deadline = None if timeout is None else Deadline(timeout)
        while True:
            with self.broker.changed:
                version = self.broker.version
                self._raise_if_interrupted()
                self.delivering = not self.parked
            try:
                if self.delivering:
                    with suppress(Empty):
                        self.cycle.get(self._deliver)
                        return
            finally:
                self.delivering = False
                self.broker.on_delivered()
            with self.broker.changed:
                self._raise_if_interrupted()
                if self.broker.version == version:
                    if deadline is not None and deadline.passed:
                        raise TimeoutError
                    self.broker.changed.wait(None if deadline is None else deadline.remaining)

    def _raise_if_interrupted(self) -> None:
        if self._interrupted:
            self._interrupted = False
            raise TimeoutError

    def close_connection(self, connection: Any) -> None:
        super().close_connection(connection)
        self.broker.transports.discard(self)
