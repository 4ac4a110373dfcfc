"""Tests through a worker. Those up to the dashed line also run under `celery.contrib.pytest`."""

import os
from time import perf_counter, process_time

import probe
import pytest
from celery import Celery
from celery.contrib.testing import tasks as _ping  # noqa: F401 - `celery.contrib.pytest` sends it
from shop.tasks import add, count_orders

COUNT = int(os.environ["BENCHMARK_COUNT"])
STRETCH = 50
numbers = pytest.mark.parametrize("number", range(COUNT))


@numbers
@pytest.mark.fresh_worker
@pytest.mark.usefixtures("celery_worker")
def test_one_task(number: int) -> None:
    """Start a worker, have one task run, stop the worker."""
    assert add.delay(number, 4).get(timeout=10) == number + 4


@pytest.mark.usefixtures("celery_worker")
def test_round_trip() -> None:
    """Publish, run, and read the result, again and again; in batches for the processor time."""
    begun, processor = perf_counter(), process_time()
    for number in range(1, COUNT + 1):
        assert add.delay(number, 4).get(timeout=10) == number + 4
        if number % STRETCH == 0 or number == COUNT:
            trips = (number - 1) % STRETCH + 1
            probe.add("round_trip", (perf_counter() - begun) / trips)
            probe.add("round_trip_processor", (process_time() - processor) / trips)
            begun, processor = perf_counter(), process_time()


# ---------------------------------------------------------------------------------------------


@numbers
@pytest.mark.usefixtures("celery_worker")
def test_next_task(number: int) -> None:
    """Have one task run, in a worker that an earlier test has started."""
    assert add.delay(number, 4).get(timeout=10) == number + 4


@numbers
@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("celery_worker")
def test_next_task_with_database(number: int) -> None:
    """The same, with a database that is emptied after each test."""
    del number
    assert count_orders.delay().get(timeout=10) == 0


@numbers
@pytest.mark.django_db(transaction=True)
def test_database_alone(number: int) -> None:
    """What the database costs without a worker."""
    del number
    from shop.models import Order

    assert Order.objects.count() == 0


@pytest.mark.parametrize("number", range(COUNT + 1))  # the session ends with the last
@pytest.mark.leaks
@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("celery_worker")
def test_leaves_nothing(number: int, celery_app: Celery) -> None:
    """Use what could be left behind: threads, connections, results, reply queues."""
    assert add.delay(number, 4).get(timeout=10) == number + 4
    assert count_orders.delay().get(timeout=10) == 0
    replies = celery_app.control.ping(limit=1, timeout=10)
    assert len(replies) == 1
