"""This plugin."""

from datetime import timedelta

import pytest
from celery import chord
from celery_jobs import add, flaky, sign_up, total, welcome
from django.contrib.auth.models import User

from pytest_djcelery import Success


@pytest.mark.says(
    "The call bound to the task's parameters, serialized; options; the line and transaction it was "
    "sent from."
)
def test_publish_seen(celery_outbox) -> None:
    add.delay(4, y=4)
    assert celery_outbox == [add.s(4, 4)]


@pytest.mark.says("A worker's own code, in the test's transaction; the outcome from the backend.")
def test_run_one(celery_inline, celery_results) -> None:
    result = add.delay(4, 4)
    celery_inline.run()
    assert celery_results[result] == Success(8)


@pytest.mark.says("Each retry is a message; three hours pass on the clock, for all code.")
def test_retry_with_an_hour_of_back_off(celery_inline, celery_results) -> None:
    result = flaky.delay()
    assert celery_inline.run().scheduled == 1
    celery_inline.run(until=timedelta(hours=3))
    assert celery_results[result] == Success("ok", retries=3)


@pytest.mark.says("Ten messages, and the body's, sent when the last of them has ended.")
def test_chord(celery_inline, celery_results, celery_outbox) -> None:
    result = chord([add.s(n, n) for n in range(10)], total.s()).delay()
    assert celery_results[result] == Success(90)
    assert len(celery_outbox) == 11


@pytest.mark.django_db
@pytest.mark.says("A rollback test; that it was sent by the hook, after the block; the task runs.")
def test_after_commit(celery_outbox, celery_inline) -> None:
    sign_up()
    assert celery_outbox.after_commit == [welcome.s(User.objects.get().pk)]
    assert celery_inline.run().executions[0].value == "ada"


@pytest.mark.says("Each as a message, through a worker's code.")
def test_1000_jobs(celery_inline) -> None:
    for number in range(1000):
        add.delay(number, 1)
    assert celery_inline.run().succeeded == 1000
