"""Exploring schedules: how fast, how soon a bug is found, and how much memory it keeps."""

import gc
import os
import resource
from collections import Counter
from time import perf_counter, process_time

import probe
import pytest
from celery import shared_task
from django.core import mail
from shop.models import Order
from shop.tasks import add, rename

from pytest_djcelery import Inline, ScheduleFailedError

SCHEDULES = int(os.environ["BENCHMARK_COUNT"])
WARM = 20
TASKS = 5
MESSAGES = 3
finds = pytest.mark.xfail(raises=ScheduleFailedError, strict=True)
runs: Counter[str] = Counter()
found: dict[str, int] = {}
times: list[tuple[float, float]] = []
resident: list[int] = []


def _resident() -> int:
    """Kilobytes of the process that are in memory now."""
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as status:
        return int(status.read().split()[1]) * resource.getpagesize() // 1024


@pytest.mark.django_db
@pytest.mark.celery_explore(examples=120)
def test_five_tasks(celery_inline: Inline) -> None:
    """Each writes a row."""
    times.append((perf_counter(), process_time()))
    order = Order.objects.create()
    for number in range(TASKS):
        rename.delay(order.pk, str(number))
    assert celery_inline.run().succeeded == TASKS
    assert Order.objects.get().name


def test_speed() -> None:
    """Seconds of each schedule, from the beginning of one to that of the next."""
    pairs = zip(times[WARM:], times[WARM + 1 :], strict=False)
    probe.note(explored=[(after[0] - before[0], after[1] - before[1]) for before, after in pairs])


@pytest.mark.celery_explore(examples=20)
def test_drawn(celery_inline: Inline) -> None:
    """Load Hypothesis, before the memory is measured."""
    for number in range(TASKS):
        add.delay(number, 1)
    celery_inline.run()


@pytest.mark.celery_explore(crashes=3, examples=SCHEDULES)
def test_many(celery_inline: Inline) -> None:
    """Note the memory after a tenth of the schedules, and at the end."""
    for number in range(TASKS):
        add.delay(number, 1)
    celery_inline.run()
    runs["many"] += 1
    if runs["many"] in {SCHEDULES // 10, SCHEDULES}:
        resident.append(_resident())


def test_memory() -> None:
    """Kilobytes between the two."""
    first, last = resident
    probe.note(explored_growth=last - first)


def _note(name: str, *, holds: bool) -> None:
    runs[name] += 1
    if not holds:
        found.setdefault(name, runs[name])
    assert holds


@shared_task
def change(order_id: int, by: int) -> None:
    """Change a stock, whatever there is."""
    order = Order.objects.get(pk=order_id)
    order.name = str(int(order.name) + by)
    order.save()


@shared_task
def announce(order_id: int) -> None:
    """Send a mail each time."""
    mail.send_mail(f"New: {order_id}", "", None, ["customers@example.com"])


@shared_task
def import_orders(names: list[str]) -> None:
    """Import, acknowledged early."""
    for name in names:
        Order.objects.create(name=name)


@finds
@pytest.mark.django_db
@pytest.mark.celery_explore
def test_stock(celery_inline: Inline) -> None:
    """It is negative for a while, in some orders."""
    order = Order.objects.create(name="0")
    change.delay(order.pk, 9)
    for _ in range(MESSAGES):
        change.delay(order.pk, -1)
    worst = 0
    while celery_inline.step():
        worst = min(worst, int(Order.objects.get().name))
    _note("stock", holds=worst >= 0)


@finds
@pytest.mark.celery_explore(duplicates=1)
def test_mail(celery_inline: Inline, mailoutbox: list[object]) -> None:
    """One message comes twice."""
    for number in range(MESSAGES):
        announce.delay(number)
    celery_inline.run()
    _note("mail", holds=len(mailoutbox) == MESSAGES)


@finds
@pytest.mark.django_db
@pytest.mark.celery_explore(crashes=1)
def test_import(celery_inline: Inline) -> None:
    """The host is lost at the start of an import."""
    import_orders.delay(["a", "b"])
    import_orders.delay(["c"])
    celery_inline.run()
    _note("import", holds=Order.objects.count() == MESSAGES)


def test_found() -> None:
    """The number of the first schedule that failed."""
    probe.note(explored_found=found)
