"""Failure"""

from __future__ import annotations

import pytest
from celery.exceptions import NotRegistered
from shop.contract import failing, plain

from pytest_djcelery import Failure, Success

pytestmark = pytest.mark.django_db


def test_a_failure_keeps_type_and_text(work):
    """A failure keeps the exception's type and text"""
    assert work(failing.fail.s("oh no")) == Failure(ValueError, match="oh no")


def test_a_failure_keeps_its_arguments(work):
    """A failure keeps the arguments of an exception of the project's own class"""
    outcome = work(failing.fail_with_facts.s())
    assert outcome == Failure(failing.TwoFactsError)
    assert outcome.exception.args == ("one", 2)


def test_a_failure_that_cannot_be_pickled(work):
    """An exception that can't be pickled is a failure nevertheless"""
    assert isinstance(work(failing.fail_unpicklable.s()), Failure)


def test_get_raises_the_failure(work):
    """`get()` raises the failure; with `propagate=False` it returns it"""
    result = failing.fail.delay("told")
    assert isinstance(result.get(timeout=10, propagate=False), ValueError)
    with pytest.raises(ValueError, match="told"):
        result.get(timeout=10)
    work.settle()


def test_a_failing_task_does_not_raise_at_the_call(work, log):
    """A failing task does not raise at the call"""
    result = failing.fail.delay("later")
    log.append("after the call")
    assert work.outcome(result) == Failure(ValueError)


def test_an_unknown_task_is_a_failure(work, celery_app, signals_log):
    """A task that the worker doesn't know is a failure, `NotRegistered`"""
    outcome = work.outcome(celery_app.send_task("no.such.task"))
    assert outcome == Failure(NotRegistered)
    # It is sent after the outcome is stored.
    work.until(lambda: "task_unknown" in [name for name, _ in signals_log])


def test_a_task_that_exits_is_a_lost_worker(work):
    """A task that raises `SystemExit` is a failure, `WorkerLostError`"""
    outcome = work(failing.exits.s())
    assert isinstance(outcome, Failure)
    assert "WorkerLostError" in repr(outcome.exception)


def test_an_exception_that_was_announced(work):
    """An exception that the task lists in `throws` is a failure"""
    assert work(failing.throws.s()) == Failure(KeyError)


def test_the_traceback_is_stored(work, celery_app):
    """The traceback is stored"""
    result = failing.fail.delay("x")
    assert work.outcome(result) == Failure(ValueError)
    assert "raise ValueError(text)" in celery_app.AsyncResult(result.id).traceback


def test_the_cause_is_in_the_traceback(work, celery_app):
    """The traceback shows the exception's cause"""
    result = failing.fail_because.delay()
    assert work.outcome(result) == Failure(ValueError, match="the effect")
    assert "the cause" in celery_app.AsyncResult(result.id).traceback


def test_errors_can_be_stored_all_the_same(work, celery_results):
    """`store_errors_even_if_ignored` stores failures of a task whose results are ignored"""
    result = failing.ignored_error.delay()
    work.settle()
    assert celery_results[result.id] == Failure(ValueError, match="kept")


@pytest.mark.parametrize("kind", ["generator", "own"])
def test_a_failure_whose_exception_is_not_an_exception(work, kind):
    """A task that raises a `BaseException` is a failure; the next tasks run"""
    assert isinstance(work(failing.fail_past_exception.s(kind)), Failure)
    assert work(plain.add.s(1, 2)) == Success(3)
