"""The runs of `celery_inline`: what they deliver, in which order, and when they refuse to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from celery.exceptions import NotRegistered, Reject
from hypothesis import given
from hypothesis import strategies as st
from kombu import Queue

from pytest_djcelery.errors import (
    BadOptionError,
    InlineError,
    NeverEndsError,
    QueueNotConsumedWarning,
)
from pytest_djcelery.messages.events import Looked, RaisedElsewhere
from pytest_djcelery.recording.result_waits import NeverReadyError
from pytest_djcelery.workers.inline.executions import Execution
from tests.unit import inline_project
from tests.unit.inline_project import add, app, call, done, end, functions, journal, mail

if TYPE_CHECKING:
    from pytest_djcelery.api.inline import Inline

MINUTE = timedelta(minutes=1)
START = datetime(2030, 1, 1, 12, tzinfo=timezone.utc)


@pytest.fixture(scope="module", autouse=True)
def _session() -> Iterator[None]:
    with inline_project.session(__file__):
        yield


def looked() -> list[str]:
    return [event.task_id for event in journal().events(Looked)]


def test_a_run_delivers_all_that_is_due_in_the_order_of_publishing(worker: Inline) -> None:
    add.delay(1)
    mail.delay("ada")
    add.delay(2)
    summary = worker.run()
    assert done == [(1, 0), "ada", (2, 0)]
    assert summary.succeeded == 3
    assert [execution.value for execution in summary.executions] == [1, None, 2]
    assert worker.run().executions == ()


def test_what_a_task_publishes_is_delivered_in_the_same_run(worker: Inline) -> None:
    functions["go"] = lambda: add.delay(1).id
    call.delay("go")
    assert worker.run().succeeded == 2
    assert done == [(1, 0)]


def test_a_limit_counts_deliveries(worker: Inline) -> None:
    for number in range(3):
        add.delay(number)
    assert worker.run(limit=0).succeeded == 0
    assert worker.run(limit=1).succeeded == 1
    assert worker.run(limit=5).succeeded == 2
    assert [x for x, _ in done] == [0, 1, 2]


@pytest.mark.parametrize("limit", [-1, 1.5, "2"])
def test_a_limit_that_is_not_a_number_of_messages_is_refused(worker: Inline, limit: Any) -> None:
    add.delay(1)
    with pytest.raises(BadOptionError, match=rf"limit={limit!r}: expected how many messages"):
        worker.run(limit=limit)
    assert done == []


@pytest.mark.parametrize(
    "queues", ["mail", ["mail"], Queue("mail"), {"mail"}, (Queue("mail"), "mail")]
)
def test_a_run_can_be_narrowed_to_queues(worker: Inline, queues: Any) -> None:
    add.delay(1)
    mail.delay("ada")
    assert worker.run(queues=queues).succeeded == 1
    assert done == ["ada"]
    assert [sent.task for sent in worker.pending] == ["shop.add"]


def test_an_empty_list_of_queues_delivers_nothing(worker: Inline) -> None:
    add.delay(1)
    assert worker.run(queues=[]).executions == ()
    assert done == []


def test_a_queue_that_is_not_declared_is_refused_with_those_that_are(worker: Inline) -> None:
    with pytest.raises(BadOptionError) as error:
        worker.run(queues=["mail", "nowhere", "elsewhere"])
    assert str(error.value) == (
        "queues: no queue 'elsewhere', 'nowhere' is declared. There are: celery, mail."
    )


def test_a_queue_that_no_worker_consumes_is_refused_with_what_to_write(worker: Inline) -> None:
    with pytest.warns(QueueNotConsumedWarning, match="other"):
        add.apply_async((1,), queue="other")
    with pytest.raises(BadOptionError) as error:
        worker.run(queues=["other", "mail"])
    text = str(error.value)
    assert text.startswith("queues: no worker consumes 'other'. Workers consume: celery, mail (")
    assert "say so: djcelery_queues, or celery_queues." in text
    assert done == []


# Moving the clock --------------------------------------------------------------------------


def test_a_message_with_an_eta_waits_until_the_clock_reaches_it(worker: Inline) -> None:
    add.apply_async((1,), countdown=60)
    add.apply_async((2,), countdown=30)
    summary = worker.run()
    assert (summary.succeeded, summary.scheduled) == (0, 2)
    assert [sent.args[0] for sent in worker.scheduled] == [2, 1]
    assert worker.next_eta() == worker.scheduled[0].eta
    summary = worker.run(until=timedelta(seconds=45))
    assert (summary.succeeded, summary.scheduled) == (1, 1)
    assert done == [(2, 0)]
    worker.advance(timedelta(seconds=20))
    assert [sent.args[0] for sent in worker.pending] == [1]
    assert worker.scheduled == []
    worker.run()
    assert done == [(2, 0), (1, 0)]
    assert worker.next_eta() is None


def test_a_task_runs_exactly_at_its_eta(worker: Inline) -> None:
    seen = []
    functions["now"] = lambda: seen.append(datetime.now(timezone.utc))
    worker.run(until=START)
    for minutes in (3, 1, 2):
        call.apply_async(("now",), eta=START + minutes * MINUTE)
    worker.run(until=START + 10 * MINUTE)
    assert seen == [START + MINUTE, START + 2 * MINUTE, START + 3 * MINUTE]
    assert datetime.now(timezone.utc) == START + 10 * MINUTE


def test_an_eta_at_the_very_end_of_a_run_belongs_to_it(worker: Inline) -> None:
    worker.run(until=START)
    add.apply_async((1,), eta=START + MINUTE)
    add.apply_async((2,), eta=START + MINUTE + timedelta(microseconds=1))
    worker.run(until=MINUTE)
    assert done == [(1, 0)]


def test_a_run_that_stops_at_its_limit_leaves_the_clock_at_the_last_delivery(
    worker: Inline,
) -> None:
    worker.run(until=START)
    for minutes in (1, 2):
        add.apply_async((minutes,), eta=START + minutes * MINUTE)
    worker.run(until=10 * MINUTE, limit=1)
    assert datetime.now(timezone.utc) == START + MINUTE
    worker.run(until=10 * MINUTE, limit=2)
    assert datetime.now(timezone.utc) == START + 11 * MINUTE


def test_a_retry_fires_in_the_same_run(worker: Inline) -> None:
    result = end.delay("retry")
    summary = worker.run(until=10 * MINUTE)
    assert (summary.retried, summary.succeeded) == (1, 1)
    assert [execution.attempt for execution in summary.executions] == [1, 2]
    assert result.get() == "retry"


@given(
    st.lists(
        st.tuples(st.none() | st.integers(0, 5), st.sampled_from(["celery", "mail"])), max_size=8
    ),
    st.integers(0, 6),
)
def test_pending_and_scheduled_say_what_a_run_will_do(
    messages: list[tuple[int | None, str]], moved: int
) -> None:
    with inline_project.worker() as worker:
        worker.run(until=START)
        for number, (minutes, queue) in enumerate(messages):
            eta = None if minutes is None else START + minutes * MINUTE
            add.apply_async((number,), eta=eta, queue=queue)
        worker.advance(moved * MINUTE)
        due = [sent.args[0] for sent in worker.pending]
        later = [sent.args[0] for sent in worker.scheduled]
        assert sorted(due + later) == list(range(len(messages)))
        assert later == [
            number
            for number, (minutes, _) in sorted(
                enumerate(messages), key=lambda item: (item[1][0] or 0, item[0])
            )
            if (minutes or 0) > moved
        ]
        summary = worker.run()
        assert [x for x, _ in done] == due
        assert summary.scheduled == len(later)
        worker.run(until=10 * MINUTE)
        assert [x for x, _ in done] == due + later


# Failures ----------------------------------------------------------------------------------


def test_a_failure_is_raised_with_a_note_and_what_follows_stays_queued(worker: Inline) -> None:
    failing = end.delay("fail")
    add.delay(1)
    with pytest.raises(ValueError, match="fail") as error:
        worker.run()
    assert error.value.__notes__ == [
        f"in the task shop.end('fail') [{failing.id}], attempt 1",
    ]
    assert looked() == [failing.id]
    assert done == ["fail"]
    worker.run()
    assert done == ["fail", (1, 0)]


def test_a_note_is_not_repeated_and_others_stay(worker: Inline) -> None:
    error = ValueError("the same")
    error.__notes__ = ["of the project"]

    def fail() -> None:
        raise error

    functions["fail"] = fail
    with pytest.raises(ValueError, match="the same"):
        call.apply_async(("fail",), task_id="one") and worker.run()
    with pytest.raises(ValueError, match="the same") as caught:
        call.apply_async(("fail",), task_id="one") and worker.run()
    notes = caught.value.__notes__
    assert notes == ["of the project", "in the task shop.call('fail') [one], attempt 1"]


def test_failures_that_are_not_raised_are_in_the_summary(worker: Inline) -> None:
    first = end.delay("fail")
    add.delay(1)
    unknown = app.send_task("no.such.task")
    summary = worker.run(raise_failures=False)
    assert done == ["fail", (1, 0)]
    assert looked() == []  # nobody has read the summary
    assert (summary.succeeded, summary.scheduled) == (1, 0)
    assert looked() == []
    assert summary.failed == 1
    assert looked() == [first.id]
    assert summary.unknown == 1
    assert looked() == [first.id, unknown.id]
    assert repr(summary) == "<Summary succeeded=1, failed=1, unknown=1>"
    assert len(summary.executions) == 3
    assert looked() == [first.id, unknown.id] * 2


def test_a_summary_counts_every_end(worker: Inline) -> None:
    for how in ("succeed", "fail", "retry", "ignore", "reject", "requeue"):
        end.delay(how)
    end.delay("revoked").revoke()
    end.apply_async(("expired",), expires=datetime.now(timezone.utc) - MINUTE)
    app.send_task("no.such.task")
    summary = worker.run(raise_failures=False)
    counts = {
        name: getattr(summary, name)
        for name in (
            "succeeded", "failed", "retried", "ignored", "rejected", "revoked", "expired",
            "unknown", "scheduled",
        )
    }  # fmt: skip
    assert counts == {
        "succeeded": 2, "failed": 1, "retried": 1, "ignored": 1, "rejected": 2, "revoked": 1,
        "expired": 1, "unknown": 1, "scheduled": 1,
    }  # fmt: skip
    with pytest.raises(AttributeError, match="'Summary' object has no attribute 'sucseeded'"):
        summary.sucseeded  # noqa: B018 - a property that there is not


def test_an_execution_says_what_became_of_its_message(worker: Inline) -> None:
    add.apply_async((1, 2), task_id="one")
    [execution] = worker.run().executions
    assert (execution.task, execution.id, execution.state, execution.value) == (
        "shop.add", "one", "SUCCESS", 3,
    )  # fmt: skip
    assert (execution.exception, execution.attempt, execution.expired) == (None, 1, False)
    assert execution.message is not None
    assert execution.message.args == (1, 2)
    assert not execution.failed
    assert str(execution) == "shop.add(1, 2) [one], attempt 1"
    end.apply_async(("fail",), task_id="two")
    [execution] = worker.run(raise_failures=False).executions
    assert (execution.value, execution.state, execution.failed) == (None, "FAILURE", True)
    assert isinstance(execution.exception, ValueError)
    end.apply_async(("expired",), expires=datetime.now(timezone.utc) - MINUTE)
    [execution] = worker.run().executions
    assert (execution.state, execution.expired, execution.counted_as) == (
        "REVOKED", True, "expired",
    )  # fmt: skip
    end.delay("reject")
    [execution] = worker.run().executions
    assert (execution.state, execution.counted_as) == ("REJECTED", "rejected")
    assert isinstance(execution.exception, Reject)


def test_an_unknown_task_is_raised(worker: Inline) -> None:
    app.send_task("no.such.task", (1,))
    with pytest.raises(NotRegistered, match=r"no\.such\.task"):
        worker.run()


def test_what_a_worker_cannot_read_is_rejected_with_the_reason(worker: Inline) -> None:
    app.send_task("shop.add", (1,), serializer="pickle", task_id="pickled")
    with app.connection_for_write() as connection:
        producer = connection.Producer()
        producer.publish({"not": "a task"}, routing_key="celery", declare=[Queue("celery")])
    first, second = worker.run().executions
    assert (first.task, first.id, first.state, first.attempt) == (
        "shop.add", "pickled", "REJECTED", 1,
    )  # fmt: skip
    assert "pickle" in str(first.exception)
    assert (second.message, second.state) == (None, "REJECTED")
    assert str(second.exception) == "The message names no task"
    assert str(second) == "None [None], attempt 1"
    assert done == []


# One step, and refusals --------------------------------------------------------------------


def test_a_step_delivers_one_message_and_raises_nothing(worker: Inline) -> None:
    assert worker.step() is None
    add.delay(1)
    failing = end.delay("fail")
    add.apply_async((2,), countdown=60)
    first = worker.step()
    assert isinstance(first, Execution)
    assert first.value == 1
    assert looked() == []
    second = worker.step()
    assert second is not None
    assert second.failed
    assert looked() == [failing.id]
    assert worker.step() is None


def test_a_task_may_not_run_the_worker_that_runs_it(worker: Inline) -> None:
    functions["run"] = worker.run
    call.delay("run")
    with pytest.raises(InlineError, match=r"^celery_inline was asked to deliver inside a task"):
        worker.run()


def test_a_coroutine_may_not_run_it(worker: Inline) -> None:
    add.delay(1)

    async def run() -> None:
        worker.run()

    with pytest.raises(InlineError, match=r"in a coroutine.*await celery_inline\.arun\(\)"):
        asyncio.run(run())
    assert done == []


def test_a_second_run_beside_the_first_is_refused(worker: Inline) -> None:
    errors: list[Exception] = []

    def beside() -> None:
        try:
            worker.run()
        except InlineError as error:
            errors.append(error)

    def start_another() -> None:
        thread = threading.Thread(target=beside)
        thread.start()
        thread.join()

    functions["start"] = start_another
    call.delay("start")
    worker.run()
    [error] = errors
    assert str(error).startswith("celery_inline already delivers, in another thread")
    worker.run()  # it is free again


def test_nothing_is_delivered_while_it_is_held(worker: Inline) -> None:
    with worker.hold():
        add.delay(1)
        with pytest.raises(InlineError, match="already delivers"):
            worker.run()
    assert done == []
    worker.run()
    assert done == [(1, 0)]


def test_tasks_that_publish_themselves_without_end_are_stopped(
    worker: Inline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_djcelery.workers.inline.deliveries._ENDLESS", 20)
    functions["again"] = lambda: call.delay("again").id
    call.delay("again")
    with pytest.raises(NeverEndsError, match=r"^More than 20 messages .* a line of more than 10"):
        worker.run()
    assert len(journal()) > 31
    worker.run(limit=100)  # that one has an end


def test_a_requeued_message_leads_to_itself(
    worker: Inline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_djcelery.workers.inline.deliveries._ENDLESS", 20)

    def requeue() -> None:
        done.append(1)
        raise Reject("later", requeue=True)

    functions["requeue"] = requeue
    call.delay("requeue")
    with pytest.raises(NeverEndsError, match="Does it publish, retry or requeue itself"):
        worker.run()
    assert 30 <= len(done) <= 32  # a line of ten, then twenty, and one too many


def test_many_messages_of_one_task_are_cut_to_a_short_line(
    worker: Inline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_djcelery.workers.inline.deliveries._ENDLESS", 20)

    def fan_out() -> None:
        for number in range(60):
            add.delay(number)

    functions["fan_out"] = fan_out
    call.delay("fan_out")
    assert worker.run().succeeded == 61


# Delivery by itself ------------------------------------------------------------------------


def test_automatic_delivery_follows_each_publish() -> None:
    with inline_project.worker(auto=True):
        add.delay(1)
        assert done == [(1, 0)]
        functions["more"] = lambda: (add.delay(2).id, list(done))
        result = call.delay("more")
        assert done == [(1, 0), (2, 0)]
        assert result.get()[1] == [[1, 0]]  # what a task publishes comes after it


def test_an_automatic_run_raises_only_where_the_settings_say_so() -> None:
    with inline_project.worker(auto=True):
        failing = end.delay("fail")
        assert looked() == []
        with pytest.raises(ValueError, match="fail"):
            failing.get()
        app.conf.task_eager_propagates = True
        with pytest.raises(ValueError, match="fail"):
            end.apply_async(("fail",), task_id="raised")
        [event] = journal().events(RaisedElsewhere)
        assert event.task_ids == ("raised",)
        assert isinstance(event.error, ValueError)
        assert "raised" not in looked()
        with pytest.raises(ValueError, match="fail"):
            app.AsyncResult("raised").get()
    assert not app.conf.task_eager_propagates


def test_what_is_published_during_a_hold_waits_for_the_next_publish() -> None:
    with inline_project.worker(auto=True) as worker:
        with worker.hold():
            add.delay(1)
            assert done == []
        add.delay(2)
        assert done == [(1, 0), (2, 0)]


def test_a_thread_of_the_code_under_test_delivers_nothing() -> None:
    with inline_project.worker(auto=True) as worker:
        thread = threading.Thread(target=add.delay, args=(1,))
        thread.start()
        thread.join()
        assert done == []
        worker.run()
        assert done == [(1, 0)]


# Waiting for a result ----------------------------------------------------------------------


def test_a_result_is_delivered_when_it_is_asked_for_and_no_more(worker: Inline) -> None:
    first, second, _third = (add.delay(number) for number in (1, 2, 3))
    assert second.get() == 2
    assert [x for x, _ in done] == [1, 2]
    assert first.get() == 1
    assert [x for x, _ in done] == [1, 2]
    assert len(worker.pending) == 1


def test_several_results_are_delivered_together(worker: Inline) -> None:
    from celery.result import ResultSet

    results = [add.delay(number) for number in range(3)]
    assert ResultSet(results, app=app).get() == [0, 1, 2]


def test_a_result_that_nothing_will_bring_is_refused_at_once(worker: Inline) -> None:
    later = add.apply_async((1,), countdown=60)
    with pytest.raises(NeverReadyError, match=later.id) as error:
        later.get()
    assert "run(until=" in str(error.value)
    with pytest.raises(NeverReadyError, match="nobody-sent-it"):
        app.AsyncResult("nobody-sent-it").get()


def test_a_task_that_waits_for_another_has_it_delivered_meanwhile(worker: Inline) -> None:
    def wait() -> Any:
        return add.delay(1, 2).get(disable_sync_subtasks=False)

    functions["wait"] = wait
    call.delay("wait")
    add.delay(9)
    summary = worker.run()
    assert [execution.value for execution in summary.executions] == [9, 3, 3]
    assert summary.succeeded == 3


def test_messages_delivered_for_a_waiting_task_count_towards_the_limit(worker: Inline) -> None:
    def wait() -> None:
        add.delay(1).get(disable_sync_subtasks=False)
        add.delay(2)

    functions["wait"] = wait
    call.delay("wait")
    assert worker.run(limit=2).succeeded == 2
    assert done == [(1, 0)]


def test_a_failure_that_a_waiting_task_met_is_raised_once(worker: Inline) -> None:
    functions["wait"] = lambda: end.delay("fail").get(disable_sync_subtasks=False)
    call.delay("wait")
    with pytest.raises(ValueError, match="fail"):
        worker.run()
    assert len(looked()) == 2  # both failures are seen
    worker.run()


def test_a_task_does_not_wait_for_what_nothing_brings(worker: Inline) -> None:
    functions["wait"] = lambda: add.apply_async((1,), countdown=60).get(disable_sync_subtasks=False)
    call.delay("wait")
    with pytest.raises(NeverReadyError, match="will not be ready"):
        worker.run()


# The surroundings of a task ----------------------------------------------------------------


def test_a_task_sees_no_transaction_of_the_test(worker: Inline, django_db_blocker: Any) -> None:
    from django.db import connection, transaction

    def in_task() -> None:
        with transaction.atomic(durable=True):
            transaction.on_commit(lambda: done.append("after the commit"))
            done.append("in the block")

    functions["look"] = in_task
    functions["wait"] = lambda: call.delay("look").get(disable_sync_subtasks=False)
    with django_db_blocker.unblock():
        block: Any = transaction.atomic()
        block._from_testcase = True
        with block:
            call.delay("look")
            call.delay("wait")
            worker.run()
            assert connection.in_atomic_block
    assert done == ["in the block", "after the commit"] * 2


def test_a_changed_setting_counts_from_the_next_run_on(worker: Inline) -> None:
    add.delay(1)
    worker.run()
    app.conf.task_default_queue = "renamed"
    app.conf.accept_content = ["pickle", "json"]
    app.send_task("shop.add", (5,), serializer="pickle")
    summary = worker.run()
    assert summary.succeeded == 1
    assert done == [(1, 0), (5, 0)]


def test_what_waits_can_be_dropped(worker: Inline) -> None:
    add.apply_async((1,), countdown=60)
    worker.run()
    worker.drop_scheduled()
    assert worker.scheduled == []
    assert worker.run(until=2 * MINUTE).succeeded == 0
    assert done == []


def test_the_worker_shows_what_it_has_to_deliver() -> None:
    with inline_project.worker() as worker:
        assert repr(worker) == "<celery_inline: nothing to deliver>"
        worker.run(until=START)
        add.apply_async((1,), eta=START + MINUTE)
        moved = "the clock is at 2030-01-01 12:00:00 UTC"
        assert repr(worker) == (
            f"<celery_inline: 1 scheduled; next shop.add(1) at 2030-01-01 12:01:00 UTC; {moved}>"
        )
        add.delay(2)
        assert repr(worker) == (f"<celery_inline: 1 due, 1 scheduled; next shop.add(2); {moved}>")
    assert repr(worker) == "<celery_inline: its test is over>"
