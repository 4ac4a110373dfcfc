"""What ``delay()`` costs where tasks run at the call."""

import os
from time import perf_counter

import probe
import pytest
from proj.celery import app
from shop.tasks import add

COUNT = int(os.environ["BENCHMARK_COUNT"])


def _time_delay() -> list[float]:
    seconds = []
    for number in range(COUNT):
        start = perf_counter()
        result = add.delay(number, 4)
        seconds.append(perf_counter() - start)
        assert result.result == number + 4
    return seconds


def test_of_celery() -> None:
    """Celery's own eager mode, without anything of ours."""
    app.conf.task_always_eager = True
    try:
        probe.note(eager=_time_delay())
    finally:
        app.conf.task_always_eager = False


@pytest.mark.usefixtures("celery_eager")
def test_of_ours() -> None:
    """The same under the fixture, which records each message and keeps each result."""
    probe.note(eager=_time_delay())
