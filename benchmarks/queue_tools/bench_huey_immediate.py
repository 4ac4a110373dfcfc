"""huey's immediate mode."""

from datetime import datetime, timedelta

import pytest
from django.contrib.auth.models import User
from django.db import transaction
from huey import MemoryHuey, chord

huey = MemoryHuey(immediate=True, utc=False)
FAILURES = 3
attempts: list[datetime] = []


@huey.task()
def add(x: int, y: int) -> int:
    """Cost nothing."""
    return x + y


@huey.task()
def total(numbers: list[int]) -> int:
    """Be the body of a chord."""
    return sum(numbers)


@huey.task(retries=FAILURES, retry_delay=3600)
def flaky() -> str:
    """Succeed at the fourth attempt."""
    attempts.append(datetime.now())
    if len(attempts) <= FAILURES:
        raise ConnectionError
    return "ok"


@huey.task()
def welcome(pk: int) -> str:
    """Need a row."""
    return User.objects.get(pk=pk).username


def sign_up() -> None:
    """Be the code under test."""
    with transaction.atomic():
        user = User.objects.create(username="ada")
        transaction.on_commit(lambda: welcome(user.pk))


@pytest.fixture(autouse=True)
def _empty() -> None:
    huey.immediate = True
    huey.flush()
    attempts.clear()


@pytest.mark.says("Task and arguments of what waits, by hand, with immediate mode off.")
def test_publish_seen() -> None:
    huey.immediate = False
    add(4, 4)
    [task] = huey.pending()
    assert (task.name, task.args) == ("add", (4, 4))


@pytest.mark.says("The function, run inside the call by huey's own `execute()`; the result.")
def test_run_one() -> None:
    assert add(4, 4)() == 8


@pytest.mark.says(
    "That each retry is scheduled an hour later. The test plays the scheduler; no code sees the "
    "hours pass."
)
def test_retry_with_an_hour_of_back_off() -> None:
    flaky()
    for _ in range(FAILURES):
        [due] = huey.scheduled()
        assert due.eta > datetime.now() + timedelta(minutes=59)
        [due] = huey.read_schedule(due.eta)
        outcome = huey.execute(due, due.eta)
    assert outcome == "ok"
    assert len(attempts) == FAILURES + 1


@pytest.mark.says("Ten tasks and the body, inside the call; the result.")
def test_chord() -> None:
    result = huey.enqueue(chord([add.s(n, n) for n in range(10)], total.s()))
    assert result.callback.get() == 90


@pytest.mark.django_db
@pytest.mark.says(
    "That a hook runs it, where the test captures the hooks. Not when: a job sent before the "
    "commit passes too."
)
def test_after_commit(django_capture_on_commit_callbacks) -> None:
    huey.immediate = False
    with django_capture_on_commit_callbacks(execute=True):
        sign_up()
    [task] = huey.pending()
    assert huey.execute(huey.dequeue()) == "ada"
    assert task.args == (User.objects.get().pk,)


@pytest.mark.says("A thousand calls inside the sender.")
def test_1000_jobs() -> None:
    assert [add(number, 1)() for number in range(1000)][-1] == 1000
