"""Results in memory, through Celery's own backend interface."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from celery import VERSION, Celery
from celery.backends.base import KeyValueStoreBackend
from hypothesis import given
from hypothesis import strategies as st

from pytest_djcelery.brokers.memory import addresses


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("stores", backend=addresses.BACKEND, set_as_current=False, fixups=[])
    yield app
    addresses.clear_results(app)
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


IDS = st.text(min_size=1) | st.binary(min_size=1)
if VERSION >= (5, 5):  # before, a UUID can't be joined to a key
    IDS |= st.uuids()


@given(IDS, st.sampled_from(["", ".t", b".t"]))
def test_its_keys_are_those_that_celery_makes(task_id: str | UUID | bytes, key: Any) -> None:
    for prefix in ({}, {"global_keyprefix": "shop_"}):
        app = Celery("keys", backend=addresses.BACKEND, set_as_current=False, fixups=[])
        app.conf.result_backend_transport_options = prefix
        expected = KeyValueStoreBackend.get_key_for_task(app.backend, task_id, key)
        assert app.backend.get_key_for_task(task_id, key) == expected
        app.close()


def test_no_task_has_no_key(app: Celery) -> None:
    with pytest.raises(ValueError, match="task_id must not be empty"):
        app.backend.get_key_for_task("")
