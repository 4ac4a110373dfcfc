"""`celery_inline`, and what it is measured against."""

import gc
import os
import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from time import perf_counter, process_time
from uuid import uuid4

import probe
import pytest
from celery.app.trace import build_tracer
from celery.schedules import crontab
from kombu.transport.memory import Channel
from proj.celery import app
from shop.models import Order
from shop.tasks import add, back_off, count_orders

from pytest_djcelery import Inline
from pytest_djcelery.project.shortcuts.message_path import message_path_shortened
from pytest_djcelery.project.shortcuts.settings_cache import settings_reads_cached

COUNT = int(os.environ["BENCHMARK_COUNT"])
WARM_UP = 100
BATCHES = 5
DAYS = 365
batches = pytest.mark.parametrize("number", range(BATCHES))


def _publish(count: int) -> None:
    for number in range(count):
        add.delay(number, 4)


@contextmanager
def _processor_time(name: str) -> Iterator[None]:
    """Add the cost of each task of a batch, which starts from a heap without garbage."""
    gc.collect()
    start = process_time()
    yield
    probe.add(name, (process_time() - start) / COUNT)


def _resident() -> int:
    """Kilobytes of the process that are in memory now."""
    with open("/proc/self/statm", encoding="ascii") as status:
        return int(status.read().split()[1]) * resource.getpagesize() // 1024


@batches
def test_eager_delay(number: int) -> None:
    """Celery's eager mode, without anything of ours."""
    del number
    app.conf.task_always_eager = True
    try:
        _publish(WARM_UP)
        with _processor_time("eager"):
            _publish(COUNT)
    finally:
        app.conf.task_always_eager = False


@batches
@pytest.mark.parametrize("ways", ["floor", "short"])
def test_floor(monkeypatch: pytest.MonkeyPatch, ways: str, number: int) -> None:
    """The code of Celery that every message passes: its publish, up to the queue, and its tracer.

    It is measured unchanged, and with the plugin's shortcuts.
    """
    del number
    monkeypatch.setattr(Channel, "_put", lambda *_, **__: None)
    app.finalize()
    trace = build_tracer(add.name, add, app.loader, "celery@benchmark", app=app)
    ids = [str(uuid4()) for _ in range(WARM_UP + 2 * COUNT)]

    def run() -> None:
        task_id = ids.pop()
        trace(task_id, (1, 4), {}, {"id": task_id, "task": add.name, "is_eager": False})

    with ExitStack() as stack:
        if ways == "short":
            stack.enter_context(settings_reads_cached(app))
            stack.enter_context(message_path_shortened())
        for _ in range(WARM_UP):
            add.delay(1, 4)
            run()
        with _processor_time(f"{ways}_publish"):
            _publish(COUNT)
        with _processor_time(f"{ways}_trace"):
            for _ in range(COUNT):
                run()
        with _processor_time(f"{ways}_each"):
            for _ in range(COUNT):
                add.delay(1, 4)
                run()


@batches
def test_delay_and_run(celery_inline: Inline, number: int) -> None:
    """The same tasks as messages, delivered by one run."""
    del number
    _publish(WARM_UP)
    celery_inline.run()
    with _processor_time("inline"):
        _publish(COUNT)
        assert celery_inline.run().succeeded == COUNT


@batches
def test_run_after_each(celery_inline: Inline, number: int) -> None:
    """The same tasks again, each delivered by a run."""
    del number
    _publish(WARM_UP)
    celery_inline.run()
    with _processor_time("inline_each"):
        for argument in range(COUNT):
            add.delay(argument, 4)
            celery_inline.run()


@pytest.mark.parametrize("number", range(COUNT))
@pytest.mark.django_db
def test_database_alone(number: int) -> None:
    """What the database costs a rollback test."""
    del number
    assert Order.objects.count() == 0


@pytest.mark.parametrize("number", range(COUNT))
@pytest.mark.django_db
def test_beside_database(number: int, celery_inline: Inline) -> None:
    """The same by a task."""
    del number
    result = count_orders.delay()
    celery_inline.run()
    assert result.get() == 0


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
