"""The embedded worker over the broker that ``--djcelery-broker`` names."""

import json
import os
from pathlib import Path
from time import perf_counter

import probe
import pytest
from celery import Celery, chord
from shop.tasks import add

COUNT = int(os.environ["BENCHMARK_COUNT"])
WARM_UP = 20


@pytest.mark.usefixtures("celery_worker")
def test_round_trip() -> None:
    """Send a task and get its result, one after another."""
    seconds = []
    for number in range(WARM_UP + COUNT):
        start = perf_counter()
        assert add.delay(number, 4).get() == number + 4
        seconds.append(perf_counter() - start)
    probe.note(round_trip=seconds[WARM_UP:])


@pytest.mark.parametrize("number", range(COUNT))
@pytest.mark.usefixtures("celery_worker")
def test_of_a_suite(celery_app: Celery, number: int) -> None:
    """Do everything that makes queues, exchanges and keys."""
    assert chord([add.s(number, 1), add.s(number, 2)])(add.si(1, 2)).get()
    add.apply_async((1, 2), queue=f"nobody-reads-{number}")
    celery_app.control.ping(timeout=0.1)
    own = celery_app.conf.broker_transport_options["djcelery"]
    noted = [json.loads(line) for line in Path(own["record"]).read_text().splitlines()]
    made = [each for each in noted if each[0] in {"queue", "exchange"}]
    probe.note(prefix=own["prefix"], noted=made)
