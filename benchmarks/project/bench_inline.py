"""`celery_inline`, and what it is measured against."""

import gc
import os
import resource
from datetime import timedelta
from time import perf_counter

import probe
import pytest
from celery.schedules import crontab
from proj.celery import app
from shop.tasks import add, back_off

from pytest_djcelery import Inline

COUNT = int(os.environ["BENCHMARK_COUNT"])
WARM_UP = 100
# A collection of all garbage takes as long as hundreds of tasks; whether one comes in a single
# stretch of 2,000 is chance, so each has its share of those that come in several.
STRETCHES = 10
DAYS = 365


def _publish(count: int) -> None:
    for number in range(count):
        add.delay(number, 4)


def _resident() -> int:
    """Kilobytes of the process that are in memory now."""
    with open("/proc/self/statm", encoding="ascii") as status:
        return int(status.read().split()[1]) * resource.getpagesize() // 1024


def test_eager_delay() -> None:
    """Celery's eager mode, nothing watching."""
    app.conf.task_always_eager = True
    try:
        _publish(WARM_UP)
        start = perf_counter()
        for _ in range(STRETCHES):
            _publish(COUNT)
        probe.note(eager_seconds=(perf_counter() - start) / STRETCHES)
    finally:
        app.conf.task_always_eager = False


def test_delay_and_run(celery_inline: Inline) -> None:
    """The same tasks as messages, delivered by one run."""
    _publish(WARM_UP)
    celery_inline.run()
    start = perf_counter()
    for _ in range(STRETCHES):
        _publish(COUNT)
        assert celery_inline.run().succeeded == COUNT
    probe.note(inline_seconds=(perf_counter() - start) / STRETCHES)


@pytest.mark.parametrize("number", range(COUNT))
@pytest.mark.usefixtures("celery_inline")
def test_one_task(number: int) -> None:
    """A whole test with one task in it."""
    assert add.delay(number, 4).get() == number + 4


@pytest.mark.parametrize(
    ("name", "count"), [("few", COUNT // 10), ("many", COUNT), ("again", COUNT // 10)]
)
def test_many(celery_inline: Inline, name: str, count: int) -> None:
    """So many tasks that memory and time show how they grow, and whether memory is used again."""
    gc.collect()
    before = _resident()
    start = perf_counter()
    _publish(count)
    assert celery_inline.run().succeeded == count
    seconds = perf_counter() - start
    probe.note(**{f"seconds_{name}": seconds, f"kilobytes_{name}": _resident() - before})


@pytest.mark.parametrize(("name", "count"), [("few", COUNT // 10), ("many", COUNT)])
def test_scheduled(celery_inline: Inline, name: str, count: int) -> None:
    """Messages with ETAs, the clock going from one to the next."""
    for number in range(count):
        add.apply_async((number, 4), countdown=number + 1)
    start = perf_counter()
    assert celery_inline.run(until=timedelta(seconds=count + 1)).succeeded == count
    probe.note(**{f"scheduled_{name}": perf_counter() - start})


def test_an_hour_of_back_off(celery_inline: Inline) -> None:
    """Retries after 1, 2, 4, … minutes."""
    result = back_off.delay()
    start = perf_counter()
    summary = celery_inline.run(until=timedelta(hours=1))
    probe.note(back_off=perf_counter() - start, back_off_retries=summary.retried)
    assert summary.retried > 1
    assert result.state == "RETRY"


@pytest.mark.celery(
    beat_schedule={
        "nightly": {"task": "shop.tasks.add", "schedule": crontab(hour=3, minute=0), "args": (1, 2)}
    }
)
@pytest.mark.parametrize("inline", [False, True])
def test_a_year_of_a_nightly_entry(request: pytest.FixtureRequest, inline: bool) -> None:  # noqa: FBT001 - a parameter
    """What beat sends in a year, alone and with the tasks run as the clock passes them."""
    if inline:
        request.getfixturevalue("celery_inline")
    beat = request.getfixturevalue("celery_beat")
    start = perf_counter()
    sent = beat.run(until=timedelta(days=DAYS))
    probe.note(**{"year_run" if inline else "year": perf_counter() - start})
    assert sum(each.task == "shop.tasks.add" for each in sent) == DAYS
