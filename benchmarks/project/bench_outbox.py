"""The outbox with many messages."""

import gc
import os
import timeit
import tracemalloc
from collections.abc import Callable
from statistics import median
from time import perf_counter

import probe
import pytest
from celery.canvas import Signature
from shop.tasks import ship

from pytest_djcelery import Outbox

COUNT = int(os.environ["BENCHMARK_COUNT"])
REPEATS = 5
WARM_UP = 100


def _signature(number: int) -> Signature:
    return ship.s(
        number,
        address={"name": f"Ada {number}", "street": "12 St James's Square", "city": "London"},
        lines=[[number, "widget", 2], [number + 1, "gadget", 1]],
        notify=True,
    )


def _publish(count: int) -> None:
    for number in range(count):
        _signature(number).apply_async()


def _seconds(question: Callable[[], bool]) -> float:
    """The median of a few; `timeit` leaves out the garbage collector, whose cost is the heap's."""
    assert question()
    return median(timeit.repeat(question, number=1, repeat=REPEATS))


@pytest.mark.parametrize("count", [COUNT // 10, COUNT])
def test_questions(celery_outbox: Outbox, count: int) -> None:
    """Look for the message that was sent last, and compare all messages."""
    start = perf_counter()
    _publish(count)
    publish = perf_counter() - start
    expected = [_signature(number) for number in range(count)]
    last = expected[-1]
    probe.note(
        **{
            f"publish_{count}": publish,
            f"in_{count}": _seconds(lambda: last in celery_outbox),
            f"equal_{count}": _seconds(lambda: celery_outbox == expected),
        }
    )


def test_memory(celery_outbox: Outbox) -> None:
    """Everything that is kept because of a message: record, journal, queue."""
    _publish(WARM_UP)
    assert len(celery_outbox) == WARM_UP
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        _publish(COUNT)
        assert len(celery_outbox) == COUNT + WARM_UP
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    probe.note(bytes_per_message=(after - before) / COUNT)
