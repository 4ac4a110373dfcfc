"""What a type checker sees of the public names. mypy reads this; nothing runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from celery import Celery
from typing_extensions import assert_type

from pytest_djcelery import (
    Beat,
    Execution,
    Failure,
    Fault,
    Faults,
    Hook,
    Inline,
    LiveWorker,
    Location,
    OnCommit,
    Outbox,
    Results,
    SentTask,
    StateChange,
    Stub,
    Success,
    Summary,
    Worker,
    app,
    beat,
    check_registry,
    eager,
    faults,
    inline,
    live_worker,
    on_commit,
    outbox,
    results,
    timeline,
    worker,
)


def context_managers() -> None:
    with app(task_acks_late=True) as one, eager(propagates=True) as other:
        assert_type(one, Celery)
        assert_type(other, Celery)
    with outbox() as sent, on_commit() as hooks, results() as outcomes, beat() as schedule:
        assert_type(sent, Outbox)
        assert_type(hooks, OnCommit)
        assert_type(outcomes, Results)
        assert_type(schedule, Beat)
    with inline(auto=True) as in_place:
        assert_type(in_place, Inline)
    with worker(pool="threads", concurrency=2) as embedded:
        assert_type(embedded, Worker)
    with live_worker(queues=["mail"]) as live:
        assert_type(live, LiveWorker)
    assert_type(check_registry(), None)
    assert_type(timeline(limit=10), str)


def messages(sent: Outbox) -> None:
    message = sent[0]
    assert_type(message, SentTask)
    assert_type(sent[:1], list[SentTask])
    assert_type(sent.one(object()), SentTask)
    assert_type(sent.wait_for(object(), timeout=1), SentTask)
    assert_type(sent.count(object()), int)
    assert_type(sent.of("proj.tasks.add"), Outbox)
    assert_type(sent.of("proj.tasks.add", x=1, self=2), Outbox)
    assert_type(sent.on_queue("mail"), Outbox)
    assert_type(sent.after_commit, Outbox)
    assert_type(sent.in_transaction, Outbox)
    assert_type(message.task, str)
    assert_type(message.id, str)
    assert_type(message.queue, str | None)
    assert_type(message.eta, datetime | None)
    assert_type(message.sent_at, datetime)
    assert_type(message.retries, int)
    assert_type(message.after_commit, bool)
    assert_type(message.location, Location | Any)


def hooks_of_commits(hooks: OnCommit) -> None:
    assert_type(hooks.pending, list[Hook])
    assert_type(hooks.ran, list[Hook])
    assert_type(hooks.discarded, list[Hook])
    assert_type(hooks.ran[0].sent, tuple[SentTask, ...])
    assert_type(hooks.ran[0].using, str)
    assert_type(hooks.ran[0].robust, bool)


async def delivery(in_place: Inline) -> None:
    summary = in_place.run(queues=["mail"], limit=1, until=timedelta(1), raise_failures=False)
    assert_type(summary, Summary)
    assert_type(await in_place.arun(until=timedelta(1)), Summary)
    assert_type(summary.succeeded, int)
    assert_type(summary.scheduled, int)
    assert_type(summary.executions, tuple[Execution, ...])
    assert_type(in_place.step(), Execution | Any)
    assert_type(in_place.pending, list[SentTask])
    assert_type(in_place.scheduled, list[SentTask])
    assert_type(in_place.advance(timedelta(1)), None)
    execution = summary.executions[0]
    assert_type(execution.state, str)
    assert_type(execution.exception, BaseException | None)
    assert_type(execution.attempt, int)
    assert_type(execution.redelivered, bool)
    assert_type(execution.lost, bool)
    assert_type(summary.lost, int)


def things_that_go_wrong(broken: Faults) -> None:
    def charge(amount: int) -> None: ...

    assert_type(broken.fail("shop.add", ValueError, times=None, when="after"), Fault)
    assert_type(broken.lose_worker("shop.add", at=charge, host=True), Fault)
    assert_type(broken.time_out("shop.add", at="start", soft=False), Fault)
    assert_type(broken.duplicate("shop.add", optional=True), Fault)
    assert_type(broken.stub("shop.add", returns=3), Stub)
    calls: Sequence[SentTask] = broken.stub("shop.add").calls
    assert_type(calls[0], SentTask)
    assert_type(broken.fired, tuple[Fault, ...])
    with broken.broker_down() as fault, broken.results_down(times=2):
        assert_type(fault.fired, int)
    with faults() as block:
        assert_type(block, Faults)


def outcomes_of_tasks(outcomes: Results) -> None:
    assert_type(outcomes.history("id"), list[StateChange])
    assert_type(Success(1, retries=2), Success)
    assert_type(Failure(ValueError, match="boom").retries, int | None)


def periodic_tasks(schedule: Beat) -> None:
    assert_type(schedule.run(until=timedelta(1)), list[SentTask])
    assert_type(schedule.due(timedelta(1)), list[tuple[datetime, str]])
    assert_type(list(schedule.entries), list[str])
    assert isinstance(schedule.entries, Mapping)
