"""The queues of the in-memory broker: whose turn it is, with and without an ETA."""

from __future__ import annotations

import threading
from datetime import datetime, timezone
from itertools import count
from queue import Empty
from typing import Any

import pytest
import time_machine
from hypothesis import given
from hypothesis import strategies as st

from pytest_djcelery.brokers.memory.queues import Broker
from pytest_djcelery.messages.headers import Recorded
from tests.unit.sending import message as sent_message

TIMED = {"eta": "2030-01-01T12:00:00+00:00"}
START = datetime(2030, 1, 1, 12, tzinfo=timezone.utc)


def put(
    broker: Broker, queue: str, body: object, *, first: bool = False,
    headers: dict[str, Any] | None = None, **properties: Any,
) -> None:  # fmt: skip
    message = {
        "body": body,
        "headers": {} if headers is None else headers,
        "properties": properties,
    }
    broker.put(queue, message, first=first)


def every(_queue: str) -> bool:
    return True


def bodies(found: Any) -> list[object]:
    return [ready.message["body"] for ready in found]


def drained(broker: Broker, queue: str) -> list[object]:
    found = []
    while True:
        try:
            found.append(broker.get(queue)["body"])
        except Empty:
            return found


def test_what_is_set_aside_comes_back_and_what_came_meanwhile_goes() -> None:
    broker = Broker()
    put(broker, "a", 1)
    put(broker, "a", 2, headers=TIMED)
    put(broker, "gone", 3)
    broker.declare("empty")
    with broker.set_aside():
        assert broker.depths() == {}
        put(broker, "a", 4)
        put(broker, "empty", 5)
        put(broker, "new", 6, headers=TIMED)
        broker.delete("gone")
        assert broker.get("a")["body"] == 4
    assert broker.depths() == {"a": 2, "gone": 1}
    assert drained(broker, "a") == [1, 2]
    assert drained(broker, "gone") == [3]


MESSAGES = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c"]),
        st.booleans(),  # whether it has an ETA
        st.none() | st.integers(-1, 11),  # its priority
        st.booleans(),  # whether it is put back first
    ),
    max_size=10,
)


@given(MESSAGES, st.sets(st.sampled_from(["a", "b", "c"])))
def test_the_turns_of_all_queues_are_what_a_plain_list_would_have(
    messages: list[tuple[str, bool, int | None, bool]], queues: set[str]
) -> None:
    broker = Broker()
    expected = []
    back, forth = count(-1, -1), count()
    for number, (queue, timed, priority, first) in enumerate(messages):
        order = next(back if first else forth)
        rank = -max(0, min(9, priority or 0))
        put(broker, queue, number, headers=TIMED if timed else None, first=first, priority=priority)
        expected.append((rank, order, queue, timed, number))
    takes = queues.__contains__
    timed = sorted(number for _, _, queue, timed, number in expected if timed and queue in queues)
    assert sorted(bodies(broker.timed(takes))) == timed
    assert broker.has_timed == any(timed for _, _, _, timed, _ in expected)
    assert broker.depths() == {
        queue: size
        for queue in ("a", "b", "c")
        if (size := sum(own == queue for _, _, own, _, _ in expected))
    }
    for queue in ("a", "b", "c"):
        own = sorted(item for item in expected if item[2] == queue)
        assert broker.depth(queue) == len(own)
        assert broker.next_order(queue) == (own[0][1] if own else None)
    # Those without an ETA, in the order in which `oldest` finds them.
    in_turn = bodies(broker.ready(takes))
    assert len(in_turn) + len(timed) == sum(queue in queues for _, _, queue, _, _ in expected)
    left = [item for item in expected if item[2] in queues]
    found = []
    while (oldest := broker.oldest(takes)) is not None:
        queue, ready, is_timed = oldest
        heads = {}
        for item in sorted(left, reverse=True):
            heads[item[2], item[3]] = item
        wanted = [head for (_, timed), head in heads.items() if timed == any(t for _, t in heads)]
        turn = min(wanted, key=lambda head: head[1])
        assert (queue, is_timed, ready.message["body"]) == (turn[2], turn[3], turn[4])
        taken = broker.get_timed(queue) if is_timed else broker.get(queue)
        assert taken == ready.message
        left.remove(turn)
        if not is_timed:
            found.append(turn[4])
    assert found == in_turn
    assert left == []


@given(MESSAGES)
def test_a_queue_is_read_by_priority_then_age(
    messages: list[tuple[str, bool, int | None, bool]],
) -> None:
    broker = Broker()
    expected = []
    for number, (_, timed, priority, first) in enumerate(messages):
        put(broker, "q", number, headers=TIMED if timed else None, first=first, priority=priority)
        rank = -max(0, min(9, priority or 0))
        expected.append((rank, -number - 1 if first else number, number))
    assert drained(broker, "q") == [number for _, _, number in sorted(expected)]


def test_a_queue_that_does_not_exist_is_empty() -> None:
    broker = Broker()
    with pytest.raises(Empty):
        broker.get("nowhere")
    assert (broker.depth("nowhere"), broker.next_order("nowhere")) == (0, None)
    assert (broker.purge("nowhere"), broker.oldest(every), broker.ready(every)) == (0, None, [])
    broker.delete("nowhere")
    assert broker.pristine
    broker.declare("q")
    assert not broker.pristine
    with pytest.raises(Empty):
        broker.get_timed("q")


@pytest.mark.parametrize("priority", ["high", [1], "", None, False])
def test_a_priority_that_is_not_a_number_counts_as_no_priority(priority: Any) -> None:
    broker = Broker()
    put(broker, "q", "odd", priority=priority)
    put(broker, "q", "low", priority=0)
    put(broker, "q", "text", priority="1")
    assert drained(broker, "q") == ["text", "odd", "low"]


def test_a_message_that_outlived_its_ttl_is_not_due() -> None:
    broker = Broker()
    broker.declare("short", ttl=10)
    with time_machine.travel(START, tick=False) as clock:
        put(broker, "short", "plain")
        put(broker, "short", "timed", headers=TIMED)
        put(broker, "long", "own", expiration="10000")
        put(broker, "long", "other")
        put(broker, "long", "task", expiration="10000", headers={"task": "shop.add"})
        put(broker, "short", "own before", expiration="5000")
        clock.shift(5)
        assert bodies(broker.ready(every)) == ["plain", "own", "other", "task"]  # not its turn
        clock.shift(4.999)
        assert bodies(broker.ready(every)) == ["plain", "own", "other", "task"]
        assert bodies(broker.timed(every)) == ["timed"]
        clock.shift(0.001)
        assert bodies(broker.ready(every)) == ["other", "task"]
        assert broker.timed(every) == []
        oldest = broker.oldest(every)
        assert oldest is not None
        assert oldest[1].message["body"] == "other"
        assert broker.next_order("short") is None
        with pytest.raises(Empty):
            broker.get("short")


def test_each_copy_of_a_message_has_its_own_tag_and_its_time() -> None:
    broker = Broker()
    with time_machine.travel(START, tick=False):
        put(broker, "q", "one", correlation_id="x")
        put(broker, "q", "two")
    one, two = broker.ready(every)
    assert one.put_at == two.put_at == START
    assert one.turn < two.turn
    tags = {ready.message["properties"]["delivery_tag"] for ready in (one, two)}
    assert len(tags) == 2
    assert one.message["properties"]["correlation_id"] == "x"


def test_the_record_of_a_message_is_kept_by_its_tag_until_a_reset() -> None:
    broker = Broker()
    record = sent_message()
    put(broker, "q", "recorded", headers=Recorded({"id": "a"}, record))
    put(broker, "q", "other", headers=Recorded({"id": "b"}, None))
    put(broker, "q", "third")
    one, other, third = (
        ready.message["properties"]["delivery_tag"] for ready in broker.ready(every)
    )
    assert broker.records.of[one] is record
    assert broker.records.knows(record)
    assert other not in broker.records.of
    assert third not in broker.records.of
    assert not broker.records.knows(sent_message())
    broker.reset()
    assert broker.records.of == {}
    assert not broker.records.knows(record)


@pytest.mark.parametrize("kept", [{"id": "a", "stamps": ["x"]}, {"id": "a"}])
def test_a_reader_may_change_the_headers_it_got_and_the_record_stays(kept: dict[str, Any]) -> None:
    broker = Broker()
    record = sent_message(headers=kept)
    sent = {"id": "a", "stamps": ["x"]}
    for queue in ("one", "two", "three"):
        put(broker, queue, "body", headers=Recorded(sent, record))
    sent["stamps"] = ["the sender's"]
    [[name, waiting]] = broker.waiting("two".__eq__)
    for got in (broker.get("one")["headers"], broker.take(name, waiting)["headers"]):
        got["stamps"].append("the reader's")
        got["id"] = "b"
    assert broker.get("three")["headers"] == {"id": "a", "stamps": ["x"]}
    assert record.headers in ({"id": "a", "stamps": ["x"]}, {"id": "a"})


def test_the_callbacks_of_a_block_end_with_it() -> None:
    broker = Broker()
    found = broker.on_delivered, broker.on_exchange
    calls: list[str] = []
    with broker.callbacks_set(on_delivered=lambda: calls.append("delivered")):
        with broker.callbacks_set(on_exchange=lambda: calls.append("exchange")):
            broker.on_delivered()
            broker.on_exchange()
        assert broker.on_exchange is found[1]
        broker.on_delivered()
    assert calls == ["delivered", "exchange", "delivered"]
    with pytest.raises(KeyError), broker.callbacks_set(on_delivered=lambda: None):
        raise KeyError
    assert (broker.on_delivered, broker.on_exchange) == found
    assert (broker.on_delivered(), broker.on_exchange()) == (None, None)


def test_a_queue_keeps_what_it_was_first_declared_with() -> None:
    broker = Broker()
    queue = broker.declare("q", auto_delete=True, ttl=5.0)
    assert broker.declare("q") is queue
    assert (queue.auto_delete, queue.ttl, len(queue)) == (True, 5.0, 0)
    put(broker, "q", 1)
    put(broker, "q", 2, headers=TIMED)
    assert len(queue) == 2
    assert broker.purge("q") == 2
    assert len(queue) == 0


def test_each_change_wakes_every_reader() -> None:
    broker = Broker()
    before = broker.version
    broker.notify()
    put(broker, "q", 1)
    assert broker.version == before + 2
    woken: list[int] = []
    waiting = threading.Semaphore(0)

    def read() -> None:
        for _ in range(2):
            with broker.lock:
                waiting.release()
                broker.wait(10)
            woken.append(1)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for _ in range(2):
        for _ in readers:
            assert waiting.acquire(timeout=5)
        broker.notify()  # each reader has the lock until it sleeps
    for reader in readers:
        reader.join(5)
        assert not reader.is_alive()
    assert len(woken) == 6


def test_a_reader_does_not_wait_longer_than_it_wants_to() -> None:
    broker = Broker()
    done = threading.Event()

    def read() -> None:
        with broker.lock:
            broker.wait(0.01)
        done.set()

    threading.Thread(target=read, daemon=True).start()
    assert done.wait(5)


def test_a_reader_that_gives_up_leaves_the_others_to_be_woken() -> None:
    broker = Broker()
    asleep, woken, gave_up = threading.Event(), threading.Event(), threading.Event()

    def wait_long() -> None:
        with broker.lock:
            asleep.set()
            broker.wait(10)
        if not gave_up.is_set():
            raise AssertionError("it was woken too early")
        woken.set()

    def give_up() -> None:
        with broker.lock:
            broker.wait(0.01)
        gave_up.set()

    patient = threading.Thread(target=wait_long, daemon=True)
    patient.start()
    assert asleep.wait(5)
    impatient = threading.Thread(target=give_up)
    impatient.start()
    impatient.join(5)
    broker.notify()
    assert woken.wait(5)
