"""Tests through ``celery -A proj worker``, in processes of its own."""

import os
from time import perf_counter

import probe
import pytest
from shop.tasks import add

from pytest_djcelery import LiveWorker

COUNT = int(os.environ["BENCHMARK_COUNT"])
workers: set[int] = set()


@pytest.mark.parametrize("number", range(COUNT))
def test_next_task(number: int, celery_live_worker: LiveWorker) -> None:
    """Have one task run, in the worker that the first of these has started."""
    assert add.delay(number, 4).get(timeout=10) == number + 4
    workers.add(celery_live_worker.pid)
    probe.note(workers=len(workers))


def test_round_trip(celery_live_worker: LiveWorker) -> None:
    """Publish, run, and read the result, again and again."""
    assert celery_live_worker.pid
    seconds = []
    for number in range(COUNT):
        start = perf_counter()
        result = add.delay(number, 4).get(timeout=10)
        seconds.append(perf_counter() - start)
        assert result == number + 4
    probe.note(round_trip=seconds)
