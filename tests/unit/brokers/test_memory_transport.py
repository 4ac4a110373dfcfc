"""The in-memory broker, used as any kombu transport is."""

from __future__ import annotations

import socket
import threading
from itertools import count
from typing import Any

import pytest
import time_machine
from hypothesis import given
from hypothesis import strategies as st
from kombu import Connection, Consumer, Exchange, Producer, Queue
from kombu.exceptions import ChannelError

from pytest_djcelery.brokers.memory import addresses
from pytest_djcelery.brokers.memory.addresses import broker, forget

_numbers = count()


def received(connection: Connection, queue: Queue, limit: int = 10) -> list[object]:
    """Everything that a consumer of ``queue`` gets without waiting."""
    bodies: list[object] = []

    def on_message(body: object, message: Any) -> None:
        bodies.append(body)
        message.ack()

    with Consumer(connection, [queue], callbacks=[on_message]):
        for _ in range(limit):
            try:
                connection.drain_events(timeout=0)
            except TimeoutError:
                break
    return bodies


def publish(connection: Connection, *bodies: object, **options: object) -> None:
    producer = Producer(connection)
    for body in bodies:
        producer.publish(body, **options)


def test_a_direct_exchange_delivers_by_routing_key(connection: Connection) -> None:
    exchange = Exchange("colours", "direct")
    red = Queue("red", exchange, routing_key="red")
    blue = Queue("blue", exchange, routing_key="blue")
    publish(connection, "rose", exchange=exchange, routing_key="red", declare=[red, blue])
    assert (received(connection, red), received(connection, blue)) == (["rose"], [])


def test_a_topic_exchange_delivers_by_pattern(connection: Connection) -> None:
    exchange = Exchange("log", "topic")
    errors = Queue("errors", exchange, routing_key="*.error")
    shop = Queue("shop", exchange, routing_key="shop.#")
    for key in ("shop.error", "shop.info", "mail.error", "mail.info"):
        publish(connection, key, exchange=exchange, routing_key=key, declare=[errors, shop])
    assert received(connection, errors) == ["shop.error", "mail.error"]
    assert received(connection, shop) == ["shop.error", "shop.info"]


def test_a_fanout_exchange_gives_each_queue_a_separate_copy(connection: Connection) -> None:
    exchange = Exchange("news", "fanout")
    queues = [Queue(name, exchange) for name in ("one", "two")]
    publish(connection, "hello", exchange=exchange, declare=queues)
    assert [received(connection, queue) for queue in queues] == [["hello"], ["hello"]]


def test_the_default_exchange_delivers_to_the_queue_of_that_name(connection: Connection) -> None:
    publish(connection, "hello", routing_key="plain")
    assert received(connection, Queue("plain")) == ["hello"]


@given(st.lists(st.integers(min_value=-3, max_value=12) | st.none(), max_size=12))
def test_the_highest_priority_comes_first_and_equals_in_order(priorities: list[int | None]) -> None:
    name = f"priorities-{next(_numbers)}"
    with Connection(addresses.url(name)) as connection:
        for order, priority in enumerate(priorities):
            publish(connection, [order, priority], routing_key="q", priority=priority)
        found = received(connection, Queue("q"), limit=20)
    forget(name)
    ranks = [max(0, min(9, priority or 0)) for _, priority in found]
    assert ranks == sorted(ranks, reverse=True)
    assert found == sorted(found, key=lambda each: (-max(0, min(9, each[1] or 0)), each[0]))


def test_a_message_that_outlives_its_ttl_is_gone(connection: Connection) -> None:
    with time_machine.travel(0, tick=False) as clock:
        publish(connection, "short", routing_key="q", expiration=10)
        publish(connection, "long", routing_key="q", expiration=30)
        clock.shift(20)
        assert received(connection, Queue("q")) == ["long"]


def test_a_queue_can_limit_the_life_of_its_messages(connection: Connection) -> None:
    queue = Queue("q", message_ttl=10)
    with time_machine.travel(0, tick=False) as clock:
        publish(connection, "gone", routing_key="q", declare=[queue])
        clock.shift(11)
        publish(connection, "here", routing_key="q", declare=[queue])
        assert received(connection, queue) == ["here"]


def test_an_unacknowledged_message_is_redelivered_first_when_its_channel_closes(
    connection: Connection,
) -> None:
    publish(connection, "first", "second", routing_key="q")
    with connection.channel() as channel:
        message = channel.basic_get("q")
        assert not message.delivery_info.get("redelivered")
    with connection.channel() as channel:
        again = channel.basic_get("q")
        assert again.payload == "first"
        assert again.delivery_info["redelivered"] is True


def test_a_rejected_message_is_requeued_or_dropped_as_asked(connection: Connection) -> None:
    publish(connection, "first", "second", routing_key="q")
    channel = connection.default_channel
    channel.basic_get("q").requeue()
    channel.basic_get("q").reject()
    assert channel.basic_get("q").payload == "second"
    assert channel.basic_get("q") is None


def test_prefetch_holds_messages_back_until_an_acknowledgement(connection: Connection) -> None:
    publish(connection, 1, 2, routing_key="q")
    messages: list[object] = []
    consumer = Consumer(connection, [Queue("q")], on_message=messages.append)
    consumer.qos(prefetch_count=1)
    with consumer:
        connection.drain_events(timeout=0)
        with pytest.raises(socket.timeout):
            connection.drain_events(timeout=0)
        messages[0].ack()
        connection.drain_events(timeout=0)
    assert [message.payload for message in messages] == [1, 2]


def test_a_waiting_reader_wakes_when_a_message_arrives(
    connection: Connection, virtual_host: str
) -> None:
    bodies: list[object] = []

    def read() -> None:
        with (
            Connection(addresses.url(virtual_host)) as own,
            Consumer(own, [Queue("q")], callbacks=[lambda body, _: bodies.append(body)]),
        ):
            waiting.set()
            own.drain_events(timeout=60)

    waiting = threading.Event()
    reader = threading.Thread(target=read)
    reader.start()
    assert waiting.wait(10)
    publish(connection, "hello", routing_key="q")
    reader.join(10)
    assert not reader.is_alive()
    assert bodies == ["hello"]


def test_a_waiting_reader_wakes_when_an_acknowledgement_opens_its_window(
    connection: Connection, virtual_host: str
) -> None:
    publish(connection, 1, 2, routing_key="q")
    messages: list[object] = []
    first = threading.Event()

    def on_message(message: object) -> None:
        messages.append(message)
        first.set()

    def read() -> None:
        with Connection(addresses.url(virtual_host)) as own:
            consumer = Consumer(own, [Queue("q")], on_message=on_message)
            consumer.qos(prefetch_count=1)
            with consumer:
                own.drain_events(timeout=60)
                own.drain_events(timeout=60)

    reader = threading.Thread(target=read)
    reader.start()
    assert first.wait(10)
    messages[0].ack()
    reader.join(10)
    assert not reader.is_alive()
    assert [message.payload for message in messages] == [1, 2]


def test_an_interrupt_ends_the_wait_of_one_reader(connection: Connection) -> None:
    connection.transport.interrupt()
    with pytest.raises(socket.timeout), Consumer(connection, [Queue("q")]):
        connection.drain_events(timeout=60)


def test_two_virtual_hosts_share_nothing(connection: Connection) -> None:
    publish(connection, "mine", routing_key="q")
    name = f"transport-test-{next(_numbers)}"
    with Connection(addresses.url(name)) as other:
        assert received(other, Queue("q")) == []
    forget(name)


def test_a_passive_declaration_of_a_queue_that_is_not_there_is_refused(
    connection: Connection,
) -> None:
    with pytest.raises(ChannelError, match="no queue 'missing'"):
        connection.default_channel.queue_declare("missing", passive=True)


def test_a_deleted_queue_loses_its_messages_and_bindings(
    connection: Connection, virtual_host: str
) -> None:
    exchange = Exchange("colours", "direct")
    red = Queue("red", exchange, routing_key="red")
    publish(connection, "rose", exchange=exchange, routing_key="red", declare=[red])
    connection.default_channel.queue_delete("red")
    publish(connection, "poppy", exchange=exchange, routing_key="red")
    assert broker(virtual_host).depths() == {}


def test_a_queue_in_use_or_with_messages_is_kept_where_that_is_asked(
    connection: Connection, virtual_host: str
) -> None:
    publish(connection, "hello", routing_key="q")
    channel = connection.default_channel
    channel.queue_delete("q", if_empty=True)
    with Consumer(connection, [Queue("q")]):
        channel.queue_delete("q", if_unused=True)
    assert broker(virtual_host).depths() == {"q": 1}


def test_an_auto_delete_queue_goes_with_its_last_consumer(
    connection: Connection, virtual_host: str
) -> None:
    queue = Queue("replies", auto_delete=True)
    with Consumer(connection, [queue]):
        assert "replies" in broker(virtual_host).queues
    assert "replies" not in broker(virtual_host).queues


def test_purging_a_queue_returns_how_many_messages_it_held(connection: Connection) -> None:
    publish(connection, 1, 2, 3, routing_key="q")
    assert connection.default_channel.queue_purge("q") == 3
    assert connection.default_channel.queue_purge("other") == 0


def test_a_reset_goes_back_to_what_was_declared_before(
    connection: Connection, virtual_host: str
) -> None:
    queues = broker(virtual_host)
    exchange = Exchange("log", "topic")
    kept = Queue("kept", exchange, routing_key="#")
    publish(connection, "old", exchange=exchange, routing_key="a", declare=[kept])
    before = queues.topology()
    publish(connection, "new", routing_key="other", declare=[Queue("other")])

    queues.reset(before)

    assert queues.depths() == {}
    assert set(queues.queues) == {"kept"}
    publish(connection, "again", exchange=exchange, routing_key="a", declare=[kept])
    assert received(connection, kept) == ["again"]


def test_a_reset_brings_bindings_back(connection: Connection, virtual_host: str) -> None:
    queues = broker(virtual_host)
    exchange, other = Exchange("log", "topic"), Exchange("other", "direct")
    kept = Queue("kept", exchange, routing_key="a")
    publish(connection, "old", exchange=exchange, routing_key="a", declare=[kept])
    before = queues.topology()
    publish(connection, "x", exchange=other, routing_key="x", declare=[Queue("new", other, "x")])
    kept(connection.default_channel).unbind_from(exchange, routing_key="a")
    assert queues.topology() != before

    queues.reset(before)

    assert queues.topology() == before
    queues.reset(before)  # nothing has changed: there is nothing to bring back
    assert queues.topology() == before
    publish(connection, "again", exchange=exchange, routing_key="a")
    assert queues.depths() == {"kept": 1}


def test_after_a_full_reset_producers_declare_their_entities_anew(
    connection: Connection, virtual_host: str
) -> None:
    exchange = Exchange("log", "topic")
    queue = Queue("q", exchange, routing_key="#")
    publish(connection, "old", exchange=exchange, routing_key="a", declare=[queue])
    broker(virtual_host).reset()
    publish(connection, "new", exchange=exchange, routing_key="a", declare=[queue])
    assert received(connection, queue) == ["new"]


def test_the_scheme_is_known_to_kombu_only_while_registered() -> None:
    from kombu.transport import TRANSPORT_ALIASES

    assert addresses.SCHEME in TRANSPORT_ALIASES
    del TRANSPORT_ALIASES[addresses.SCHEME]
    with addresses.scheme_registered():
        assert addresses.SCHEME in TRANSPORT_ALIASES
    assert addresses.SCHEME not in TRANSPORT_ALIASES
    TRANSPORT_ALIASES[addresses.SCHEME] = "pytest_djcelery.brokers.memory.transport:Transport"


def test_each_queue_of_a_fanout_has_a_separate_copy_of_the_headers(
    connection: Connection, virtual_host: str
) -> None:
    exchange = Exchange("everyone", "fanout")
    with connection.channel() as channel:
        for name in ("one", "two"):
            Queue(name, exchange)(channel).declare()
    headers = {"context": {"ids": (1, 2)}}
    publish(connection, "news", exchange=exchange, headers=headers, routing_key="")
    headers["context"]["ids"] = (3,)
    one, two = (broker(virtual_host).get(name)["headers"] for name in ("one", "two"))
    assert one == two == {"context": {"ids": [1, 2]}}
    assert one["context"] is not two["context"]


def test_headers_that_no_broker_carries_are_refused(
    connection: Connection, virtual_host: str
) -> None:
    queue = Queue("orders")
    with pytest.raises(TypeError, match="set is not JSON serializable"):
        publish(connection, "news", routing_key="orders", declare=[queue], headers={"ids": {1}})
    assert broker(virtual_host).depth("orders") == 0


def test_a_reader_that_is_parked_while_it_looks_takes_nothing(connection: Connection) -> None:
    queue = Queue("later", Exchange("later"), routing_key="later")
    bodies: list[object] = []
    publish_to = Producer(connection, exchange=queue.exchange, routing_key="later")
    with Consumer(connection, [queue], callbacks=[lambda body, _: bodies.append(body)]):
        transport = connection.transport
        delivery = transport._deliver_oldest

        def parked_meanwhile() -> None:
            transport.park(parked=True)
            publish_to.publish("of the next test")
            delivery()

        transport._deliver_oldest = parked_meanwhile
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0)
        assert bodies == []

        transport._deliver_oldest = delivery
        transport.park(parked=False)
        connection.drain_events(timeout=0)
    assert bodies == ["of the next test"]
