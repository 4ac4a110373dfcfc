"""What it costs to run messages twice, and to be asked whether to."""

import os
import sys
from time import perf_counter, process_time

import probe
import pytest
from shop.models import Order
from shop.tasks import add, rename

from pytest_djcelery import Inline

COUNT = int(os.environ["BENCHMARK_COUNT"])
LOOPS = 100_000


def test_unused(celery_inline: Inline) -> None:
    """What each delivery asks while no message is run twice."""
    add.delay(1, 2)
    [execution] = celery_inline.run().executions
    second_runs = celery_inline._runs._deliveries._second_runs
    delivery = object()
    start = perf_counter()
    for _ in range(LOOPS):
        second_runs.of(delivery, execution)
    seconds = (perf_counter() - start) / LOOPS
    loaded = [name for name in sys.modules if name.startswith("pytest_djcelery.redelivery")]
    probe.note(unused=seconds, loaded=loaded)


def test_add(celery_inline: Inline) -> None:
    """Tasks that touch no database."""
    for number in range(COUNT):
        add.delay(number, 4)
    start = process_time()
    assert celery_inline.run().succeeded == COUNT
    probe.note(seconds=(process_time() - start) / COUNT)


@pytest.mark.django_db
def test_write(celery_inline: Inline) -> None:
    """Tasks that write to a table of a few rows, as tables of tests are."""
    order = Order.objects.bulk_create(Order() for _ in range(20))[0]
    for _ in range(COUNT):
        rename.delay(order.pk, "new")
    start = process_time()
    assert celery_inline.run().succeeded == COUNT
    probe.note(seconds=(process_time() - start) / COUNT)
