"""The figures of `celery_inline`."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import TYPE_CHECKING

from runs import OURS, measured
from table import Row, duration, times

if TYPE_CHECKING:
    from figures import Repeats

# What must be reached; seconds where no unit is said.
TIMES_EAGER = 2.0
FASTER = 1000  # times
LINEAR = 1.5  # ten times the tasks, time of each
BACK_OFF = 0.050
YEAR = 2.0
FILE = "bench_inline.py"
CONTRIB = ("-p", "celery.contrib.pytest")


def inline(repeats: Repeats) -> Iterator[Row]:
    """A worker in the test's own thread, against eager mode and `celery.contrib.pytest`."""
    yield _against_eager(repeats)
    yield _one_task(repeats)
    yield from _many(repeats)
    yield _scheduled(repeats)
    yield from _virtual_time()


def _against_eager(repeats: Repeats) -> Row:
    count = repeats.inline_tasks
    eager, inline = [], []
    for _ in range(repeats.inline_runs):
        eager.append(_note("test_eager_delay", "eager_seconds", count, keep=()))
        inline.append(_note("test_delay_and_run", "inline_seconds", count))
    factor = median(inline) / median(eager)
    return Row(
        what=f"`celery_inline`, `delay()` and `run()`, a task (of {count:,}), against eager mode",
        today=duration(median(eager) / count),
        ours=duration(median(inline) / count),
        ratio=f"{factor:.2f} times as long",
        must=f"at most {TIMES_EAGER:g} times",
        met=factor <= TIMES_EAGER,
    )


def _one_task(repeats: Repeats) -> Row:
    contrib = measured("bench_worker.py::test_one_task", *CONTRIB, keep=(), count=repeats.today)
    figures = measured(f"{FILE}::test_one_task", keep=[OURS], count=repeats.tests)
    today = median(contrib.seconds("test_one_task"))
    ours = median(figures.seconds("test_one_task")[1:])
    return Row(
        what="one-task test through `celery_inline`, set-up and teardown included",
        today=duration(today),
        ours=duration(ours),
        ratio=times(today / ours),
        must=f"{FASTER:,} times faster",
        met=today / ours >= FASTER,
    )


def _many(repeats: Repeats) -> Iterator[Row]:
    many = repeats.many_tasks
    few = many // 10
    raw = measured(f"{FILE}::test_many", keep=[OURS], count=many).raw
    growth = (raw["seconds_many"] / many) / (raw["seconds_few"] / few)
    yield Row(
        what=f"`celery_inline`, {few:,} and {many:,} tasks published and run",
        ours=f"{duration(raw['seconds_few'])} and {duration(raw['seconds_many'])}",
        ratio=f"{growth:.2f} a task",
        must="linear",
        met=growth <= LINEAR,
    )
    peak, again = raw["kilobytes_many"] / many, raw["kilobytes_again"] / few
    yield Row(
        what=f"… memory that each of {many:,} takes, and each of {few:,} in the test after it",
        ours=f"{peak:.2f} KB and {again:.2f} KB",
        must="given back",
        met=again < peak / 10,
    )


def _scheduled(repeats: Repeats) -> Row:
    many = repeats.many_tasks // 10
    few = many // 10
    raw = measured(f"{FILE}::test_scheduled", keep=[OURS], count=many).raw
    each_of_many, each_of_few = raw["scheduled_many"] / many, raw["scheduled_few"] / few
    return Row(
        what=f"`celery_inline`, each of {few:,} and of {many:,} messages, a second apart",
        ours=f"{duration(each_of_few)} and {duration(each_of_many)}",
        ratio=f"{each_of_many / each_of_few:.2f} a task",
        must="linear",
        met=each_of_many / each_of_few <= LINEAR,
    )


def _virtual_time() -> Iterator[Row]:
    seconds = _note("test_an_hour_of_back_off", "back_off", 1)
    yield Row(
        what="`celery_inline`, an hour of back-off",
        ours=duration(seconds),
        must=duration(BACK_OFF),
        met=seconds <= BACK_OFF,
    )
    raw = measured(f"{FILE}::test_a_year_of_a_nightly_entry", keep=[OURS], count=1).raw
    yield Row(
        what="`celery_beat`, a year of a nightly entry: sent, and run by `celery_inline` too",
        ours=f"{duration(raw['year'])} and {duration(raw['year_run'])}",
        must=duration(YEAR),
        met=max(raw["year"], raw["year_run"]) <= YEAR,
    )


def _note(test: str, name: str, count: int, *, keep: tuple[str, ...] = (OURS,)) -> float:
    return float(measured(f"{FILE}::{test}", keep=keep, count=count).raw[name])
