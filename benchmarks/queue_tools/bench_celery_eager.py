"""Celery's eager mode, with a mock where there is nothing else."""

from unittest import mock

import pytest
from celery import chord
from celery_jobs import add, app, flaky, sign_up, total, welcome


@pytest.fixture(autouse=True)
def _eager() -> None:
    # With `task_eager_propagates`, a retry would be raised in place of being run.
    app.conf.update(task_always_eager=True, task_eager_propagates=False)


@pytest.mark.says(
    "A mock of `delay` was called so. Not whether the call fits the task, serializes, or has "
    "options; not `send_task`, nor signatures."
)
def test_publish_seen() -> None:
    with mock.patch.object(add, "delay") as delay:
        add.delay(4, 4)
    delay.assert_called_once_with(4, 4)


@pytest.mark.says(
    "The function, called inside `delay()`. No message, no worker; results as they are."
)
def test_run_one() -> None:
    assert add.delay(4, 4).get() == 8


@pytest.mark.says("That it is retried. Not the delay: all attempts run at once, inside `delay()`.")
def test_retry_with_an_hour_of_back_off() -> None:
    assert flaky.delay().get() == "ok"


@pytest.mark.says("The values. Nested calls: not when the body is sent, nor what a backend needs.")
def test_chord() -> None:
    assert chord([add.s(n, n) for n in range(10)], total.s()).delay().get() == 90


@pytest.mark.django_db
@pytest.mark.says(
    "That a hook sends it, where the test captures the hooks. Not when: a message sent before the "
    "commit passes too."
)
def test_after_commit(django_capture_on_commit_callbacks) -> None:
    with (
        mock.patch.object(welcome, "delay") as delay,
        django_capture_on_commit_callbacks(execute=True),
    ):
        sign_up()
    delay.assert_called_once()


@pytest.mark.says("A thousand calls of the function.")
def test_1000_jobs() -> None:
    assert [add.delay(number, 1).get() for number in range(1000)][-1] == 1000
