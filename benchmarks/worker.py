"""The figures of `celery_worker`."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import TYPE_CHECKING

from pace import within
from runs import OURS, Cost, forget_rewritten, installed, least, measured
from table import Row, both, duration, times

if TYPE_CHECKING:
    from figures import Repeats

# The limits, in seconds of processor time unless another unit is given.
FASTER = 300  # times
LATER_TEST = 0.002
ROUND_TRIP = 0.0007
FIRST_WARM, FIRST_COLD = 0.120, 0.150
FILE = "bench_worker.py"
CONTRIB = ("-p", "celery.contrib.pytest")


def worker(repeats: Repeats) -> Iterator[Row]:
    """A test through a worker: the first, the next, and the way there and back."""
    contrib = measured(f"{FILE}::test_one_task", *CONTRIB, keep=(), count=repeats.today)
    today = median(contrib.seconds("test_one_task"))
    yield _own_worker(repeats, today)
    yield _later_test(repeats, today)
    yield _with_database(repeats)
    yield _round_trip(repeats)
    with installed() as environment:
        for what, limit, cold in (
            ("first test of a process with `celery_worker`: warm", FIRST_WARM, False),
            ("… cold: pytest has kept nothing of modules that it rewrites", FIRST_COLD, True),
        ):
            ours = least([_first(environment, cold) for _ in range(repeats.first_tests)])
            yield _within(limit, what, ours)


def _own_worker(repeats: Repeats, today: float) -> Row:
    # The first test of a process imports Celery's worker, the others are measured.
    fresh = measured(f"{FILE}::test_one_task", keep=[OURS], count=repeats.tests)
    ours = median(fresh.seconds("test_one_task")[1:])
    return Row(
        what="one-task test, worker started and stopped in it",
        today=duration(today),
        ours=duration(ours),
        ratio=times(today / ours),
        must=f"{FASTER} times faster",
        met=today / ours >= FASTER,
    )


def _later_test(repeats: Repeats, today: float) -> Row:
    following = measured(f"{FILE}::test_next_task", keep=[OURS], count=repeats.tests)
    ours = least(following.costs("test_next_task")[1:])
    return _within(LATER_TEST, "second and later one-task tests with `celery_worker`", ours, today)


def _with_database(repeats: Repeats) -> Row:
    database = measured(f"{FILE}::test_next_task_with_database", keep=[OURS], count=repeats.tests)
    alone = measured(f"{FILE}::test_database_alone", keep=[OURS], count=repeats.tests)
    without_worker = least(alone.costs("test_database_alone")[1:])
    return Row(
        what="… with `django_db(transaction=True)` "
        f"(which costs {duration(without_worker.clock)} without a worker)",
        ours=both(least(database.costs("test_next_task_with_database")[1:])),
    )


def _round_trip(repeats: Repeats) -> Row:
    trips = measured(f"{FILE}::test_round_trip", *CONTRIB, keep=(), count=repeats.today + 1)
    ours = measured(f"{FILE}::test_round_trip", keep=[OURS], count=repeats.round_trips).raw
    cost = Cost(clock=min(ours["round_trip"]), processor=min(ours["round_trip_processor"]))
    what = "`delay()` to `get()` through the embedded worker"
    return _within(ROUND_TRIP, what, cost, median(trips.raw["round_trip"]))


def _first(environment: dict[str, str], cold: bool) -> Cost:  # noqa: FBT001 - a row has it
    test = f"{FILE}::test_next_task"
    if cold:
        forget_rewritten()
    return measured(test, keep=[OURS], count=1, environment=environment).costs("test_next_task")[0]


def _within(limit: float, what: str, ours: Cost, today: float | None = None) -> Row:
    """A figure with a limit, beside the figure without the plugin."""
    return Row(
        what=what,
        today=duration(today) if today else "",
        ours=both(ours),
        ratio=times(today / ours.clock) if today else "",
        **within(limit, ours.processor, "of the processor"),
    )
