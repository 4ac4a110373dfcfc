"""Handlers, `__call__` and signals"""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone
from shop.contract import failing, handlers, plain, retrying

from pytest_djcelery import Failure, Success

pytestmark = pytest.mark.django_db


def test_the_handlers_of_success(work, log):
    """The handlers of a success: `before_start`, `on_success`, `after_return`"""
    work(handlers.handled.s("ok"))
    assert log == ["before_start", "on_success ok", "after_return SUCCESS"]


def test_the_handlers_of_failure(work, log):
    """The handlers of a failure: `before_start`, `on_failure`, `after_return`"""
    work(handlers.handled.s("fail"))
    assert log == [
        "before_start",
        "on_failure ValueError('no') ExceptionInfo",
        "after_return FAILURE",
    ]


def test_the_handlers_of_retry(work, log):
    """The handlers of a retry: `before_start` and `on_retry`, then those of the next attempt"""
    work(handlers.handled.s("retry"))
    # Another process can begin the next attempt before this one has ended.
    [reported] = [each for each in log if each.startswith("on_retry")]
    assert log.index("before_start") < log.index(reported)
    assert [each for each in log if each != reported] == [
        "before_start",
        "before_start",
        "on_success retry",
        "after_return SUCCESS",
    ]


def test_an_on_failure_that_raises(work, log, celery_results):
    """What `on_failure` raises becomes the outcome; the next tasks run"""
    result = handlers.alerting.delay()
    work.outcome(result)  # the task's own error is stored first
    assert celery_results.now(result) == Failure(ConnectionError, match="the pager")
    assert "on_failure" in log
    assert work(plain.add.s(1, 2)) == Success(3)


def test_a_custom_call(work, log):
    """The project's own `Task.__call__` is called, with a request"""
    outcome = work(handlers.called.s())
    assert log == ["__call__"]
    assert outcome.value


def heard(log, attempt=0):
    """The signals of one attempt, without those of publishing."""
    return [name for name, of in log if name.startswith("task_") and of in (attempt, None)]


def test_the_signals_of_publishing(work, signals_log):
    """The signals of publishing: `before_task_publish`, `after_task_publish`"""
    work(plain.add.s(1, 2))
    names = [name for name, _ in signals_log if name.endswith("_publish")]
    assert names == ["before_task_publish", "after_task_publish"]


def test_the_signals_of_success(work, signals_log):
    """The signals of a success: received, prerun, success, postrun"""
    work(plain.add.s(1, 2))
    assert heard(signals_log) == ["task_received", "task_prerun", "task_success", "task_postrun"]


def test_the_signals_of_failure(work, signals_log):
    """The signals of a failure: received, prerun, failure, postrun"""
    work(failing.fail.s())
    assert heard(signals_log) == ["task_received", "task_prerun", "task_failure", "task_postrun"]


def test_the_signals_of_a_retry(work, signals_log):
    """The signals of a retry: received, prerun, retry, postrun, then those of the next attempt"""
    work(retrying.flaky.s(succeed_at=1))
    assert heard(signals_log) == ["task_received", "task_prerun", "task_retry", "task_postrun"]
    assert heard(signals_log, 1) == ["task_received", "task_prerun", "task_success", "task_postrun"]


def test_the_signals_of_a_revoked_task(work, signals_log):
    """The signal of a task that is revoked before it runs: `task_revoked` alone"""
    result = plain.add.apply_async((1, 2), expires=timezone.now() - timedelta(seconds=5))
    work.outcome(result)
    work.until(lambda: heard(signals_log))  # it is sent after the outcome is stored
    assert heard(signals_log) == ["task_revoked"]
