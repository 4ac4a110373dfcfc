"""Guests of the inline worker: which message is next, lost workers, messages delivered again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

import pytest
from celery import signals
from celery.exceptions import WorkerLostError

from pytest_djcelery.messages.events import StateStored
from pytest_djcelery.recording.losses import Loss
from pytest_djcelery.workers.inline.guests import Guest, joined
from tests.unit import inline_project
from tests.unit.inline_project import add, app, call, done, functions, journal, mail

if TYPE_CHECKING:
    from pytest_djcelery.api.inline import Inline
    from pytest_djcelery.workers.inline.executions import Execution
    from pytest_djcelery.workers.inline.guests import Delivery, Due


@pytest.fixture(scope="module", autouse=True)
def _session() -> Iterator[None]:
    with inline_project.session(__file__):
        yield


class Newest(Guest):
    """Has the newest message delivered first."""

    chooses = True

    def choose(self, due: Sequence[Due], takes: Callable[[str], bool]) -> Due | None:
        return due[-1] if due else None


class Loses(Guest):
    """Loses the worker in the first runs."""

    def __init__(self, at: Literal["start", "end"], *, host: bool, times: int = 1) -> None:
        self._loss = Loss(at=at, host=host)
        self._times = times

    def loses(self, delivery: Delivery) -> Loss | None:
        self._times -= 1
        return self._loss if self._times >= 0 else None


class Again(Guest):
    """Has each first delivery delivered once more, and counts only the first."""

    def __init__(self, *, first: bool) -> None:
        self._first = first

    def ended(self, delivery: Delivery, execution: Execution) -> Execution:
        if delivery.redelivered:
            return replace(execution, counted=False)
        delivery.redeliver(first=self._first)
        return execution


@pytest.fixture
def postruns() -> Iterator[list[str]]:
    seen: list[str] = []

    def note(task_id: str, **_: Any) -> None:
        seen.append(task_id)

    signals.task_postrun.connect(note, weak=False)
    yield seen
    signals.task_postrun.disconnect(note)


def calls(function: Callable[[], Any]) -> Any:
    functions["f"] = function
    return call.delay("f")


def test_a_guest_chooses_what_is_delivered_next(worker: Inline) -> None:
    with joined(Newest()):
        add.delay(1)
        add.apply_async((2,), countdown=1)
        mail.delay("ada")
        add.apply_async((4,), countdown=60)
        worker.advance(timedelta(seconds=2))
        assert worker.run().succeeded == 3
        assert done == [(2, 0), "ada", (1, 0)]  # it became due last
        add.delay(5)
        worker.run(until=timedelta(minutes=1))
    assert done[3:] == [(5, 0), (4, 0)]
    add.delay(6)
    add.delay(7)
    worker.run()
    assert done[5:] == [(6, 0), (7, 0)]


def test_a_guest_sees_everything_that_is_due_in_order(worker: Inline) -> None:
    seen: list[Any] = []

    class Looks(Guest):
        chooses = True

        def choose(self, due: Sequence[Due], takes: Callable[[str], bool]) -> Due | None:
            seen.append([(one.queue, one.sent and one.sent.args, one.redelivered) for one in due])
            return None

    add.delay(1)
    mail.delay("ada")
    worker.step()
    worker.redeliver(worker.pending[0])
    with joined(Looks()):
        worker.run()
    mails = [("mail", ("ada",), True), ("mail", ("ada",), False)]
    assert seen == [mails, mails[1:], []]


class AgainWhenIdle(Guest):
    """Has the first message delivered once more when nothing is due."""

    chooses = True

    def __init__(self) -> None:
        self._earlier: list[Delivery] = []

    def choose(self, due: Sequence[Due], takes: Callable[[str], bool]) -> Due | Delivery | None:
        return self._earlier.pop() if self._earlier and not due else None

    def ended(self, delivery: Delivery, execution: Execution) -> Execution:
        if not delivery.redelivered:
            self._earlier = [delivery]
        return execution


@pytest.mark.parametrize("countdown", [None, 60], ids=["plain", "with an ETA"])
def test_a_guest_has_an_earlier_message_delivered_again(
    worker: Inline, countdown: int | None
) -> None:
    add.apply_async((1,), countdown=countdown)
    with joined(AgainWhenIdle()):
        summary = worker.run(until=timedelta(minutes=2))
    assert done == [(1, 0), (1, 0)]
    assert [run.redelivered for run in summary.executions] == [False, True]


@pytest.mark.parametrize("order", [[1, 1, 2, 2], [1, 2, 1, 2]], ids=["at once", "later"])
def test_a_message_is_delivered_again_at_once_or_later(worker: Inline, order: list[int]) -> None:
    add.delay(1)
    add.delay(2)
    with joined(Again(first=order[0] == order[1])):
        summary = worker.run()
    assert [x for x, _ in done] == order
    assert sorted(run.redelivered for run in summary.executions) == [False, False, True, True]
    assert summary.succeeded == 2  # the guest takes the others out of the count
    assert summary.executions[0].message is summary.executions[order.index(1, 1)].message


@pytest.mark.parametrize("at", ["start", "end"])
def test_a_child_that_is_lost_early_acknowledged_fails_the_task(
    worker: Inline, postruns: list[str], at: Literal["start", "end"]
) -> None:
    result = add.apply_async((1,), link_error=mail.si("ops"), link=mail.si("never"))
    with joined(Loses(at, host=False)):
        summary = worker.run(raise_failures=False)
    assert done == ["ops"] if at == "start" else [(1, 0), "ops"]
    assert (summary.lost, summary.succeeded, summary.failed) == (1, 1, 0)
    lost, _ = summary.executions
    assert (lost.state, lost.lost, lost.attempt) == ("FAILURE", True, 1)
    assert isinstance(lost.exception, WorkerLostError)
    assert str(lost.exception) == "Worker exited prematurely: signal 9 (SIGKILL)."
    assert result.state == "FAILURE"
    assert result.id not in postruns
    assert len(postruns) == 1  # of the error's mail


def test_a_late_acknowledged_message_of_a_lost_child_comes_back_if_the_task_says_so(
    worker: Inline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call, "reject_on_worker_lost", True)
    ran: list[bool] = []
    result = calls(lambda: ran.append(call.request.delivery_info["redelivered"]))
    add.delay(7)
    with joined(Loses("end", host=False)):
        summary = worker.run()
    assert ran == [False, True]
    assert done == [(7, 0)]
    assert (summary.lost, summary.succeeded) == (1, 2)
    assert [run.state for run in summary.executions] == ["LOST", "SUCCESS", "SUCCESS"]
    assert [run.redelivered for run in summary.executions] == [False, True, False]
    assert result.state == "SUCCESS"


@pytest.mark.parametrize("at", ["start", "end"])
def test_a_lost_host_loses_what_was_acknowledged_and_returns_the_rest(
    worker: Inline, postruns: list[str], at: Literal["start", "end"]
) -> None:
    later = add.apply_async((9,), countdown=60)
    result = add.apply_async((1,), link_error=mail.si("ops"))
    with joined(Loses(at, host=True)):
        summary = worker.run(raise_failures=False)
    assert (summary.lost, summary.failed, summary.scheduled) == (1, 0, 1)
    assert [run.state for run in summary.executions] == ["LOST"]
    assert done == ([] if at == "start" else [(1, 0)])
    assert result.state == "PENDING"
    assert not postruns
    assert [event for event in journal().events(StateStored) if event.task_id == result.id] == []
    [held] = worker.run(until=timedelta(minutes=2)).executions
    assert (held.id, held.redelivered, held.state) == (later.id, True, "SUCCESS")


def test_a_lost_host_has_what_it_had_not_acknowledged_delivered_again(worker: Inline) -> None:
    ran: list[bool] = []
    calls(lambda: ran.append(call.request.delivery_info["redelivered"]))
    with joined(Loses("start", host=True, times=2)):
        summary = worker.run()
    assert ran == [True]
    assert (summary.lost, summary.succeeded) == (2, 1)


def test_tracers_are_as_they_were_found() -> None:
    before = {name: task.__trace__ for name, task in app.tasks.items()}
    for _ in range(2):
        with inline_project.worker() as worker:
            add.delay(1)
            with joined(Loses("start", host=True)):
                worker.run()
        assert {name: task.__trace__ for name, task in app.tasks.items()} == before
