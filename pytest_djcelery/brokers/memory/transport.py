"""A kombu transport to the in-memory broker, which wakes its readers.

kombu's own ``memory://`` looks for messages once a second and keeps its queues for the
whole process. This one uses the same virtual AMQP layer (`kombu.transport.virtual`),
so exchanges, bindings and acknowledgements are kombu's; the queues are those of a `Broker`.
An app reaches it by its URL alone: ``djcelery://localhost/NAME``.
"""

from __future__ import annotations

from contextlib import suppress
from queue import Empty
from typing import TYPE_CHECKING, Any

from kombu.transport import virtual
from kombu.transport.base import to_rabbitmq_queue_arguments

from pytest_djcelery.brokers.memory.addresses import SCHEME, broker
from pytest_djcelery.clock import Deadline
from pytest_djcelery.messages.headers import Recorded

if TYPE_CHECKING:
    from pytest_djcelery.brokers.memory.queues import Ready


class QoS(virtual.QoS):
    """Acknowledgements wake a consumer that waits for its prefetch window to open."""

    def ack(self, delivery_tag: Any) -> None:
        super().ack(delivery_tag)
        self.channel.acknowledged(delivery_tag)

    def reject(self, delivery_tag: Any, requeue: bool = False) -> None:
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
        """Pass ``message_ttl`` and similar arguments on, as kombu's AMQP channels do."""
        return to_rabbitmq_queue_arguments(arguments, **kwargs)

    def exchange_declare(self, *args: Any, **kwargs: Any) -> Any:
        with self.broker.lock:
            return super().exchange_declare(*args, **kwargs)

    def queue_bind(self, *args: Any, **kwargs: Any) -> Any:
        with self.broker.lock:
            return super().queue_bind(*args, **kwargs)

    def queue_unbind(self, *args: Any, **kwargs: Any) -> Any:
        with self.broker.lock:
            return super().queue_unbind(*args, **kwargs)

    def queue_delete(
        self,
        queue: str,
        if_unused: bool = False,
        if_empty: bool = False,
        **_: Any,
    ) -> None:
        with self.broker.lock:
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

    def basic_publish(
        self, message: dict[str, Any], exchange: str, routing_key: str, **kwargs: Any
    ) -> Any:
        if exchange:
            self.broker.on_exchange()
        return super().basic_publish(message, exchange, routing_key, **kwargs)

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

    def get_timed(self, queue: str) -> Any:
        """Take the next message with an ETA, as `basic_get` does; `queue.Empty` without one."""
        return self._received(queue, self.broker.get_timed(queue))

    def get_ready(self, queue: str, ready: Ready) -> Any:
        """Take this message, whatever is before it in its queue."""
        return self._received(queue, self.broker.take(queue, ready))

    def _received(self, queue: str, payload: dict[str, Any]) -> Any:
        message = self.Message(self._taken(queue, payload), channel=self)
        self.qos.append(message, message.delivery_tag)
        return message

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:
        return self._taken(queue, self.broker.get(queue))

    def _taken(self, queue: str, message: dict[str, Any]) -> dict[str, Any]:
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
        """Redeliver a message to the queue it came from, ahead of the others there."""
        queue = self._queue_of.get(message.delivery_tag)
        if queue is not None:
            self.put_again(queue, message)

    def put_again(self, queue: str, message: virtual.Message, *, first: bool = True) -> int:
        """Put a message into a queue once more, marked as redelivered; return its delivery tag."""
        payload = message.serializable()
        properties = payload["properties"]
        info = {**properties["delivery_info"], "redelivered": True}
        payload["properties"] = {**properties, "delivery_info": info}
        record = self.broker.records.of.get(message.delivery_tag)
        payload["headers"] = Recorded(payload["headers"], record)
        return self.broker.put(queue, payload, first=first)

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
        """Make a thread that waits in `drain_events` return as after a timeout."""
        with self.broker.lock:
            self._interrupted = True
            self.broker.notify()

    def park(self, *, parked: bool) -> None:
        """Leave messages where they are until unparked."""
        with self.broker.lock:
            self.parked = parked
            self.broker.notify()

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:
        deadline = None if timeout is None else Deadline(timeout)
        while True:
            with self.broker.lock:
                version = self.broker.version
                self._raise_if_interrupted()
                self.delivering = not self.parked
            try:
                if self.delivering:
                    with suppress(Empty):
                        self._deliver_oldest()
                        return
            finally:
                self.delivering = False
                self.broker.on_delivered()
            with self.broker.lock:
                self._raise_if_interrupted()
                if self.broker.version == version:
                    if deadline is not None and deadline.passed:
                        raise TimeoutError
                    self.broker.wait(None if deadline is None else deadline.remaining)

    def _deliver_oldest(self) -> None:
        """Deliver the message that came first among all consumed queues.

        A server pushes messages in the order in which they are published: a task that is revoked
        and then sent is found revoked, although remote control has a separate queue. kombu's
        virtual transports would take turns. Remote control goes first, since in production it
        doesn't wait for tasks, which run in other processes. Private API (``_active_queues``,
        ``_get_and_deliver``, the name that `kombu.pidbox` gives its queues), checked on kombu 5.3
        to 5.7.

        Raises:
            Empty: There is no message.
        """
        first = None
        with self.broker.lock:
            # It may have been parked since it was asked to deliver: then it must deliver nothing.
            for channel in () if self.parked else self.channels:
                if not (channel._consumers and channel.qos.can_consume()):
                    continue
                for queue in channel._active_queues:
                    order = self.broker.next_order(queue)
                    if order is None:
                        continue
                    turn = not queue.endswith(".pidbox"), order
                    if first is None or turn < first[0]:
                        first = turn, channel, queue
        if first is None:
            raise Empty
        _, channel, queue = first
        channel._get_and_deliver(queue, self._deliver)

    def _raise_if_interrupted(self) -> None:
        if self._interrupted:
            self._interrupted = False
            raise TimeoutError

    def close_connection(self, connection: Any) -> None:
        super().close_connection(connection)
        self.broker.transports.discard(self)
