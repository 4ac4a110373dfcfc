"""The journal by task: what was sent and ended of it, and what happens to those who wait."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_djcelery.messages.events import (
    Dropped,
    Ended,
    Event,
    HookStarted,
    Looked,
    NotSent,
    Published,
    StateStored,
    stores_nothing,
)
from pytest_djcelery.messages.journal import Journal
from tests.unit.sending import message


def ended(task_id: str, state: str = "SUCCESS", value: Any = None) -> Ended:
    return Ended(task_id=task_id, task="shop.add", state=state, value=value, retries=0)


def test_the_events_of_a_task_include_those_of_its_messages() -> None:
    journal = Journal()
    sent, other = message(id="a"), message(id="b")
    own = [
        Published(message=sent), StateStored(task_id="a", state="STARTED"), ended("a"),
        NotSent(message=sent), Looked(task_id="a"),
    ]  # fmt: skip
    for event in own:
        journal.append(event)
        journal.append(Published(message=other))
        journal.append(HookStarted(hook=1))  # of no task
        journal.append(Dropped(task_id=None))
    assert journal.of_task("a") == own
    assert len(journal.of_task("b")) == len(own)
    assert journal.of_task("c") == []
    late = Looked(task_id="a")
    journal.append(late)
    assert journal.of_task("a") == [*own, late]


def test_what_was_sent_of_a_task_is_without_what_could_not_be() -> None:
    journal = Journal()
    first, failed, last = (message(id="a", retries=retries) for retries in range(3))
    for sent in (first, failed, message(id="b")):
        journal.append(Published(message=sent))
    assert journal.sent("a") == [first, failed]
    journal.append(NotSent(message=failed))
    journal.append(Published(message=last))
    assert [sent.retries for sent in journal.sent("a")] == [0, 2]
    assert journal.sent("nobody") == []


def test_the_attempts_of_a_task_that_are_over_come_in_order() -> None:
    journal = Journal()
    attempts = [ended("a", "RETRY"), ended("a", "FAILURE")]
    journal.append(attempts[0])
    journal.append(ended("b"))
    journal.append(attempts[1])
    assert journal.ended("a") == attempts


def test_what_was_published_can_be_asked_for_from_a_position_on() -> None:
    journal = Journal()
    first, second, third = (message(id=name) for name in "abc")
    journal.append(Published(message=first))
    journal.append(Published(message=second))
    position = len(journal)
    journal.append(Published(message=third))
    assert [event.message.id for event in journal.published(position)] == ["c"]
    journal.append(NotSent(message=second))
    assert [event.message.id for event in journal.published()] == ["a", "c"]
    assert [event.message.id for event in journal.published(position)] == ["c"]


@given(st.lists(st.sampled_from(["publish", "fail", "look", "drain"]), max_size=12))
def test_events_by_task_are_those_of_the_whole_journal(steps: list[str]) -> None:
    journal = Journal()
    last = message(id="x")
    for number, step in enumerate(steps):
        if step == "publish":
            last = message(id=f"t{number % 3}", retries=number)
            journal.append(Published(message=last))
        elif step == "fail":
            journal.append(NotSent(message=last))
        elif step == "look":
            journal.append(Looked(task_id=f"t{number % 3}"))
        else:
            journal.drain()
        for name in ("t0", "t1", "t2"):
            assert journal.sent(name) == [
                event.message for event in journal.published() if event.message.id == name
            ]


def test_in_a_block_afresh_a_task_has_only_what_happened_there() -> None:
    journal = Journal()
    journal.append(Looked(task_id="a"))
    with journal.emptied():
        assert journal.of_task("a") == []
        journal.append(ended("a"))
        assert journal.of_task("a") == [ended("a")]
    assert journal.of_task("a") == [Looked(task_id="a")]


@pytest.mark.parametrize(
    ("state", "value", "goes_on"),
    [
        ("RETRY", None, True),
        ("SUCCESS", None, False),
        ("FAILURE", "Replaced by new task", False),
        ("IGNORED", "Replaced by new task", True),
        ("IGNORED", "", False),
        ("REJECTED", None, False),
    ],
)
def test_which_ends_are_followed_by_another_attempt(
    state: str, value: Any, *, goes_on: bool
) -> None:
    assert ended("a", state, value).goes_on is goes_on


@pytest.mark.parametrize("requeue", [True, False])
def test_a_rejected_message_is_delivered_again_where_it_is_requeued(*, requeue: bool) -> None:
    from celery.exceptions import Reject

    assert ended("a", "REJECTED", Reject("later", requeue=requeue)).goes_on is requeue


@pytest.mark.parametrize(("state", "raised"), [("IGNORED", "Ignore"), ("REJECTED", "Reject")])
def test_why_a_task_has_no_outcome(state: str, raised: str) -> None:
    assert stores_nothing(state) == (
        f"it ended as {state}, which stores no result (the task raised {raised}): its state stays "
        "what it was"
    )


# Waiting -----------------------------------------------------------------------------------


class Waiter:
    """A thread that waits until the journal has a number of events, and counts its looks."""

    def __init__(self, journal: Journal, events: int, kind: Any = Event) -> None:
        self.looks = 0
        self.came: bool | None = None
        self._looked = threading.Semaphore(0)

        def condition() -> bool:
            self.looks += 1
            self._looked.release()
            return len(journal) >= events

        def wait() -> None:
            self.came = journal.wait_until(condition, 10, kind=kind)

        self._thread = threading.Thread(target=wait)
        self._thread.start()

    def has_looked(self) -> None:
        assert self._looked.acquire(timeout=10)

    def ends(self) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive()


def test_each_event_lets_a_waiter_look_again() -> None:
    journal = Journal()
    waiter = Waiter(journal, 3)
    waiter.has_looked()
    for _ in range(3):
        journal.append(Looked(task_id="a"))
        waiter.has_looked()
    waiter.ends()
    assert waiter.came is True


def test_a_waiter_woken_without_an_event_looks_again() -> None:
    journal = Journal()
    waiter = Waiter(journal, 1)
    waiter.has_looked()
    for _ in range(2):
        journal.wake()
        waiter.has_looked()
    journal.append(Looked(task_id="a"))
    waiter.ends()


def test_several_waiters_are_woken_each_by_its_own_kinds() -> None:
    journal = Journal()
    waiters = [Waiter(journal, 2), Waiter(journal, 2, (Looked, StateStored))]
    for waiter in waiters:
        waiter.has_looked()
    journal.append(Looked(task_id="a"))
    for waiter in waiters:
        waiter.has_looked()
    journal.append(StateStored(task_id="a", state="SUCCESS"))
    for waiter in waiters:
        waiter.ends()
        assert waiter.came


@pytest.mark.parametrize("append", [True, False])
def test_what_happens_while_a_waiter_looks_is_never_missed(*, append: bool) -> None:
    """However often: the second change is no other change than the first."""
    journal = Journal()
    looks: list[int] = []

    def condition() -> bool:
        looks.append(1)
        if len(looks) > 3:
            return True
        journal.append(Looked(task_id="a")) if append else journal.wake()
        return False

    assert journal.wait_until(condition, 10)
    assert len(looks) == 4


def test_a_wait_that_is_over_time_says_so_after_a_last_look() -> None:
    journal = Journal()
    looks: list[int] = []
    assert journal.wait_until(lambda: bool(looks.append(1)), 0.01) is False
    assert looks
    assert journal._waiters == []
