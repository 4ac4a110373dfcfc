"""Time limits, rate limits and processes"""

from __future__ import annotations

import os

import pytest
from celery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError
from shop.contract import plain, processes

from pytest_djcelery import Failure, Revoked, Success

pytestmark = pytest.mark.django_db


def test_a_soft_time_limit_can_be_caught(work):
    """A soft time limit raises `SoftTimeLimitExceeded` in the task, which can catch it"""
    assert work(processes.last_until_told.s(work.too_long)) == Success("cleaned up")


def test_a_soft_time_limit_that_is_not_caught(work, log):
    """A soft time limit that is not caught is a failure, `SoftTimeLimitExceeded`"""
    outcome = work(processes.last.s(work.too_long).set(soft_time_limit=0.3))
    assert outcome == Failure(SoftTimeLimitExceeded)
    assert "ended" not in log


def test_a_hard_time_limit(work, log):
    """A time limit ends the task; it is a failure, `TimeLimitExceeded`"""
    outcome = work(processes.last.s(work.too_long).set(time_limit=0.3))
    assert outcome == Failure(TimeLimitExceeded)
    assert "ended" not in log


def test_a_time_limit_of_a_late_task(work, log):
    """With `acks_late` its message is acknowledged, and not delivered again"""
    outcome = work(processes.last_late.s(work.too_long))
    assert outcome == Failure(TimeLimitExceeded)
    assert log.count("began") <= 1  # it can be ended before it has begun


def test_a_worker_goes_on_after_a_time_limit(work):
    """After a time limit the next tasks run"""
    limited = work(processes.last.s(work.too_long).set(time_limit=0.3))
    assert [work(plain.add.s(n, 2)) for n in range(3)] == [Success(2), Success(3), Success(4)]
    assert limited == Failure(TimeLimitExceeded)


def test_revoke_terminates(work, log):
    """`revoke(terminate=True)` ends a task that runs"""
    result = processes.last.delay(work.too_long)
    work.until(lambda: "began" in log)
    result.revoke(terminate=True)
    assert work.outcome(result) == Revoked()
    assert log == ["began"]


def test_a_killed_process_is_a_failure(work, log):
    """The task of a process that is killed is a failure, `WorkerLostError`"""
    assert work(processes.killed.s()) == Failure(WorkerLostError)
    assert log == ["killed"]


def test_a_killed_process_of_a_late_task_is_a_failure(work, log):
    """With only `acks_late` it is a failure too, and runs once"""
    assert work(processes.killed_late.s()) == Failure(WorkerLostError)
    assert log == ["killed"]


def test_reject_on_worker_lost(work, log):
    """With `reject_on_worker_lost` it is delivered again"""
    assert work(processes.killed_and_rejected.s()) == Success("second")
    assert log == ["killed"] * 2


def test_a_rate_limit(work):
    """A rate limit spaces the tasks out"""
    results = [processes.limited.delay() for _ in range(4)]
    times = [work.outcome(result).value for result in results]
    # Of 0.6, and of 0.4 with Celery 5.5, which begins with two; the first can begin late.
    assert max(times) - min(times) >= 0.35


def test_two_tasks_at_a_time(work):
    """Two tasks run at the same time"""
    one = processes.meet.delay("one", "two", work.too_long)
    two = processes.meet.delay("two", "one", work.too_long)
    assert [work.outcome(each) for each in (one, two)] == [Success("together")] * 2


def test_a_task_runs_in_another_process(work):
    """A task runs in another process than the code that publishes it"""
    assert work(processes.tell_pid.s()).value != os.getpid()


def test_worker_process_init(work):
    """`worker_process_init` is sent in the process that runs the task"""
    initialized, pid = work(processes.tell_initialized.s()).value
    assert initialized == [pid]


@pytest.mark.celery(worker_max_tasks_per_child=1)
def test_max_tasks_per_child(work):
    """`worker_max_tasks_per_child` replaces a process after so many tasks"""
    pids = [work(processes.tell_pid.s()).value for _ in range(3)]
    assert len(set(pids)) == 3
