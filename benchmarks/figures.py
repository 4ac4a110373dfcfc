"""The figures. Each function measures a group of them and returns its rows."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from audit import audit
from brokers import brokers
from contract import contract
from deploys import deploys
from explore import explore
from faults import faults
from inline import inline
from live import live
from pace import within
from redelivery import redelivery
from runs import (
    OURS,
    PROJECT,
    PYTEST_CELERY,
    Cost,
    added,
    measured,
    middle,
    run_pytest,
    startup_cost,
    unreachable,
)
from table import Row, both, duration, times
from timeline import timeline
from worker import worker

# The limits, in seconds unless another unit is given.
STARTUP = 0.030
PER_TEST = 100e-6
BY_MODE = 300e-6  # of the processor
KILOBYTES = 4
# Ten times the messages may take ten times as long; the outbox isn't to blame for the effect of ten
# times the memory on caches and the garbage collector.
LINEAR = 1.5

SERVERS = {"PostgreSQL": ("psycopg", 5432), "MariaDB": ("MySQLdb", 3306)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeats:
    """How often each measurement is made."""

    today: int  # tests through `celery.contrib.pytest`, some 6 s each
    tests: int  # tests through our worker
    round_trips: int
    processes: int  # pairs of pytest processes
    trivial_tests: int
    trivial_runs: int  # pairs of runs of those
    messages: int
    leak_tests: int
    worker_tests: int  # of a suite over a real broker
    first_tests: int  # processes
    inline_tasks: int
    inline_runs: int
    many_tasks: int
    live_tests: int
    database_tests: int  # of a suite that is audited
    audited_runs: int  # pairs of runs of those
    hooks: int
    contract_runs: int  # pairs of runs of a suite that sends
    schedules: int


FULL = Repeats(
    today=3,
    tests=100,
    round_trips=1000,
    processes=21,
    trivial_tests=2000,
    trivial_runs=9,
    messages=10_000,
    leak_tests=500,
    worker_tests=50,
    first_tests=9,
    inline_tasks=2000,
    inline_runs=5,
    many_tasks=100_000,
    live_tests=50,
    database_tests=1000,
    audited_runs=7,
    hooks=20_000,
    contract_runs=9,
    schedules=10_000,
)
QUICK = Repeats(
    today=1,
    tests=20,
    round_trips=200,
    processes=5,
    trivial_tests=1000,
    trivial_runs=3,
    messages=2000,
    leak_tests=50,
    worker_tests=10,
    first_tests=3,
    inline_tasks=2000,
    inline_runs=1,
    many_tasks=10_000,
    live_tests=10,
    database_tests=300,
    audited_runs=3,
    hooks=20_000,
    contract_runs=3,
    schedules=1000,
)


def eager(repeats: Repeats) -> Iterator[Row]:
    """Eager mode, Celery's and ours."""
    count = repeats.round_trips
    of_celery = measured("bench_eager.py::test_of_celery", keep=(), count=count).raw["eager"]
    of_ours = measured("bench_eager.py::test_of_ours", keep=[OURS], count=count).raw["eager"]
    yield Row(
        what="eager mode: `delay()`, recorded and its result kept",
        today=duration(median(of_celery)),
        ours=duration(median(of_ours)),
        ratio=times(median(of_celery) / median(of_ours)),
    )


def startup(repeats: Repeats) -> Iterator[Row]:
    """What a plugin adds to a pytest process in which no test uses it."""
    yield _startup(
        repeats, "start-up added to a pytest run that uses no fixture: Django project", PROJECT
    )
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder)
        shutil.copy(PROJECT / "bench_one_test.py", bare)
        yield _startup(repeats, "… in a folder where nothing uses Django or Celery", bare)


def _startup(repeats: Repeats, what: str, folder: Path) -> Row:
    def run(*keep: str) -> Cost:
        return run_pytest("bench_one_test.py", keep=keep, folder=folder)

    for plugins in ((), PYTEST_CELERY):
        run(*plugins)  # writes the bytecode
    today = added(run, lambda: run(*PYTEST_CELERY), repeats.processes // 3)
    startup_cost(folder)  # so does this
    ours = middle([startup_cost(folder) for _ in range(repeats.processes)])
    return Row(
        what=what,
        today=f"{both(today)} for pytest-celery",
        ours=both(ours),
        ratio=times(today.clock / ours.clock),
        **within(STARTUP, ours.clock),
    )


def per_test(repeats: Repeats) -> Iterator[Row]:
    """What the plugin adds to each test that requests nothing, collection included."""
    ours = added(
        lambda: _each(repeats, "test_nothing"),
        lambda: _each(repeats, "test_nothing", keep=[OURS]),
        repeats.trivial_runs,
    )
    yield Row(
        what="added to each test that uses no fixture",
        ours=both(ours),
        **within(PER_TEST, ours.clock),
    )
    yield _by_mode(
        repeats, "test_nothing", "`djcelery_mode = inline` adds to one that sends nothing"
    )
    yield _by_mode(repeats, "test_writes_a_row", "… and writes a row, in a rollback test")


def _by_mode(repeats: Repeats, test: str, what: str) -> Row:
    """The processor time, since on a busy machine only that can be held to a limit."""
    ours = added(
        lambda: _each(repeats, test, keep=[OURS]),
        lambda: _each(repeats, test, "-o", "djcelery_mode=inline", keep=[OURS]),
        repeats.trivial_runs,
    )
    return Row(
        what=what,
        ours=both(ours),
        **within(BY_MODE, ours.processor, "of the processor"),
    )


def _each(repeats: Repeats, test: str, *options: str, keep: Sequence[str] = ()) -> Cost:
    count = repeats.trivial_tests
    figures = measured(f"bench_many_tests.py::{test}", *options, keep=keep, count=count)
    phases = figures.raw["phases"].values()
    clock, processor = (
        sum(last[clock] - first[clock] for first, last in phases) for clock in (0, 1)
    )
    return Cost(clock=clock, processor=processor) / (count - 1)


def outbox(repeats: Repeats) -> Iterator[Row]:
    """Many messages: time and memory."""
    few, many = repeats.messages // 10, repeats.messages
    raw = measured("bench_outbox.py", keep=[OURS], count=many).raw
    for what, key in (("`in`, sent last", "in"), ("`==`", "equal")):
        small, large = raw[f"{key}_{few}"], raw[f"{key}_{many}"]
        growth = (large / many) / (small / few)
        yield Row(
            what=f"outbox, {what}: {few:,} and {many:,} messages",
            ours=f"{duration(small)} and {duration(large)}",
            ratio=f"{growth:.2f} a message",
            must="linear",
            met=growth <= LINEAR,
        )
    yield Row(
        what=f"outbox, publish a message (mean of {many:,})",
        ours=duration(raw[f"publish_{many}"] / many),
    )
    size = raw["bytes_per_message"] / 1024
    yield Row(
        what="outbox, memory for each message",
        ours=f"{size:.2f} KB",
        must=f"under {KILOBYTES} KB",
        met=size < KILOBYTES,
    )


def leaks(repeats: Repeats) -> Iterator[Row]:
    """What is left behind after many tests, compared with one."""
    yield from _leaks(repeats, "SQLite", {"DATABASE": "sqlite"})
    for name, (driver, port) in SERVERS.items():
        if find_spec(driver) is not None and not unreachable(name, "127.0.0.1", port):
            yield from _leaks(repeats, name, {"DATABASE": name.lower()})


def _leaks(repeats: Repeats, database: str, environment: dict[str, str]) -> Iterator[Row]:
    test = "bench_worker.py::test_leaves_nothing"
    count = repeats.leak_tests
    figures = measured(test, keep=[OURS], count=count, environment=environment)
    first, last = figures.raw["counts"]
    for name in first:
        yield Row(
            what=f"{database}, {name} after 1 and {count} worker tests",
            ours=f"{first[name]} and {last[name]}",
            must="no more",
            met=last[name] <= first[name],
        )


GROUPS = {
    "worker": worker,
    "eager": eager,
    "inline": inline,
    "redelivery": redelivery,
    "timeline": timeline,
    "faults": faults,
    "explore": explore,
    "live": live,
    "startup": startup,
    "per-test": per_test,
    "outbox": outbox,
    "leaks": leaks,
    "brokers": brokers,
    "contract": contract,
    "audit": audit,
    "deploys": deploys,
}
