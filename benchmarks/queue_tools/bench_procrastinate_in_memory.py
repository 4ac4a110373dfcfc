"""procrastinate's InMemoryConnector."""

from datetime import timedelta

import procrastinate
import pytest
import time_machine
from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone
from procrastinate.testing import InMemoryConnector

FAILURES = 3
connector = InMemoryConnector()
app = procrastinate.App(connector=connector)
outcomes: list[object] = []


@app.task
def add(x: int, y: int) -> int:
    """Cost nothing."""
    outcomes.append(x + y)
    return x + y


@app.task(retry=procrastinate.RetryStrategy(max_attempts=FAILURES, wait=3600), pass_context=True)
def flaky(context: procrastinate.JobContext) -> None:
    """Succeed at the fourth attempt."""
    if context.job.attempts < FAILURES:
        raise ConnectionError
    outcomes.append("ok")


@app.task
def welcome(pk: int) -> None:
    """Need a row."""
    outcomes.append(pk)


def sign_up() -> None:
    """Be the code under test."""
    with transaction.atomic():
        user = User.objects.create(username="ada")
        transaction.on_commit(lambda: welcome.defer(pk=user.pk))


@pytest.fixture(autouse=True)
def _opened():
    connector.reset()
    outcomes.clear()
    with app.open():
        yield


def work() -> None:
    """Run what is due."""
    app.run_worker(wait=False, install_signal_handlers=False, listen_notify=False)


@pytest.mark.says("Task, arguments and queue of the stored row. Not whether they fit the task.")
def test_publish_seen() -> None:
    add.defer(x=4, y=4)
    [job] = connector.jobs.values()
    assert (job["task_name"], job["args"]) == (add.name, {"x": 4, "y": 4})


@pytest.mark.says("The worker's own code, in the test's thread. Results are not kept.")
def test_run_one() -> None:
    add.defer(x=4, y=4)
    work()
    assert outcomes == [8]
    assert [job["status"] for job in connector.jobs.values()] == ["succeeded"]


@pytest.mark.says("Each retry is a row an hour later; the test moves the clock with time-machine.")
def test_retry_with_an_hour_of_back_off() -> None:
    with time_machine.travel(timezone.now(), tick=False) as clock:
        flaky.defer()
        for _ in range(FAILURES + 1):
            work()
            clock.shift(timedelta(hours=1))
    assert outcomes == ["ok"]


@pytest.mark.says("")
@pytest.mark.skip("it has no chords")
def test_chord() -> None:
    """Not possible."""


@pytest.mark.django_db
@pytest.mark.says(
    "That a hook sends it, where the test captures the hooks. With PostgreSQL a job is a row of "
    "the transaction; the connector in memory is not."
)
def test_after_commit(django_capture_on_commit_callbacks) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        sign_up()
    [job] = connector.jobs.values()
    assert job["args"] == {"pk": User.objects.get().pk}


@pytest.mark.says("Each as a row, through its worker's code.")
def test_1000_jobs() -> None:
    for number in range(1000):
        add.defer(x=number, y=1)
    work()
    assert len(outcomes) == 1000
