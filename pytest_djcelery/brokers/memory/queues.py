"""The in-memory broker: its queues, and the messages that wait in them.

There is one `Broker` for each virtual host. It has priorities, message TTL, redelivery, and a
condition variable that wakes its readers; kombu reaches it through
`pytest_djcelery.brokers.memory.transport`.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import chain, count
from queue import Empty
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakSet

from kombu.transport import virtual

from pytest_djcelery.brokers.memory.declarations import Declarations
from pytest_djcelery.messages.headers import received
from pytest_djcelery.messages.origins import Records

if TYPE_CHECKING:
    from pytest_djcelery.messages.sent_task import SentTask


class Ready(NamedTuple):
    """A message in a queue, ordered by priority, then by age; no two are equally old."""

    rank: int
    order: int
    message: dict[str, Any]
    put_at: datetime
    expires_at: float | None

    @property
    def turn(self) -> tuple[datetime, int]:
        """Its position by time among the messages of all queues."""
        return self.put_at, self.order


@dataclass(slots=True)
class _Queue:
    """The messages of a queue, in two heaps, since workers treat those with an ETA differently."""

    plain: list[Ready] = field(default_factory=list)
    timed: list[Ready] = field(default_factory=list)
    auto_delete: bool = False
    ttl: float | None = None  # seconds
    consumers: int = 0

    def __len__(self) -> int:
        return len(self.plain) + len(self.timed)

    def clear(self) -> None:
        self.plain.clear()
        self.timed.clear()


@dataclass(frozen=True, slots=True)
class Topology:
    """What was declared at some moment, so that it can be restored."""

    queues: frozenset[str]
    exchanges: dict[str, Any]
    bindings: dict[Any, Any]
    declared: dict[str, Any] = field(default_factory=dict)  # kombu's queues, by name


class Broker:
    """The queues of one virtual host, shared by all connections to it."""

    def __init__(self) -> None:
        self.state = virtual.BrokerState()
        self.queues: dict[str, _Queue] = {}
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)
        self._waiting = 0  # the number of waiting readers
        self.transports: WeakSet[virtual.Transport] = WeakSet()
        self.version = 0
        self.on_delivered: Callable[[], None] = lambda: None  # a reader is done, or found nothing
        # Called before a message goes to an exchange, so that queues can be bound to it in time.
        self.on_exchange: Callable[[], None] = lambda: None
        self.declarations = Declarations(self)
        self.records = Records()
        self.purged: set[str] = set()
        """The ids of the tasks whose messages were dropped because someone asked for it."""
        self._order = count()
        self._restored_order = count(-1, -1)
        self._tags = count(1)

    @contextmanager
    def callbacks_set(self, **callbacks: Callable[[], None]) -> Iterator[None]:
        """Within the ``with``, use these as ``on_delivered`` or ``on_exchange``."""
        before = self.on_delivered, self.on_exchange
        self.on_delivered = callbacks.get("on_delivered", self.on_delivered)
        self.on_exchange = callbacks.get("on_exchange", self.on_exchange)
        try:
            yield
        finally:
            self.on_delivered, self.on_exchange = before

    def notify(self) -> None:
        """Wake every reader."""
        with self.lock:
            self.version += 1
            if self._waiting:
                self._changed.notify_all()

    def wait(self, seconds: float | None) -> None:
        """Sleep until there is something new to read; the caller holds the lock."""
        self._waiting += 1
        try:
            self._changed.wait(seconds)
        finally:
            self._waiting -= 1

    def declare(self, name: str, *, auto_delete: bool = False, ttl: float | None = None) -> _Queue:
        """Return the queue ``name``, which is made if it is missing."""
        with self.lock:
            queue = self.queues.get(name)
            if queue is None:
                queue = self.queues[name] = _Queue(auto_delete=auto_delete, ttl=ttl)
            return queue

    def put(self, name: str, message: dict[str, Any], *, first: bool = False) -> int:
        """Put a copy of a message (a fanout makes many) at the end of a queue, or first.

        Returns:
            The delivery tag of the copy.

        Raises:
            TypeError: Headers or properties can't be sent to a real broker, as kombu finds too.
        """
        properties = received(message["properties"])
        tag: int = next(self._tags)
        properties["delivery_tag"] = tag
        record = getattr(message["headers"], "record", None)
        message = {
            **message,
            "headers": _kept_headers(message["headers"], record),
            "properties": properties,
        }
        with self.lock:
            queue = self.declare(name)
            order = next(self._restored_order if first else self._order)
            now = datetime.now(timezone.utc)
            expires_at = _expiry(message, queue.ttl)
            ready = Ready(-_priority(properties), order, message, now, expires_at)
            if record is not None:
                self.records.keep(tag, record)
            heapq.heappush(queue.timed if _has_eta(message) else queue.plain, ready)
            self.notify()
        return tag

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """Have empty queues within the ``with``; then drop what is in them, and have all back."""
        with self.lock:
            before = {name: (queue.plain, queue.timed) for name, queue in self.queues.items()}
            for queue in self.queues.values():
                queue.plain, queue.timed = [], []
        try:
            yield
        finally:
            with self.lock:
                for name in {*self.queues, *(name for name, held in before.items() if any(held))}:
                    queue = self.declare(name)
                    queue.plain, queue.timed = before.get(name, ([], []))

    def next_order(self, name: str) -> int | None:
        """The number of a queue's next message in the order of all queues."""
        queue = self.queues.get(name)
        if queue is None:
            return None
        heads = [head for heap in (queue.plain, queue.timed) if (head := _head(heap)) is not None]
        return min(heads).order if heads else None

    def get(self, name: str) -> dict[str, Any]:
        """Take the next message; `queue.Empty` when there is none."""
        with self.lock:
            queue = self.queues.get(name) or _Queue()
            plain, timed = _head(queue.plain), _head(queue.timed)
            first = timed is None or (plain is not None and plain < timed)
            return _take(queue.plain if first else queue.timed)

    def get_timed(self, name: str) -> dict[str, Any]:
        """Take the next message with an ETA; `queue.Empty` when there is none."""
        with self.lock:
            return _take(self.queues[name].timed)

    def waiting(self, takes: Callable[[str], bool]) -> list[tuple[str, Ready]]:
        """All ready messages without an ETA with their queues, in the order of `ready`."""
        with self.lock:
            of = {
                ready.order: name
                for name, queue in self.queues.items()
                if takes(name)
                for ready in queue.plain
            }
            return [(of[ready.order], ready) for ready in self.ready(takes)]

    def take(self, name: str, ready: Ready) -> dict[str, Any]:
        """Take one of the messages that are `waiting`."""
        with self.lock:
            heap = self.queues[name].plain
            heap.remove(ready)
            heapq.heapify(heap)
            return _for_reader(ready.message)

    def oldest(self, takes: Callable[[str], bool]) -> tuple[str, Ready, bool] | None:
        """The next message with an ETA, or else the next of the others.

        Args:
            takes: Whether a queue is included.

        Returns:
            Its queue, the message, which stays there, and whether it has an ETA.
        """
        found: tuple[str, Ready, bool] | None = None
        with self.lock:
            for name, queue in self.queues.items():
                if not (queue.plain or queue.timed) or not takes(name):
                    continue
                timed = _head(queue.timed) if queue.timed else None
                head = timed or _head(queue.plain)
                if head is not None and (
                    found is None or (timed is not None, -head.order) > (found[2], -found[1].order)
                ):
                    found = name, head, timed is not None
        return found

    def ready(self, takes: Callable[[str], bool]) -> list[Ready]:
        """All ready messages without an ETA, in the order in which `oldest` finds them."""
        with self.lock:
            queues = [
                sorted(_alive(queue.plain), reverse=True)
                for name, queue in self.queues.items()
                if queue.plain and takes(name)
            ]
        heads = [(queue[-1].order, queue) for queue in queues if queue]
        heapq.heapify(heads)
        found = []
        while heads:
            _, queue = heads[0]
            found.append(queue.pop())
            if queue:
                heapq.heapreplace(heads, (queue[-1].order, queue))
            else:
                heapq.heappop(heads)
        return found

    def timed(self, takes: Callable[[str], bool]) -> list[Ready]:
        """All ready messages with an ETA, in no particular order."""
        with self.lock:
            queues = [queue for name, queue in self.queues.items() if queue.timed and takes(name)]
            return list(chain.from_iterable(_alive(queue.timed) for queue in queues))

    @property
    def has_timed(self) -> bool:
        """Whether any queue has a message with an ETA."""
        with self.lock:
            return any(queue.timed for queue in self.queues.values())

    def depth(self, name: str) -> int:
        """How many messages are ready in a queue."""
        queue = self.queues.get(name)
        return 0 if queue is None else len(queue)

    def depths(self) -> dict[str, int]:
        """The number of ready messages by queue, without empty queues."""
        with self.lock:
            return {name: len(queue) for name, queue in self.queues.items() if len(queue)}

    def purge(self, name: str) -> int:
        """Drop the ready messages of a queue, and return their number."""
        with self.lock:
            queue = self.queues.get(name)
            if queue is None:
                return 0
            size = len(queue)
            self.purged.update(
                str(ready.message["headers"].get("id")) for ready in (*queue.plain, *queue.timed)
            )
            queue.clear()
            return size

    def delete(self, name: str) -> None:
        """Remove a queue with its bindings."""
        with self.lock:
            self.queues.pop(name, None)
            self.state.queue_bindings_delete(name)
            for exchange in self.state.exchanges.values():
                table = exchange["table"]
                table[:] = [row for row in table if row[2] != name]
            self._forget_declarations()

    def topology(self) -> Topology:
        """What is declared now."""
        with self.lock:
            return Topology(
                queues=frozenset(self.queues),
                exchanges=deepcopy(self.state.exchanges),
                bindings=dict(self.state.bindings),
                declared=dict(self.declarations.present),
            )

    def reset(self, to: Topology | None = None) -> None:
        """Drop every message, and everything declared since ``to``."""
        keep = to or Topology(frozenset(), {}, {})
        with self.lock:
            if self.pristine and not (keep.queues or keep.exchanges):
                return  # it is called at both ends of each test
            for name in list(self.queues):
                if name in keep.queues:
                    self.queues[name].clear()
                else:
                    del self.queues[name]
            self.records.clear()
            self.purged.clear()
            state = self.state
            if (state.exchanges, state.bindings) != (keep.exchanges, keep.bindings):
                state.clear()
                state.exchanges.update(deepcopy(keep.exchanges))
                for (queue, exchange, routing_key), arguments in keep.bindings.items():
                    state.binding_declare(queue, exchange, routing_key, arguments)
            self._forget_declarations()
            self.declarations.present.update(keep.declared)

    def _forget_declarations(self) -> None:
        """Make kombu declare entities again: it remembers, by connection, those it has declared."""
        self.declarations.present.clear()
        for transport in list(self.transports):
            if transport.client is not None:
                transport.client.declared_entities.clear()

    @property
    def pristine(self) -> bool:
        """Whether nothing was ever declared or put since the last reset."""
        return not self.queues and not self.state.exchanges


def _head(heap: list[Ready]) -> Ready | None:
    """The next message of a heap; those before it that outlived their TTL are gone."""
    while heap:
        if _is_alive(heap[0]):
            return heap[0]
        heapq.heappop(heap)
    return None


def _alive(heap: list[Ready]) -> list[Ready]:
    """What a reader will find in a heap; one whose turn comes later may outlive its TTL first."""
    return [ready for ready in heap if _is_alive(ready)]


def _is_alive(ready: Ready) -> bool:
    return ready.expires_at is None or ready.expires_at > time.time()


def _take(heap: list[Ready]) -> dict[str, Any]:
    if _head(heap) is None:
        raise Empty
    return _for_reader(heapq.heappop(heap).message)


def _for_reader(message: dict[str, Any]) -> dict[str, Any]:
    """A message with headers that its reader may change."""
    return {**message, "headers": received(message["headers"])}


def _kept_headers(sent: dict[str, Any], record: SentTask | None) -> Mapping[str, Any]:
    """Headers as a queue keeps them: those of the record, which thousands may wait beside."""
    if record is not None and sent == record.headers:
        return record.headers
    return received(sent)


def _has_eta(message: dict[str, Any]) -> bool:
    """Whether the headers have an ETA; with protocol 1 a worker finds it in the body."""
    return message["headers"].get("eta") is not None


def _priority(properties: dict[str, Any]) -> int:
    """From 0 to 9, where 9 comes first, as in RabbitMQ."""
    given = properties.get("priority")
    if not given:  # true of nearly all messages
        return 0
    try:
        return max(0, min(9, int(given)))
    except (TypeError, ValueError):
        return 0


def _expiry(message: dict[str, Any], queue_ttl: float | None) -> float | None:
    # A task message has its own ``expires``: the worker that gets it too late stores REVOKED,
    # which could not happen if the message had silently vanished.
    own = message["properties"].get("expiration")
    if not own and queue_ttl is None:
        return None
    seconds = float(own) / 1000 if own and "task" not in message["headers"] else None
    limits = [ttl for ttl in (seconds, queue_ttl) if ttl is not None]
    return time.time() + min(limits) if limits else None
