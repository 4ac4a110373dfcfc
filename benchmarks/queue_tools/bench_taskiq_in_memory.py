"""taskiq's InMemoryBroker."""

import asyncio
from unittest import mock

import pytest
from django.contrib.auth.models import User
from django.db import transaction
from taskiq import InMemoryBroker, SimpleRetryMiddleware

FAILURES = 3
broker = InMemoryBroker(await_inplace=True, max_stored_results=2000).with_middlewares(
    SimpleRetryMiddleware(default_retry_count=FAILURES + 1)
)
attempts: list[int] = []


@broker.task
async def add(x: int, y: int) -> int:
    """Cost nothing."""
    return x + y


@broker.task(retry_on_error=True)
async def flaky() -> str:
    """Succeed at the fourth attempt."""
    attempts.append(1)
    if len(attempts) <= FAILURES:
        raise ConnectionError
    return "ok"


@broker.task
async def welcome(pk: int) -> int:
    """Need a row."""
    return pk


def sign_up() -> None:
    """Be the code under test."""
    with transaction.atomic():
        user = User.objects.create(username="ada")
        transaction.on_commit(lambda: asyncio.run(welcome.kiq(user.pk)))


@pytest.mark.says("A mock of `kiq` was called so. Not whether the call fits, or serializes.")
def test_publish_seen() -> None:
    with mock.patch.object(add, "kiq", mock.AsyncMock()) as kiq:
        asyncio.run(add.kiq(4, 4))
    kiq.assert_awaited_once_with(4, 4)


@pytest.mark.says("Its receiver's own code, inside `kiq()`; arguments serialized; the result.")
def test_run_one() -> None:
    async def test() -> int:
        task = await add.kiq(4, 4)
        return (await task.wait_result(timeout=5)).return_value

    assert asyncio.run(test()) == 8


@pytest.mark.says("That it is retried. Not the delay: a delay needs its scheduler, in real time.")
def test_retry_with_an_hour_of_back_off() -> None:
    async def test() -> str:
        task = await flaky.kiq()
        return (await task.wait_result(timeout=5)).return_value

    attempts.clear()
    assert asyncio.run(test()) == "ok"


@pytest.mark.says("")
@pytest.mark.skip("it has no chords; taskiq-pipelines has another idea of them")
def test_chord() -> None:
    """Not possible."""


@pytest.mark.django_db
@pytest.mark.says(
    "That a hook sends it, where the test captures the hooks. Not when: a job sent before the "
    "commit passes too."
)
def test_after_commit(django_capture_on_commit_callbacks) -> None:
    with (
        mock.patch.object(welcome, "kiq", mock.AsyncMock()) as kiq,
        django_capture_on_commit_callbacks(execute=True),
    ):
        sign_up()
    kiq.assert_awaited_once_with(User.objects.get().pk)


@pytest.mark.says("Each through its receiver's code, inside `kiq()`.")
def test_1000_jobs() -> None:
    async def test() -> int:
        tasks = [await add.kiq(number, 1) for number in range(1000)]
        return (await tasks[-1].wait_result(timeout=5)).return_value

    assert asyncio.run(test()) == 1000
