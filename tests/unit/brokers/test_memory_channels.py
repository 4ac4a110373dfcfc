"""Channels and connections of the in-memory broker, by the methods that kombu calls."""

from __future__ import annotations

import threading
from itertools import count
from queue import Empty
from typing import TYPE_CHECKING, Any

import pytest
from kombu import Connection, Consumer, Exchange, Producer, Queue

from pytest_djcelery.brokers.memory import addresses
from pytest_djcelery.brokers.memory.addresses import broker
from pytest_djcelery.messages.headers import Recorded
from tests.unit.sending import message as sent_message

if TYPE_CHECKING:
    from pytest_djcelery.brokers.memory.queues import Broker

_numbers = count()


@pytest.fixture
def queues(virtual_host: str) -> Broker:
    return broker(virtual_host)


def publish(connection: Connection, *bodies: object, **options: Any) -> None:
    producer = Producer(connection)
    for body in bodies:
        producer.publish(body, **options)


def consume(channel: Any, queue: str, tag: str) -> None:
    """Consume as kombu's own pidbox does, by position."""
    no_ack = True
    channel.basic_consume(queue, no_ack, lambda _: None, tag)


def drained(connection: Connection) -> int:
    """How many messages the consumers of a connection get without waiting."""
    for number in range(20):
        try:
            connection.drain_events(timeout=0)
        except TimeoutError:
            return number
    raise AssertionError("there is no end of them")


# Acknowledgement ---------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["ack", "reject"])
def test_a_message_that_is_settled_is_not_delivered_again(
    connection: Connection, queues: Broker, end: str
) -> None:
    publish(connection, "one", routing_key="q")
    with connection.channel() as channel:
        message = channel.basic_get("q")
        tag = message.delivery_tag
        assert channel._queue_of == {tag: "q"}
        version = queues.version
        getattr(channel, f"basic_{end}")(tag)
        assert channel._queue_of == {}
        assert queues.version > version  # who waits for its window looks again
    assert queues.depths() == {}


def test_a_rejected_message_is_dropped_unless_it_is_to_be_requeued(
    connection: Connection, queues: Broker
) -> None:
    publish(connection, "one", "two", routing_key="q")
    channel = connection.default_channel
    channel.qos.reject(channel.basic_get("q").delivery_tag)
    assert queues.depths() == {"q": 1}
    channel.qos.reject(channel.basic_get("q").delivery_tag, requeue=True)
    assert queues.depths() == {"q": 1}


def test_a_requeued_message_keeps_its_record_and_headers(
    connection: Connection, queues: Broker
) -> None:
    record = sent_message()
    publish(connection, "one", routing_key="q", headers=Recorded({"id": "a"}, record))
    channel = connection.default_channel
    channel.basic_get("q").requeue()
    again = channel.basic_get("q")
    assert again.headers == {"id": "a"}
    assert again.delivery_info["redelivered"] is True
    assert queues.records.of[again.delivery_tag] is record


def test_a_message_whose_queue_is_unknown_is_not_restored(
    connection: Connection, queues: Broker
) -> None:
    publish(connection, "one", routing_key="q")
    channel = connection.default_channel
    message = channel.basic_get("q")
    channel._queue_of.clear()
    message.requeue()
    assert queues.depths() == {}


def test_a_message_with_an_eta_is_taken_by_itself_and_must_be_acknowledged(
    connection: Connection, queues: Broker
) -> None:
    publish(connection, "plain", routing_key="q")
    publish(connection, "timed", routing_key="q", headers={"eta": "later"})
    with connection.channel() as channel:
        message = channel.get_timed("q")
        assert message.payload == "timed"
        assert message.channel is channel
        with pytest.raises(Empty):
            channel.get_timed("q")
    assert queues.depth("q") == 2  # it has come back
    with connection.channel() as channel:
        channel.get_timed("q").ack()
    assert queues.depth("q") == 1


def test_all_that_was_taken_and_has_an_eta_comes_back(
    connection: Connection, queues: Broker
) -> None:
    publish(connection, 1, 2, routing_key="q", headers={"eta": "later"})
    with connection.channel() as channel:
        assert [channel.get_timed("q").payload for _ in range(2)] == [1, 2]
        assert queues.depth("q") == 0
    assert queues.depth("q") == 2


# Declarations ------------------------------------------------------------------------------


def test_entities_can_be_declared_by_position(connection: Connection, queues: Broker) -> None:
    channel = connection.default_channel
    channel.exchange_declare("log", "topic")
    channel.queue_declare("q")
    channel.queue_bind("q", "log", "shop.*")
    assert channel.typeof("log").type == "topic"
    publish(connection, "one", exchange="log", routing_key="shop.error")
    assert queues.depths() == {"q": 1}
    channel.queue_unbind("q", "log", "shop.*")
    assert queues.topology().bindings == {}


def test_arguments_of_queues_are_those_of_rabbitmq(connection: Connection, queues: Broker) -> None:
    queue = Queue("q", message_ttl=10, auto_delete=True)
    queue(connection.default_channel).declare()
    assert queues.queues["q"].ttl == 10.0
    assert queues.queues["q"].auto_delete is True
    Queue("plain")(connection.default_channel).declare()
    assert queues.queues["plain"].ttl is None
    assert queues.queues["plain"].auto_delete is False
    prepared = connection.default_channel.prepare_queue_arguments({"a": 1}, max_length=3)
    assert prepared == {"a": 1, "x-max-length": 3}


def test_a_reset_brings_the_arguments_of_bindings_back(
    connection: Connection, queues: Broker
) -> None:
    exchange = Exchange("log", "topic")
    queue = Queue("q", exchange, routing_key="a", binding_arguments={"x-match": "all"})
    queue(connection.default_channel).declare()
    before = queues.topology()
    assert [*before.bindings.values()] == [{"x-match": "all"}]
    queues.reset()
    assert queues.topology().bindings == {}
    queues.reset(before)
    assert queues.topology().bindings == before.bindings
    assert queues.topology().exchanges == before.exchanges


@pytest.mark.parametrize(
    ("flags", "stays"),
    [({}, False), ({"if_unused": True}, True), ({"if_empty": True}, True)],
)
def test_a_queue_that_is_in_use_is_deleted_unless_that_is_excluded(
    connection: Connection, queues: Broker, *, flags: dict[str, bool], stays: bool
) -> None:
    channel = connection.default_channel
    queue = Queue("q", Exchange("log", "topic"), routing_key="#")
    with Consumer(channel, [queue]):
        publish(connection, "one", exchange="log", routing_key="a")
        channel.queue_delete("q", **flags)
        assert ("q" in queues.queues) is stays
        assert bool(queues.topology().bindings) is stays


def test_an_unused_or_empty_queue_is_deleted_on_that_condition(
    connection: Connection, queues: Broker
) -> None:
    channel = connection.default_channel
    for flags in ({"if_unused": True}, {"if_empty": True}, {"if_unused": True, "if_empty": True}):
        channel.queue_declare("q")
        channel.queue_delete("q", **flags)
        assert queues.queues == {}
        channel.queue_delete("q", **flags)  # of one that is not there, nothing happens
    publish(connection, "one", routing_key="full")
    channel.queue_delete("full", if_unused=True)
    assert queues.queues == {}


def test_a_reply_queue_is_deleted_after_its_reply(connection: Connection, queues: Broker) -> None:
    connection.default_channel.queue_declare("replies")
    connection.default_channel.after_reply_message_received("replies")
    assert queues.queues == {}


# Consumers ---------------------------------------------------------------------------------


def test_an_auto_delete_queue_stays_while_one_of_its_consumers_does(
    connection: Connection, queues: Broker
) -> None:
    channel = connection.default_channel
    channel.queue_declare("q", auto_delete=True)
    channel.queue_declare("kept")
    for tag in ("one", "two", "three"):
        consume(channel, "q", tag)
    consume(channel, "kept", "of kept")
    for tag in ("one", "two"):
        channel.basic_cancel(tag)
        assert "q" in queues.queues
    channel.basic_cancel("unknown")
    channel.basic_cancel("three")
    channel.basic_cancel("of kept")
    assert set(queues.queues) == {"kept"}


def test_a_cancelled_consumer_gets_nothing(connection: Connection, queues: Broker) -> None:
    consumer = Consumer(connection, [Queue("q")], callbacks=[lambda *_: None])
    consumer.consume()
    consumer.cancel()
    publish(connection, "one", routing_key="q")
    assert drained(connection) == 0
    assert queues.depths() == {"q": 1}


def test_a_consumer_may_outlive_its_queue(connection: Connection, queues: Broker) -> None:
    channel = connection.default_channel
    consume(channel, "q", "one")
    queues.delete("q")
    channel.basic_cancel("one")
    assert queues.queues == {}


def test_a_new_consumer_wakes_those_that_wait(connection: Connection, queues: Broker) -> None:
    version = queues.version
    consume(connection.default_channel, "q", "one")
    assert queues.version > version


def test_a_channel_without_consumers_delays_no_other(connection: Connection) -> None:
    bodies: list[object] = []
    connection.default_channel.queue_declare("other")
    with (
        connection.channel(),
        connection.channel() as channel,
        Consumer(
            channel, [Queue("empty"), Queue("q")], callbacks=[lambda body, _: bodies.append(body)]
        ),
    ):
        publish(connection, "one", routing_key="q")
        assert drained(connection) == 1
    assert bodies == ["one"]


def test_messages_come_in_the_order_of_all_queues_and_remote_control_first(
    connection: Connection,
) -> None:
    bodies: list[object] = []
    names = ("a", "b", "c.celery.pidbox")
    with Consumer(
        connection, [Queue(name) for name in names], callbacks=[lambda body, _: bodies.append(body)]
    ):
        for number, name in enumerate((*names, *names)):
            publish(connection, f"{number} {name[:1]}", routing_key=name)
        drained(connection)
    assert bodies == ["2 c", "5 c", "0 a", "1 b", "3 a", "4 b"]


def test_only_a_publish_to_an_exchange_is_announced(connection: Connection, queues: Broker) -> None:
    announced: list[int] = []
    exchange = Exchange("log", "fanout")
    Queue("q", exchange)(connection.default_channel).declare()
    with queues.callbacks_set(on_exchange=lambda: announced.append(queues.depth("q"))):
        publish(connection, "straight", routing_key="q")
        assert announced == []
        publish(connection, "through", exchange=exchange, routing_key="any")
    assert announced == [1]  # before it is there
    assert queues.depth("q") == 2


# Waiting -----------------------------------------------------------------------------------


def test_a_reader_says_after_each_look_that_it_is_done(
    connection: Connection, queues: Broker
) -> None:
    looks: list[bool] = []
    transport = connection.transport
    during: list[bool] = []
    with (
        queues.callbacks_set(on_delivered=lambda: looks.append(transport.delivering)),
        Consumer(
            connection, [Queue("q")], callbacks=[lambda *_: during.append(transport.delivering)]
        ),
    ):
        publish(connection, "one", routing_key="q")
        assert transport.delivering is False
        connection.drain_events(timeout=0)
        assert (looks, during) == ([False], [True])
        transport.park(parked=True)
        publish(connection, "two", routing_key="q")
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0)
        assert during == [True]
        transport.park(parked=False)
        connection.drain_events(timeout=0)
    assert during == [True, True]
    assert set(looks) == {False}


def test_an_interrupt_ends_only_one_wait(connection: Connection) -> None:
    bodies: list[object] = []
    with Consumer(connection, [Queue("q")], callbacks=[lambda body, _: bodies.append(body)]):
        publish(connection, "one", routing_key="q")
        connection.transport.interrupt()
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=5)
        assert bodies == []
        connection.drain_events(timeout=5)
    assert bodies == ["one"]


@pytest.mark.parametrize("timeout", [None, 10])
def test_a_sleeping_reader_is_woken_by_an_interrupt(
    virtual_host: str, queues: Broker, timeout: float | None
) -> None:
    ended: list[str] = []
    asleep = threading.Event()
    connection = Connection(addresses.url(virtual_host))

    def read() -> None:
        with connection, Consumer(connection, [Queue("q")]):
            try:
                connection.drain_events(timeout=timeout)
            except TimeoutError:
                ended.append("interrupted")

    thread = threading.Thread(target=read, daemon=True)
    with queues.callbacks_set(on_delivered=asleep.set):
        thread.start()
        assert asleep.wait(5)
        connection.transport.interrupt()
        thread.join(5)
    assert ended == ["interrupted"]


def test_a_wait_for_nothing_ends_at_its_deadline(connection: Connection) -> None:
    with Consumer(connection, [Queue("q")]), pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.05)


def test_what_is_put_while_a_reader_looks_is_not_missed(
    connection: Connection, queues: Broker
) -> None:
    bodies: list[object] = []
    put: list[int] = []

    def put_once() -> None:
        if not put:
            put.append(1)
            publish(connection, "one", routing_key="q")

    with (
        Consumer(connection, [Queue("q")], callbacks=[lambda body, _: bodies.append(body)]),
        queues.callbacks_set(on_delivered=put_once),
    ):
        connection.drain_events(timeout=10)
    assert bodies == ["one"]


def test_a_connection_is_one_of_its_broker_until_it_closes(virtual_host: str) -> None:
    connection = Connection(addresses.url(virtual_host))
    transport = connection.transport
    connection.connect()
    assert transport in broker(virtual_host).transports
    assert transport.state is broker(virtual_host).state
    assert (transport.driver_type, transport.driver_version()) == ("memory", "N/A")
    connection.release()
    assert transport not in broker(virtual_host).transports
