"""``celery_results``: how tasks ended, whatever result backend the project has.

``celery_results[result]`` waits for the end. An outcome that was not expected shows the task's
own traceback.
"""

import pytest
from celery import chord, group, uuid
from pytest_djcelery import Failure, Pending, Revoked, Success

from demoapp.tasks import add, flaky, import_widgets, send_email, xsum

pytestmark = pytest.mark.django_db(transaction=True)


def test_success(celery_worker, celery_results):
    assert celery_results[add.delay(4, 4)] == Success(8)


def test_failure(celery_worker, celery_results):
    assert celery_results[add.delay(4, "4")] == Failure(TypeError, match="unsupported operand")


def test_retries(celery_worker, celery_results):
    assert celery_results[flaky.delay(failures=0)] == Success("ok", retries=0)


def test_a_task_that_was_revoked(celery_app, celery_worker, celery_results):
    task_id = uuid()
    celery_app.control.revoke(task_id, reply=True, limit=1)  # now the worker knows of it
    assert celery_results[add.apply_async((4, 4), task_id=task_id)] == Revoked()


def test_every_task_of_a_kind(client, celery_worker, celery_results):
    client.post("/users/", {"username": "ada"})
    client.post("/users/", {"username": "grace"})
    assert celery_results.of(send_email) == [Success(None), Success(None)]


def test_progress(celery_worker, celery_results):
    result = import_widgets.delay(["a", "b"])
    assert celery_results[result] == Success(2)
    assert [
        change.meta["done"]
        for change in celery_results.history(result)
        if change.state == "PROGRESS"
    ] == [1, 2]


def test_groups_and_chords(celery_worker, celery_results):
    pair = group(add.s(1, 1), add.s(2, 2))
    assert celery_results[pair.delay()] == [Success(2), Success(4)]
    assert celery_results[chord(pair, xsum.s()).delay()] == Success(6)


def test_looking_without_waiting(celery_results):
    # No worker in this test: nothing takes the message.
    assert celery_results.now(add.delay(4, 4)) == Pending()
