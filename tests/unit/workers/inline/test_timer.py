"""The timer of `celery_inline`: which request's turn is next, by the clock of the test."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_djcelery.workers.inline.timer import Scheduled, Timer

START = datetime(2030, 1, 1, 12, tzinfo=timezone.utc)
SECOND = timedelta(seconds=1)


class Lab:
    """A timer, its clock, and requests made by hand."""

    def __init__(self) -> None:
        self.now = START
        self.timer = Timer(lambda: self.now)
        self.started: list[str] = []

    def hold(
        self, name: str, after: int, *, queue: str = "celery", order: int = 0, type_: str = "add"
    ) -> Scheduled:
        request: Any = SimpleNamespace(id=name, eta=START + after * SECOND, type=type_)
        ready: Any = SimpleNamespace(order=order, put_at=START)
        self.timer.receiving = queue, ready
        held = self.timer.hold(request, lambda: self.started.append(name))
        assert self.timer.kept is ready
        return held


def every(_queue: str) -> bool:
    return True


def names(requests: Any) -> list[str]:
    return sorted(request.id for request in requests)


@given(
    st.lists(
        st.tuples(
            st.integers(-3, 3), st.sampled_from(["a", "b", "c"]), st.sampled_from(["add", "mail"])
        ),
        max_size=12,
    ),
    st.integers(-3, 3),
    st.sets(st.sampled_from(["a", "b", "c"])),
)
def test_requests_come_by_eta_then_in_publish_order_of_the_queues_that_are_meant(
    requests: list[tuple[int, str, str]], moved: int, queues: set[str]
) -> None:
    lab = Lab()
    for order, (after, queue, type_) in enumerate(requests):
        lab.hold(str(order), after, queue=queue, order=order, type_=type_)
    lab.now += moved * SECOND
    timer = lab.timer
    assert len(timer) == len(requests)
    assert timer.count_later() == sum(after > moved for after, _, _ in requests)
    in_turn = sorted((after, order, queue) for order, (after, queue, _) in enumerate(requests))
    due = [(str(order)) for after, order, queue in in_turn if after <= moved and queue in queues]
    while (held := timer.first_due(queues.__contains__)) is not None:
        assert held is timer.first(queues.__contains__)
        timer.start(held)
        assert timer.started is held.request
    assert lab.started == due
    later = [str(order) for after, order, queue in in_turn if queue in queues and after > moved]
    first = timer.first(queues.__contains__)
    assert (first.request.id if first else None) == (later[0] if later else None)
    assert len(timer) == len(requests) - len(due)
    left = names(held.request for held in timer.held())
    assert left == sorted({str(order) for order in range(len(requests))} - set(due))
    assert names(timer.clear()) == left
    assert (len(timer), list(timer.held()), timer.first(every)) == (0, [], None)


def test_any_request_can_be_started_before_its_turn() -> None:
    lab = Lab()
    held = [lab.hold(str(number), number, order=number) for number in range(7)]
    lab.timer.start(held[3])
    lab.timer.start(held[1])
    lab.timer.start(held[0])
    lab.now += 10 * SECOND
    while (first := lab.timer.first_due(every)) is not None:
        lab.timer.start(first)
    assert lab.started == ["3", "1", "0", "2", "4", "5", "6"]


def test_when_a_request_was_due_is_its_eta_or_when_it_was_published() -> None:
    lab = Lab()
    assert lab.hold("past", -5, order=3).turn.due == (START, 3)
    assert lab.hold("to come", 5, order=4).turn.due == (START + 5 * SECOND, 4)


def test_celery_asks_for_an_eta_with_the_request_as_first_argument() -> None:
    lab = Lab()
    request: Any = SimpleNamespace(id="one", eta=START, type="add")
    lab.timer.receiving = "celery", SimpleNamespace(order=0, put_at=START)  # type: ignore[assignment]
    called: list[Any] = []
    held = lab.timer.call_at(0.0, lambda *args: called.append(args), (request, 1), priority=6)
    assert held.request is request
    lab.timer.start(held)
    assert called == [(request, 1)]


def test_a_poll_may_look_early_once_something_has_been_delivered_since_it_came() -> None:
    lab = Lab()
    poll = lab.hold("poll", 1, type_="celery.chord_unlock")
    later = lab.hold("later poll", 2, type_="celery.chord_unlock", order=1)
    assert poll.polls
    assert not lab.hold("task", 0).polls
    assert lab.timer.first_poll(every) is None
    lab.timer.start(lab.timer.first_due(every))  # type: ignore[arg-type]
    assert lab.timer.delivered == 1
    assert lab.timer.first_poll(every) is poll
    assert lab.timer.first_poll(lambda queue: queue == "other") is None
    assert lab.timer.first_poll(lambda queue: queue == "celery") is poll
    lab.timer.start(poll)
    assert lab.timer.delivered == 1  # it was only a look
    assert lab.timer.first_poll(every) is later
    assert lab.hold("new poll", 1, type_="celery.chord_unlock").received_at == 1
    assert lab.timer.first_poll(every) is later


def test_a_repeated_function_is_due_after_each_interval() -> None:
    lab = Lab()
    timer = lab.timer
    assert timer.next_repeated() is None
    assert timer.repeated_due() is None
    calls: list[Any] = []
    slow = timer.call_repeatedly(30, calls.append, ("slow",))
    quick = timer.call_repeatedly(
        10, lambda *a, **k: calls.append((a, k)), (1,), {"b": 2}, priority=0
    )
    assert timer.next_repeated() is quick
    assert timer.repeated_due() is None
    lab.now += 9 * SECOND
    assert timer.repeated_due() is None
    lab.now += SECOND
    assert timer.repeated_due() is quick
    assert quick.due == START + 20 * SECOND
    assert timer.repeated_due() is None
    quick.function()
    slow.function()
    assert calls == [((1,), {"b": 2}), "slow"]
    quick.cancel()
    assert timer.next_repeated() is slow
    slow.cancel()
    assert timer.next_repeated() is None
    timer.call_repeatedly(1, calls.append)
    timer.clear()
    assert timer.next_repeated() is None


@pytest.mark.parametrize("count", [1, 2, 5])
def test_starting_all_leaves_nothing(count: int) -> None:
    lab = Lab()
    for number in range(count):
        lab.hold(str(number), number)
    lab.now += count * SECOND
    for left in range(count - 1, -1, -1):
        held = lab.timer.first_due(every)
        assert held is not None
        lab.timer.start(held)
        assert len(lab.timer) == left
    assert lab.timer.first_due(every) is None
    assert lab.timer.delivered == count
