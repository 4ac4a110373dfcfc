"""Hundreds of tests with workers of several kinds, in any order, in one process and in two."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.support import databases

if TYPE_CHECKING:
    from tests.support.project import Project

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("unmeasured")]

_TASKS = """
    from django.db import transaction


    @shared_task
    def write(name):
        with transaction.atomic():
            order = Order.objects.create(name="new")
            order.name = name
            order.save()
            transaction.on_commit(lambda: add.delay(order.pk, 0))
        return Order.objects.count()
"""
_CONFTEST = """
    import pytest

    @pytest.fixture(scope="session")
    def celery_worker_pool():
        return {pool!r}

    @pytest.fixture(scope="session")
    def celery_worker_parameters():
        return {{"concurrency": 1 if {pool!r} == "solo" else 4}}
"""
_TESTS = """
    from datetime import timedelta

    import pytest
    from celery import chord, group
    from databases_here import left_open
    from django.db import transaction
    from shop.models import Order
    from shop.tasks import add, count_orders, fail, flaky, ship, write

    from pytest_djcelery import Failure, Success

    pytestmark = pytest.mark.django_db
    many = pytest.mark.parametrize("number", range(32))

    def names():
        return sorted(Order.objects.values_list("name", flat=True))

    @many
    def test_worker(celery_worker, celery_results, celery_outbox, number):
        assert celery_results[write.delay("it")] == Success(1)
        with transaction.atomic():
            order = Order.objects.create(name="of the test")
            ship.delay_on_commit(order.pk)
        celery_worker.wait_until_idle()
        assert names() == ["it", "shipped"]
        assert {sent.task for sent in celery_outbox} == {write.name, add.name, ship.name}
        assert len(celery_outbox) == 3

    @many
    def test_worker_that_is_left_with_its_work(celery_worker, number):
        for each in range(3):
            write.delay(f"{each}")
        add.apply_async((1, 2), countdown=3600)

    @many
    def test_session_worker(celery_session_worker, celery_results, number):
        assert chord(add.s(each, number) for each in range(3))(add.s([])).get()
        assert celery_results[flaky.delay()] == Success("ok", retries=2)
        assert celery_results[fail.delay()] == Failure(ValueError)
        assert count_orders.delay().get() == 0

    @many
    @pytest.mark.celery(task_track_started=True)
    def test_worker_with_other_settings(celery_worker, celery_results, number):
        assert group(write.s(f"{each}") for each in range(3))().get()
        celery_worker.wait_until_idle()
        assert names() == ["0", "1", "2"]

    @many
    def test_inline(celery_inline, celery_results, celery_outbox, number):
        write.delay("it")
        add.apply_async((1, 2), countdown=60)
        assert celery_inline.run(until=timedelta(minutes=1)).succeeded == 3
        assert names() == ["it"]

    @many
    def test_eager_or_no_worker(celery_outbox, request, number):
        if number % 2:
            request.getfixturevalue("celery_eager")
            assert write.delay("it").get() == 1
        else:
            write.delay("it")
            assert celery_outbox == [write.s("it")]

    @pytest.mark.parametrize("number", range(4))
    def test_live_worker(celery_live_worker, celery_results, number):
        assert celery_results[write.delay("it")] == Success(1)
        celery_live_worker.wait_until_idle()
        assert names() == ["it"]

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize("number", range(4))
    def test_no_connection_is_left(number):
        assert left_open() == []
        assert names() == []
"""


@pytest.mark.parametrize(
    ("pool", "processes"), [("solo", 0), ("threads", 2)], ids=["one_process", "two_processes"]
)
def test_two_hundred_tests_with_workers_pass_in_any_order(
    project: Project, pool: str, processes: int
) -> None:
    databases.use(project, databases.FILE)  # which the live worker can open, too
    project.tasks(_TASKS)
    project.write(test_it=_TESTS, conftest=_CONFTEST.format(pool=pool))
    # pytest-randomly seeds this from the seed of the run around it, which says how to repeat it.
    seed = random.randrange(2**31)
    result = project.pytester.runpytest_subprocess(
        "-p", "no:cacheprovider", "-W", "error", f"--randomly-seed={seed}", "-n", str(processes)
    )  # fmt: skip
    result.assert_outcomes(passed=200)
    assert result.ret == 0
    result.stdout.no_fnmatch_line("*is locked*")
