"""What a task of `celery_inline` has of the test around it, and runs of seldom kinds."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from celery.result import ResultSet
from kombu import Queue

from pytest_djcelery.errors import NeverEndsError
from pytest_djcelery.recording.result_waits import NeverReadyError
from tests.unit import inline_project
from tests.unit.inline_project import add, app, call, done, end, functions, mail, sent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_djcelery.api.inline import Inline

MINUTE = timedelta(minutes=1)
START = datetime(2030, 1, 1, 12, tzinfo=timezone.utc)
VARIABLE: ContextVar[str] = ContextVar("VARIABLE", default="of the project")


@pytest.fixture(scope="module", autouse=True)
def _session() -> Iterator[None]:
    with inline_project.session(__file__):
        yield


def by_hand(body: str, **options: Any) -> None:
    """Publish what no task call would."""
    with app.connection_for_write() as connection:
        connection.Producer().publish(
            body, routing_key="celery", declare=[Queue("celery")], **options
        )


# A task and the test -----------------------------------------------------------------------


def test_a_task_has_no_context_of_the_test_nor_of_another_task(worker: Inline) -> None:
    seen: list[str] = []

    def look() -> None:
        seen.append(VARIABLE.get())
        VARIABLE.set("of a task")

    functions["look"] = look
    token = VARIABLE.set("of the test")
    try:
        call.delay("look")
        call.delay("look")
        worker.run()
        assert VARIABLE.get() == "of the test"
    finally:
        VARIABLE.reset(token)
    assert seen == ["of the project"] * 2


def test_what_ends_the_test_ends_it_inside_a_task(worker: Inline) -> None:
    functions["skip"] = lambda: pytest.skip("not here")
    call.delay("skip")
    add.delay(1)
    with pytest.raises(pytest.skip.Exception, match="not here"):
        worker.run()
    assert done == []


def test_the_traceback_of_a_failure_is_the_tasks_own(worker: Inline) -> None:
    def fail_deep_down() -> None:
        raise KeyError

    functions["fail"] = fail_deep_down
    call.delay("fail")
    with pytest.raises(KeyError) as error:
        worker.run()
    names = [entry.name for entry in error.traceback]
    assert names[-2:] == ["call", "fail_deep_down"]
    assert not {"trace_task", "on_apply"} & set(names)


def test_the_tracers_of_tasks_are_put_back_after_the_test() -> None:
    before = add.__trace__
    with inline_project.worker() as worker:
        add.delay(1)
        worker.run()
        assert add.__trace__ is not before
    assert add.__trace__ is before


@pytest.mark.parametrize("thread", [False, True])
def test_what_a_coroutine_publishes_is_delivered_meanwhile(*, thread: bool) -> None:
    home = threading.current_thread()
    ran_in: list[threading.Thread] = []
    with inline_project.worker(auto=True):
        functions["note"] = lambda: ran_in.append(threading.current_thread())

        async def main() -> None:
            call.delay("note")
            assert len(ran_in) == 1

        if thread:
            from asgiref.sync import async_to_sync

            async_to_sync(main)()
            assert ran_in == [home]  # Django's own bridge runs the ORM in the test's thread
        else:
            asyncio.run(main())
            assert ran_in != [home]


def test_automatic_delivery_is_the_affair_of_the_thread_that_began_it() -> None:
    failures: list[BaseException] = []
    threads: list[threading.Thread] = []

    def whole_test() -> None:
        try:
            with inline_project.worker(auto=True):
                add.delay(1)
                assert done == [(1, 0)]
                other = threading.Thread(target=add.delay, args=(2,))
                other.start()
                other.join()
                assert done == [(1, 0)]
                add.delay(3)
                assert [x for x, _ in done] == [1, 2, 3]
        except BaseException as error:  # noqa: BLE001 - raised below
            failures.append(error)
        threads.append(threading.current_thread())

    thread = threading.Thread(target=whole_test)
    thread.start()
    thread.join(30)
    assert threads == [thread]
    assert failures == []


def test_a_coroutine_can_wait_for_a_run(worker: Inline) -> None:
    add.delay(1)

    async def main() -> int:
        return (await worker.arun(limit=1, queues=["celery"])).succeeded

    assert asyncio.run(main()) == 1


# Summaries ---------------------------------------------------------------------------------


def test_a_summary_shows_what_is_not_zero(worker: Inline) -> None:
    assert repr(worker.run()) == "<Summary nothing was due>"
    add.apply_async((1,), countdown=60)
    assert repr(worker.run()) == "<Summary scheduled=1>"
    end.delay("ignore")
    assert repr(worker.run()) == "<Summary ignored=1, scheduled=1>"


def test_what_waits_in_its_queue_is_scheduled_too_unless_it_is_due(worker: Inline) -> None:
    worker.run(until=START)
    add.apply_async((1,), eta=START + MINUTE)
    add.apply_async((2,), eta=START)
    add.apply_async((3,), eta=START - MINUTE)
    mail.apply_async(("ada",), eta=START + MINUTE)
    by_hand("unknown", headers={"eta": "2031-01-01T00:00:00+00:00"})
    assert worker.run(limit=0).scheduled == 2
    assert worker.run(queues=["mail"]).scheduled == 2
    assert worker.run(limit=0).scheduled == 2


# What can't be read ------------------------------------------------------------------------


def test_what_cannot_be_decoded_is_rejected_with_the_reason(worker: Inline) -> None:
    by_hand("{no json", content_type="application/json", content_encoding="utf-8")
    add.delay(1)
    broken, execution = worker.run().executions
    assert (broken.state, broken.message) == ("REJECTED", None)
    assert broken.exception is not None
    assert "Expecting property name" in str(broken.exception)
    assert (execution.state, execution.exception) == ("SUCCESS", None)
    assert worker.run().executions == ()


def test_an_eta_long_past_is_due_at_once(worker: Inline) -> None:
    add.apply_async((1,), eta=datetime(1990, 1, 1, tzinfo=timezone.utc))
    add.delay(2)
    assert [message.args[0] for message in worker.pending] == [1, 2]
    worker.run()
    assert [x for x, _ in done] == [1, 2]


# Repeated functions ------------------------------------------------------------------------


def test_a_repeated_function_is_called_as_the_clock_passes(worker: Inline) -> None:
    worker.run(until=START)
    called: list[datetime] = []
    timer = worker._runs.worker.timer
    timer.call_repeatedly(60, lambda: called.append(datetime.now(timezone.utc)))
    assert worker.next_eta() == START + MINUTE
    add.apply_async((1,), eta=START + MINUTE / 2)
    worker.run()
    assert worker.next_eta() == START + MINUTE / 2
    worker.run(until=3 * MINUTE)
    assert called == [START + number * MINUTE for number in (1, 2, 3)]
    assert done == [(1, 0)]
    assert worker.next_eta() == START + 4 * MINUTE
    add.apply_async((2,), eta=START + 5 * MINUTE)
    worker.run()
    assert worker.next_eta() == START + 4 * MINUTE


# Waiting inside a task ---------------------------------------------------------------------


def test_a_wait_in_a_task_that_others_make_endless_is_stopped(
    worker: Inline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_djcelery.workers.inline.deliveries._ENDLESS", 20)
    functions["again"] = lambda: call.delay("again").id
    functions["wait"] = lambda: add.apply_async((1,), countdown=60).get(
        disable_sync_subtasks=False, timeout=5
    )
    call.delay("wait")
    call.delay("again")
    with pytest.raises(NeverEndsError):
        worker.run()


def test_results_that_nothing_will_bring_are_named_each_on_its_line(worker: Inline) -> None:
    results = [add.apply_async((number,), countdown=60, task_id=f"r{number}") for number in (1, 2)]
    with pytest.raises(NeverReadyError) as error:
        ResultSet(results, app=app).join()
    lines = str(error.value).splitlines()
    assert [line.partition(" will")[0] for line in lines[::2]] == [
        "shop.add(1) [r1]",
        "shop.add(2) [r2]",
    ]


# Redelivery --------------------------------------------------------------------------------


def test_of_equal_messages_the_one_that_is_redelivered_comes_again(worker: Inline) -> None:
    for _ in range(2):
        add.apply_async((1,), task_id="same")
    worker.run()
    first, second = sent()
    for message in (second, first, second):
        worker.redeliver(message)
        [execution] = worker.run().executions
        assert execution.message is message


def test_a_redelivered_message_has_no_priority_that_it_was_not_given(worker: Inline) -> None:
    add.delay(1)
    worker.run()
    add.apply_async((2,), priority=1)
    worker.redeliver(sent()[0])
    worker.run()
    assert [x for x, _ in done] == [1, 2, 1]


def test_a_redelivered_message_is_encoded_as_it_was(worker: Inline) -> None:
    app.conf.accept_content = ["json", "pickle"]
    add.apply_async(({1, 2},), serializer="pickle", task_id="one")
    worker.run(raise_failures=False)
    worker.redeliver(sent()[0])
    [execution] = worker.run(raise_failures=False).executions
    assert execution.message is sent()[0]
    assert done == [({1, 2}, 0)] * 2  # it was read both times, and a set has no sum
    assert isinstance(execution.exception, TypeError)


def test_held_messages_that_have_lost_their_records_are_found_by_what_they_say(
    worker: Inline,
) -> None:
    for number in (2, 1):
        add.apply_async((number,), countdown=60 * number, task_id="same")
    worker.run()  # it holds them now
    add.apply_async((3,), countdown=180, task_id="same")
    broker = worker._sandbox.project.broker
    assert broker is not None
    broker.records.clear()
    assert [message.args[0] for message in worker.scheduled] == [1, 2, 3]
