"""The pytest plugin that measures from inside: ``-p probe``, figures as JSON in a file.

It runs with and without the plugin that it measures, so it never imports it itself.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import pytest

FIGURES: dict[str, Any] = {"reports": [], "phases": {}, "over": 0, "counts": []}
_processor: dict[str, float] = {}  # seconds of the last phase of a test


def note(**figures: Any) -> None:
    """Add figures that a test itself has measured."""
    FIGURES.update(figures)


def add(name: str, figure: float) -> None:
    """Add one figure to those of that name."""
    FIGURES.setdefault(name, []).append(figure)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers of the benchmark's tests."""
    config.addinivalue_line("markers", "fresh_worker: stop the worker at the end of the test")
    config.addinivalue_line(
        "markers", "leaks: count what is there after one such test and after many"
    )


def pytest_itemcollected() -> None:
    """Time the collection from its first test on, without what is only done once."""
    _mark("collection")


def pytest_runtest_logfinish() -> None:
    """Time the tests in the same way."""
    _mark("tests")


def _mark(phase: str) -> None:
    now = [perf_counter(), process_time()]
    FIGURES["phases"].setdefault(phase, [now, now])[1] = now


@contextmanager
def _processor_timed(phase: str) -> Iterator[None]:
    """The processor time of all threads; pytest itself measures wall-clock time."""
    start = process_time()
    yield
    _processor[phase] = process_time() - start


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup() -> Generator[None, object, object]:
    """Time the processor."""
    with _processor_timed("setup"):
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """Time the processor."""
    with _processor_timed("call"):
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Have the stop of a worker that outlives its test measured as part of the test."""
    with _processor_timed("teardown"):
        outcome = yield
        reuse = sys.modules.get(
            "pytest_djcelery.workers.embedded.thread_reuse"
        )  # plain pytest has none
        if reuse is not None and item.get_closest_marker("fresh_worker"):
            reuse.stop()
    return outcome


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep what pytest has measured."""
    name = report.nodeid.partition("::")[2].partition("[")[0]
    processor = _processor.pop(report.when, 0.0)
    FIGURES["reports"].append([name, report.when, report.duration, processor])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Count what is there once a test is over, its fixtures included."""
    outcome = yield
    if item.get_closest_marker("leaks"):
        FIGURES["over"] += 1
        if FIGURES["over"] in (1, int(os.environ["BENCHMARK_COUNT"])):
            FIGURES["counts"].append(_counts())
    return outcome


def pytest_sessionfinish() -> None:
    """Write the figures to the file."""
    Path(os.environ["BENCHMARK_OUTPUT"]).write_text(json.dumps(FIGURES))


def _counts() -> dict[str, int]:
    from celery import signals
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.dispatch import Signal
    from kombu import pools

    gc.collect()
    alive = gc.get_objects()
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    connections = [each for each in alive if isinstance(each, BaseDatabaseWrapper)]
    counts = {
        "threads": threading.active_count(),
        "database connections": sum(each.connection is not None for each in connections),
        "Celery signal receivers": sum(
            len(getattr(signals, name).receivers or ()) for name in signals.__all__
        ),
        "Django signal receivers": sum(
            len(each.receivers) for each in alive if isinstance(each, Signal)
        ),
        "logging handlers": sum(len(getattr(each, "handlers", ())) for each in loggers),
        "kombu pools": len(pools.connections) + len(pools.producers),
        "queues": _queues(),
    }
    on_server = _connections_on_server()
    if on_server is not None:
        counts["connections that the server sees"] = on_server
    return counts


def _queues() -> int:
    from pytest_djcelery.session.session import current_session

    project = current_session().use_imported_project()
    return len(project.broker.queues) if project and project.broker else 0


def _connections_on_server() -> int | None:
    """Ask through the driver itself, since only pytest-django grants Django's connections."""
    from django.db import connection

    settings = connection.settings_dict
    where = {"host": settings["HOST"], "user": settings["USER"], "password": settings["PASSWORD"]}
    own: Any
    if connection.vendor == "postgresql":
        import psycopg

        own = psycopg.connect(dbname="postgres", port=settings["PORT"], **where)
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
    elif connection.vendor == "mysql":
        import MySQLdb

        own = MySQLdb.connect(port=int(settings["PORT"]), **where)
        query = "SELECT count(*) FROM information_schema.processlist WHERE db = %s"
    else:
        return None
    with closing(own), closing(own.cursor()) as cursor:
        cursor.execute(query, [settings["NAME"]])
        return int(cursor.fetchone()[0])
