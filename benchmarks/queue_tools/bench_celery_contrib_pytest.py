"""The embedded worker that Celery has: `celery.contrib.pytest`."""

import pytest
from celery import chord
from celery_jobs import add, flaky, sign_up, total, welcome

pytest_plugins = ("celery.contrib.pytest",)


@pytest.fixture(scope="session")
def celery_config() -> dict[str, object]:
    """Have messages and results in memory, and results kept."""
    return {"broker_url": "memory://", "result_backend": "cache+memory://"}


@pytest.mark.says("Nothing looks at messages: only that a worker took it.")
@pytest.mark.skip("no record of messages; it is shown by the task's result alone")
def test_publish_seen() -> None:
    """Not possible."""


@pytest.mark.says("A worker's own code, in a thread, on an app of its own; the result.")
def test_run_one(celery_app, celery_worker) -> None:
    assert add.delay(4, 4).get(timeout=30) == 8


@pytest.mark.says("")
@pytest.mark.skip("it would wait for three real hours")
def test_retry_with_an_hour_of_back_off() -> None:
    """Not possible."""
    assert flaky


@pytest.mark.says("Ten messages, and the body's; the result.")
def test_chord(celery_app, celery_worker) -> None:
    result = chord([add.s(n, n) for n in range(10)], total.s()).delay()
    assert result.get(timeout=60) == 90


@pytest.mark.says("")
@pytest.mark.skip(
    "its database is in memory, and another thread has another one; with a real database it needs "
    "real transactions"
)
def test_after_commit() -> None:
    """Not possible in a rollback test."""
    assert sign_up
    assert welcome


@pytest.mark.says("Each as a message, through a worker's code, in a thread.")
def test_1000_jobs(celery_app, celery_worker) -> None:
    results = [add.delay(number, 1) for number in range(1000)]
    assert results[-1].get(timeout=120) == 1000
