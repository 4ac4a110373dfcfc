"""Results in memory, through Celery's own backend interface."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery import Celery

from pytest_djcelery.brokers.memory import addresses
from pytest_djcelery.brokers.memory import result_backend as backend


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("stores", backend=addresses.BACKEND, set_as_current=False, fixups=[])
    yield app
    backend.clear(app)
    app.close()


def test_a_result_is_kept_until_it_is_forgotten(app: Celery) -> None:
    app.backend.store_result("one", {"rows": (1, 2)}, "SUCCESS")
    assert app.AsyncResult("one").result == {"rows": [1, 2]}
    app.AsyncResult("one").forget()
    assert app.AsyncResult("one").state == "PENDING"


def test_more_results_are_kept_than_celerys_own_memory_backend_keeps(app: Celery) -> None:
    for number in range(6000):
        app.backend.store_result(str(number), number, "SUCCESS")
    assert app.AsyncResult("0").result == 0
    several = dict(app.backend.get_many(["0", "5999"], timeout=1))
    assert {key: meta["result"] for key, meta in several.items()} == {"0": 0, "5999": 5999}


def test_two_apps_share_no_results(app: Celery) -> None:
    other = Celery("other", backend=addresses.BACKEND, set_as_current=False, fixups=[])
    app.backend.store_result("one", 1, "SUCCESS")
    assert other.AsyncResult("one").state == "PENDING"
    other.close()


def test_it_counts_for_chords_and_says_what_it_is(app: Celery) -> None:
    assert [app.backend.incr(b"count"), app.backend.incr(b"count")] == [1, 2]
    app.backend.expire(b"count", 10)
    assert app.backend.get(b"count") == 2
    assert app.backend.as_uri() == "memory"
