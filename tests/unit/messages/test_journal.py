"""The journal: events in order, and a way to wait for the next."""

from __future__ import annotations

import threading
import time

import pytest

from pytest_djcelery.messages.events import (
    Event,
    Looked,
    NotSent,
    NotStored,
    Published,
    Started,
    StateStored,
    Storing,
)
from pytest_djcelery.messages.journal import Journal
from tests.unit.sending import message


def looked(journal: Journal) -> list[str]:
    return [each.task_id for each in journal.events(Looked)]


def test_events_of_a_kind_come_in_order_from_a_position_on() -> None:
    journal = Journal()
    for name in "abc":
        journal.append(Looked(task_id=name))
        journal.append(StateStored(task_id=name, state="SUCCESS"))
    assert looked(journal) == ["a", "b", "c"]
    assert [each.task_id for each in journal.events(Looked, 1)] == ["b", "c"]
    assert [each.task_id for each in journal.events(Looked, 2)] == ["b", "c"]
    assert len(list(journal.events(Event))) == len(journal) == 6
    assert len(list(journal.events(Event, 1))) == 5


def test_what_is_taken_back_is_shown_until_then_and_positions_stay_valid() -> None:
    journal = Journal()
    journal.append(Looked(task_id="a"))
    with journal.taken_back() as since:
        journal.append(Looked(task_id="a"))
        journal.append(Looked(task_id="b"))
        assert looked(journal) == ["a", "a", "b"]
        assert len(journal.of_task("a")) == 2
        assert [each.task_id for each in journal.events(Looked, since)] == ["a", "b"]
    assert (looked(journal), len(journal)) == (["a"], 3)
    assert (len(journal.of_task("a")), journal.of_task("b")) == (1, [])
    journal.append(Looked(task_id="b"))
    assert len(journal.of_task("b")) == 1
    assert [each.task_id for each in journal.events(Looked, 3)] == ["b"]


def test_a_message_that_could_not_be_sent_is_not_listed() -> None:
    journal = Journal()
    first, second = message(id="a"), message(id="b")
    journal.append(Published(message=first))
    assert [each.message for each in journal.published()] == [first]
    journal.append(Published(message=second))
    journal.append(NotSent(message=first))
    assert [each.message for each in journal.published()] == [second]


def test_states_are_those_that_were_stored_of_a_task() -> None:
    journal = Journal()
    for state in ("STARTED", "STARTED", "RETRY", "STARTED", "SUCCESS"):
        journal.append(Storing(task_id="a", state=state, meta=len(journal)))
        journal.append(Storing(task_id="b", state="PENDING", meta=None))
    assert [each.state for each in journal.states("a")] == [
        "STARTED",
        "STARTED",
        "RETRY",
        "STARTED",
        "SUCCESS",
    ]
    journal.append(NotStored(task_id="b", state="PENDING"))
    assert len(journal.states("a")) == 5
    assert len(journal.states("b")) == 4
    journal.append(NotStored(task_id="a", state="STARTED"))
    assert [(each.state, each.meta) for each in journal.states("a")] == [
        ("STARTED", 0),
        ("STARTED", 2),
        ("RETRY", 4),
        ("SUCCESS", 8),
    ]  # the last of them was not stored


def test_a_block_afresh_sees_its_own_events_alone_and_leaves_none() -> None:
    journal = Journal()
    journal.append(Looked(task_id="before"))
    with journal.emptied():
        assert looked(journal) == []
        journal.append(Looked(task_id="inside"))
        assert looked(journal) == ["inside"]
        with journal.emptied():
            assert looked(journal) == []
        assert looked(journal) == ["inside"]
    journal.append(Looked(task_id="after"))
    assert looked(journal) == ["before", "after"]
    assert len(journal) == 3  # who has read so far goes on from there
    with pytest.raises(ValueError, match="boom"), journal.emptied():
        raise ValueError("boom")
    assert looked(journal) == ["before", "after"]


def test_draining_returns_all_and_forgets_it() -> None:
    journal = Journal()
    journal.append(Looked(task_id="a"))
    [event] = journal.drain()
    assert event == Looked(task_id="a")
    assert journal.drain() == []
    assert len(journal) == 0


def test_a_waiter_is_woken_by_events_of_its_kind_and_of_its_subclasses() -> None:
    journal = Journal()
    asked: list[int] = []

    def condition() -> bool:
        asked.append(len(journal))
        if len(asked) == 1:
            # Between the look and the wait: it is not missed.
            journal.append(StateStored(task_id="a", state="SUCCESS"))
        return len(journal) > 1

    thread = threading.Timer(0.05, lambda: journal.append(Looked(task_id="a")))
    thread.start()
    assert journal.wait_until(condition, 5, kind=Looked)
    thread.join()
    assert asked[0] == 0
    assert asked[-1] == 2
    assert len(asked) <= 3  # it was not woken for the other kind


def test_what_happens_between_a_look_and_the_wait_is_not_missed() -> None:
    journal = Journal()

    def condition() -> bool:
        if not len(journal):
            journal.append(Looked(task_id="a"))
            return False
        return True

    began = time.monotonic()
    assert journal.wait_until(condition, 20)
    assert time.monotonic() - began < 10  # it looked again at once


def test_waiting_ends_at_its_deadline_and_is_woken_for_what_is_no_event() -> None:
    journal = Journal()
    assert not journal.wait_until(lambda: False, 0.01)
    changed = threading.Event()
    thread = threading.Timer(0.05, lambda: (changed.set(), journal.wake()))
    thread.start()
    assert journal.wait_until(changed.is_set, 5)
    thread.join()
    assert journal.wait_until(lambda: True, 0)
    assert journal._waiters == []


def test_a_note_stands_between_events_and_changes_nothing_for_who_counts_them() -> None:
    journal = Journal()
    woken: list[bool] = []
    waiter = threading.Thread(
        target=lambda: woken.append(journal.wait_until(lambda: len(journal) > 1, 5))
    )
    journal.append(Looked(task_id="a"))
    waiter.start()
    journal.note(Started(task_id="b"))
    assert len(journal) == len(list(journal.events(Event))) == 1
    journal.append(Looked(task_id="c"))
    waiter.join()
    assert woken == [True]
    recorded = journal.recorded()
    assert [entry[2].task_id for entry in recorded] == ["a", "b", "c"]  # type: ignore[attr-defined]
    assert [entry[0] for entry in recorded] == [0, 1, 1]
    times = [stamp[0] for _, stamp, _ in recorded]
    assert times == sorted(times)
    assert [entry[2] for entry in journal.recorded(1, {Started})] == [Started(task_id="b")]


def test_notes_are_hidden_forgotten_and_drained_with_the_events() -> None:
    journal = Journal()
    journal.note(Started(task_id="a"))
    journal.append(Looked(task_id="a"))
    for within in (journal.emptied, journal.taken_back):
        with within():
            journal.note(Started(task_id="b"))
            journal.append(Looked(task_id="b"))
            assert Started(task_id="b") in [entry[2] for entry in journal.recorded()]
        assert [entry[2] for entry in journal.recorded(0, {Started})] == [Started(task_id="a")]
    journal.drain()
    assert journal.recorded() == []
