"""States and results"""

from __future__ import annotations

import pytest
from celery import group
from celery.result import AsyncResult, GroupResult
from shop.contract import delivery, plain, requests

from pytest_djcelery import Success

pytestmark = pytest.mark.django_db


def test_custom_states(work, celery_results):
    """`update_state` stores a custom state"""
    result = delivery.progress.delay()
    assert work.outcome(result) == Success("done")
    assert [each.state for each in celery_results.history(result)] == ["PROGRESS", "SUCCESS"]


def test_started_is_tracked(work, celery_results):
    """`track_started` stores `STARTED`"""
    result = delivery.tracked.delay()
    work.outcome(result)
    assert [each.state for each in celery_results.history(result)] == ["STARTED", "SUCCESS"]


def test_the_history_is_complete_with_the_outcome(work, celery_results):
    """With a task's outcome, all states that led to it are known"""
    for _ in range(10):  # what the worker tells and what it stores would often come in turn
        result = delivery.progress.delay()
        assert celery_results[result] == Success("done")
        assert [each.state for each in celery_results.history(result)] == ["PROGRESS", "SUCCESS"]
    result = delivery.progress.delay()
    assert result.get(timeout=10) == "done"
    assert [each.state for each in celery_results.history(result)] == ["PROGRESS", "SUCCESS"]
    work.settle()


def test_a_task_starts_pending(work):
    """A task that has not run is `PENDING`"""
    result = plain.add.apply_async((1, 2), countdown=0.3)
    assert (result.state, result.ready()) == ("PENDING", False)
    work.later(0.5)
    assert work.outcome(result) == Success(3)
    assert (result.state, result.ready(), result.successful()) == ("SUCCESS", True, True)


def test_a_result_is_found_by_its_id(work, celery_app):
    """A result is found by its id"""
    result = plain.add.delay(1, 2)
    assert work.outcome(result) == Success(3)
    assert AsyncResult(result.id, app=celery_app).get(timeout=10) == 3


def test_date_done_is_stored(work, celery_app):
    """`date_done` is stored"""
    result = plain.add.delay(1, 2)
    work.outcome(result)
    assert celery_app.AsyncResult(result.id).date_done is not None


def test_children_are_stored(work, celery_app):
    """The tasks that a task has published are its result's children"""
    result = requests.publish.delay(4)
    work.outcome(result)
    [child] = celery_app.AsyncResult(result.id).children
    assert child.get(timeout=10) == 8


def test_a_group_result_is_saved_and_restored(work, celery_app):
    """A group's result can be saved and restored"""
    result = group(plain.double.s(n) for n in range(2)).apply_async()
    result.save()
    assert GroupResult.restore(result.id, app=celery_app).get(timeout=10) == [0, 2]
    work.settle()


def test_forget(work, celery_app):
    """`forget` removes a result"""
    result = plain.add.delay(1, 2)
    assert work.outcome(result) == Success(3)
    celery_app.AsyncResult(result.id).forget()
    assert celery_app.AsyncResult(result.id).state == "PENDING"


def test_ignored_results_are_not_stored(work, log, celery_app):
    """The results of a task with `ignore_result` are not stored"""
    result = plain.ignored_result.delay(1)
    work.settle()
    assert log == [1]
    assert celery_app.AsyncResult(result.id).state == "PENDING"


def test_a_result_ignored_at_the_call(work, celery_app):
    """A result can be ignored at the call"""
    result = plain.add.apply_async((1, 2), ignore_result=True)
    work.settle()
    assert result.get() is None
    assert celery_app.AsyncResult(result.id).state == "PENDING"


@pytest.mark.celery(result_extended=True)
def test_extended_results(work, celery_app):
    """`result_extended` stores name and arguments with the result"""
    result = plain.add.delay(1, y=2)
    work.outcome(result)
    stored = celery_app.AsyncResult(result.id)
    assert stored.name == "shop.contract.plain.add"
    assert list(stored.args) == [1]
    assert stored.kwargs == {"y": 2}
