"""The rules that hold after each schedule, and the steps of a schedule in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import chord

from pytest_djcelery.exploration.oracle import broken_rules
from pytest_djcelery.exploration.schedules import Course, Decisions, Schedule, follow
from pytest_djcelery.exploration.search import Ran, Search
from pytest_djcelery.exploration.steering import Bounds, Steering, Step
from pytest_djcelery.exploration.step_texts import losses, step_lines
from pytest_djcelery.messages.headers import Recorded
from pytest_djcelery.session.session import current_sandbox
from pytest_djcelery.workers.inline.guests import joined
from tests.unit import inline_project
from tests.unit.inline_project import add, app, end


@pytest.fixture(scope="module", autouse=True)
def _session() -> Iterator[None]:
    with inline_project.session(__file__):
        yield


@app.task(name="rules.total", shared=False)
def total(numbers: list[int]) -> int:
    return sum(numbers)


def run(
    test: Callable[[Any], object],
    schedule: Schedule = Schedule(),  # noqa: B008 - it is frozen
    **bounds: Any,
) -> tuple[list[Step], list[str], Course]:
    """Run a test by a schedule: its steps, the rules that it has broken, and its course."""
    decisions = follow(schedule, ())
    steering = Steering(Bounds(**bounds), decisions)
    with inline_project.worker() as worker, joined(steering):
        test(worker)
        steering.over()
        sandbox = current_sandbox()
        assert sandbox is not None
        broken = broken_rules(sandbox, steering.steps, 0)
        for event in sandbox.journal.published():
            assert event.message.id
    return steering.steps, broken, decisions.over()


# Rules ------------------------------------------------------------------------------------


def test_a_message_that_no_queue_has_taken_is_lost() -> None:
    def test(worker: Any) -> None:
        add.apply_async((1,), exchange="nowhere", routing_key="nothing")
        worker.run()

    _, [broken], _ = run(test)
    assert broken.startswith("add(1) was lost, and was never acknowledged: no queue has it")


@pytest.mark.filterwarnings("ignore::pytest_djcelery.QueueNotConsumedWarning")
def test_what_waits_or_is_purged_or_revoked_is_not_lost() -> None:
    def test(worker: Any) -> None:
        add.apply_async((1,), countdown=60)
        add.apply_async((2,), queue="nobody.consumes")
        app.control.revoke(add.delay(3).id)
        worker.run()
        add.delay(4)
        app.control.purge()
        add.delay(5)

    assert run(test)[1] == []


def test_a_message_that_was_sent_once_comes_twice_only_redelivered() -> None:
    def test(worker: Any) -> None:
        add.delay(1)
        broker = worker._runs.worker.broker
        [ready] = broker.queues["celery"].plain
        record = broker.records.of[ready.message["properties"]["delivery_tag"]]
        broker.put(
            "celery", {**ready.message, "headers": Recorded(ready.message["headers"], record)}
        )
        worker.run()

    _, [broken], _ = run(test)
    assert broken.startswith("add(1) was sent once, and delivered several times")


def test_the_body_of_a_chord_runs_once() -> None:
    def test(worker: Any, *, again: bool = False) -> None:
        body = chord([add.s(1), add.s(2)])(total.s())
        worker.run()
        if again:
            total.apply_async(([1, 2],), task_id=body.id)
            worker.run()

    assert run(test)[1] == []
    assert run(lambda worker: test(worker, again=True))[1] == [
        "rules.total, the body of a chord, was published 2 times."
    ]


@pytest.mark.parametrize("bounds", [{"duplicates": 1}, {"crashes": 1}], ids=str)
def test_no_rule_is_broken_by_redeliveries_and_lost_hosts(bounds: dict[str, int]) -> None:
    def test(worker: Any) -> None:
        chord([add.s(1), end.s("fine")])(total.si([]))
        worker.run(raise_failures=False)

    count, broken = explored(test, **bounds)
    assert count > 10
    assert not broken


def explored(test: Callable[[Any], object], **bounds: int) -> tuple[int, list[str]]:
    """How many schedules there are, and the rules that one of them has broken."""
    broken: list[str] = []

    def ran(decisions: Decisions) -> Ran:
        steering = Steering(Bounds(**bounds), decisions)
        with inline_project.worker() as worker, joined(steering):
            test(worker)
            steering.over()
            sandbox = current_sandbox()
            assert sandbox is not None
            broken.extend(broken_rules(sandbox, steering.steps, 0))
        return Ran(decisions.over(), failed=False)

    found = Search(ran, examples=200, draws=lambda *_: None).go()
    assert found.complete
    return found.schedules, broken


def test_no_host_is_lost_in_a_run_that_never_comes() -> None:
    def test(worker: Any) -> None:
        app.control.revoke(add.delay(1).id)
        worker.run()

    assert explored(test, crashes=1) == (1, [])


def test_a_message_that_waits_is_not_delivered_again_beside() -> None:
    def test(worker: Any) -> None:
        end.delay("requeue")  # the first time
        worker.run()

    assert explored(test, duplicates=1) == (2, [])


# Words ------------------------------------------------------------------------------------


def three(worker: Any) -> None:
    for number in (1, 2, 2):
        add.delay(number)
    end.delay("late")
    worker.run(raise_failures=False)


def test_the_undisturbed_schedule_has_no_deviation() -> None:
    steps, _, course = run(three)
    assert list(step_lines(steps)) == [
        "  each message is delivered once, in the order in which they were due"
    ]
    assert course.ways == (4, 3, 2, 1)


def test_steps_are_listed_up_to_the_last_deviation() -> None:
    steps, _, _ = run(three, Schedule(((1, 1), (3, 2))), duplicates=1)
    assert list(step_lines(steps)) == [
        "  1  add(1)",
        "  2  add(2) #2   delivered before add(2) #1",
        "  3  add(2) #1",
        "  4  add(2) #2   delivered again",
    ]


@pytest.mark.parametrize(
    ("schedule", "note"),
    [
        (((1, 1),), "  1  add(1)   worker lost at the start, after it was acknowledged: lost"),
        (((1, 2),), "  1  add(1)   worker lost at the end, after it was acknowledged: lost"),
    ],
)
def test_what_an_early_acknowledgement_loses_is_named(schedule: Any, note: str) -> None:
    steps, broken, _ = run(three, Schedule(schedule), crashes=1)
    assert list(step_lines(steps)) == [note]
    [lost] = losses(steps)
    assert lost.startswith("add(1) was lost with its worker at the ")
    assert broken == []


def test_what_was_not_acknowledged_is_delivered_again() -> None:
    steps, broken, _ = run(three, Schedule(((0, 3), (1, 1), (2, 0))), crashes=1)
    [line] = step_lines(steps)
    note = "worker lost at the start, before it was acknowledged: delivered again"
    assert line == f"  1  end('late')   delivered before add(1); {note}"
    assert losses(steps) == broken == []
    assert [step.redelivered for step in steps] == [False, True, False, False, False]


def test_of_many_steps_only_those_that_differ_are_listed() -> None:
    def test(worker: Any) -> None:
        for number in range(40):
            add.delay(number)
        worker.run()

    steps, _, _ = run(test, Schedule(((2, 1), (35, 1))))
    assert list(step_lines(steps)) == [
        "   …",
        "   3  add(3)    delivered before add(2)",
        "   …",
        "  36  add(36)   delivered before add(35)",
    ]
