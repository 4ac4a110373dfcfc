"""The figures of real brokers: how long a task takes, and what a run leaves behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from statistics import median
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kombu import Connection
from pace import within
from runs import OURS, Figures, RunFailedError, measured, unreachable
from table import Row, duration

if TYPE_CHECKING:
    from figures import Repeats

ROUND_TRIP = 0.010  # seconds
FILE = "bench_brokers.py"
URLS = {
    "Redis": os.environ.get("REDIS_URL") or "redis://127.0.0.1:6379/0",
    "RabbitMQ": os.environ.get("AMQP_URL") or "amqp://guest:guest@127.0.0.1:5672//",
}
PORTS = {"Redis": 6379, "RabbitMQ": 5672}


def brokers(repeats: Repeats) -> Iterator[Row]:
    """The embedded worker over brokers that others use, too."""
    left: list[str] = []
    skipped = []
    for name, url in URLS.items():
        what = f"`delay()` to `get()` through embedded over {name}"
        missing = _missing(name)
        if missing:
            skipped.append(name)
            yield Row(what=what, ours=f"not measured: {missing}", must=duration(ROUND_TRIP))
            continue
        option = f"--djcelery-broker={url}"
        figures = measured(
            f"{FILE}::test_round_trip", option, keep=[OURS], count=repeats.round_trips
        )
        seconds = median(figures.raw["round_trip"])
        yield Row(what=what, ours=duration(seconds), **within(ROUND_TRIP, seconds))
        suite = measured(
            f"{FILE}::test_of_a_suite", option, keep=[OURS], count=repeats.worker_tests
        )
        left += _left(name, url, suite)
    measured_names = [name for name in URLS if name not in skipped]
    yield Row(
        what=f"leftovers in {' and '.join(measured_names) or 'no broker'} after the suite "
        "(keys, queues, exchanges)",
        ours=", ".join(left) or ("none" if measured_names else "not measured: no server answers"),
        must="none",
        met=None if not measured_names else not left,
    )


def _missing(name: str) -> str:
    parts = urlsplit(URLS[name])
    return unreachable(name, parts.hostname or "127.0.0.1", parts.port or PORTS[name])


def _left(name: str, url: str, suite: Figures) -> list[str]:
    """What is still there, by the names that the run noted while it used them.

    Raises:
        RunFailedError: It noted nothing, so there was nothing to look for.
    """
    noted = suite.raw["noted"]
    if not noted:
        raise RunFailedError(f"{name}: the suite made nothing")
    with Connection(url) as connection:
        if name == "Redis":
            client = connection.default_channel.client
            return [str(key) for key in client.keys(f"{suite.raw['prefix']}*")]
        return [found for kind, found in noted if _declared(connection, kind, found)]


def _declared(connection: Connection, kind: str, name: str) -> bool:
    channel = connection.channel()
    try:
        if kind == "queue":
            channel.queue_declare(name, passive=True)
        else:
            channel.exchange_declare(name, "direct", passive=True)
    except connection.channel_errors:
        return False
    channel.close()
    return True
