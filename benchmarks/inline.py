"""The figures of `celery_inline`."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import TYPE_CHECKING

from pace import within
from runs import OURS, least, measured
from table import Row, both, duration, times

if TYPE_CHECKING:
    from figures import Repeats

# The limits, in seconds unless another unit is given.
BATCH, EACH = 1.6, 2.2  # times eager mode
FASTER = 2000  # times
ABOVE_DATABASE = 0.001
LINEAR = 1.5  # ten times the tasks, time of each
BACK_OFF = 0.050
YEAR = 2.0
FILE = "bench_inline.py"
CONTRIB = ("-p", "celery.contrib.pytest")
# Tests whose batches are timed, and the plugins that they are timed with.
BATCHES: dict[str, tuple[str, ...]] = {
    "test_eager_delay": (),
    "test_floor": (),
    "test_delay_and_run": (OURS,),
    "test_run_after_each": (OURS,),
}
NOT_TIMED = {"reports", "phases", "over", "counts"}  # what every run notes


def inline(repeats: Repeats) -> Iterator[Row]:
    """A worker in the test's own thread, against eager mode and `celery.contrib.pytest`."""
    yield from _against_eager(repeats)
    yield _one_task(repeats)
    yield _beside_database(repeats)
    yield from _many(repeats)
    yield _scheduled(repeats)
    yield from _virtual_time()


def _against_eager(repeats: Repeats) -> Iterator[Row]:
    count = repeats.inline_tasks
    costs: dict[str, list[float]] = {}
    for _ in range(repeats.inline_runs):
        for tests, keep in BATCHES.items():
            raw = measured(f"{FILE}::{tests}", keep=keep, count=count).raw
            for name in raw.keys() - NOT_TIMED:
                costs.setdefault(name, []).extend(raw[name])
    least = {name: min(seconds) for name, seconds in costs.items()}
    eager = least["eager"]
    ways = {
        name: (least[f"{name}_publish"] + least[f"{name}_trace"], least[f"{name}_each"])
        for name in ("floor", "short")
    }
    for what, took, limit, floor in (
        (
            f"`celery_inline`, `delay()` of {count:,} and one `run()`, a task",
            least["inline"], BATCH, ways["floor"][0] / eager,
        ),
        ("… with a `run()` after each", least["inline_each"], EACH, ways["floor"][1] / eager),
    ):  # fmt: skip
        yield Row(
            what=f"{what}, against eager mode (processor)",
            today=duration(eager),
            ours=duration(took),
            ratio=f"{took / eager:.2f} times as long",
            must=f"at most {limit:g} times",
            met=took <= limit * eager,
            beside=f"Celery's own code takes {floor:.2f}",
        )
    for name, what in (
        ("floor", "… of that Celery's own publish, its last step left out, and its tracer"),
        ("short", "… the same with the plugin's shortcuts through Celery"),
    ):
        batch, each = ways[name]
        yield Row(
            what=f"{what}: in batches, alternating",
            ours=f"{duration(batch)}, {duration(each)}",
            ratio=f"{batch / eager:.2f}, {each / eager:.2f} times as long",
        )


def _one_task(repeats: Repeats) -> Row:
    contrib = measured("bench_worker.py::test_one_task", *CONTRIB, keep=(), count=repeats.today)
    figures = measured(f"{FILE}::test_one_task", keep=[OURS], count=repeats.tests)
    today = median(contrib.seconds("test_one_task"))
    ours = least(figures.costs("test_one_task")[1:])
    return Row(
        what="one-task test through `celery_inline`, set-up and teardown included",
        today=duration(today),
        ours=both(ours),
        ratio=times(today / ours.clock),
        **within(today / FASTER, ours.clock, f"({FASTER:,} times faster)"),
    )


def _beside_database(repeats: Repeats) -> Row:
    figures = measured(FILE, "-k", "database", keep=[OURS], count=repeats.tests)
    alone = least(figures.costs("test_database_alone")[1:])
    ours = least(figures.costs("test_beside_database")[1:]) - alone
    return Row(
        what="test with `celery_inline` and one task, above its database "
        f"(which costs {duration(alone.clock)})",
        ours=both(ours),
        **within(ABOVE_DATABASE, ours.processor, "of the processor"),
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
        **within(BACK_OFF, seconds),
    )
    raw = measured(f"{FILE}::test_a_year_of_a_nightly_entry", keep=[OURS], count=1).raw
    yield Row(
        what="`celery_beat`, a year of a nightly entry: sent, and run by `celery_inline` too",
        ours=f"{duration(raw['year'])} and {duration(raw['year_run'])}",
        **within(YEAR, max(raw["year"], raw["year_run"])),
    )


def _note(test: str, name: str, count: int, *, keep: tuple[str, ...] = (OURS,)) -> float:
    return float(measured(f"{FILE}::{test}", keep=keep, count=count).raw[name])
