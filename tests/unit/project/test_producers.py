"""The producers that publish to the broker in memory."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from celery import Celery

from pytest_djcelery.brokers.memory import addresses
from pytest_djcelery.brokers.memory.addresses import broker, forget
from pytest_djcelery.project.derived import close_pool
from pytest_djcelery.project.shortcuts.message_path import (
    ConnectedProducers,
    producers_kept_connected,
)

NAME = "producers-test"


@pytest.fixture
def app() -> Iterator[Celery]:
    with addresses.scheme_registered(), producers_kept_connected():
        app = Celery("producers", broker=addresses.url(NAME), set_as_current=False)
        yield app
        close_pool(app.pool)
    forget(NAME)


def test_a_producer_keeps_its_channel_from_message_to_message(app: Celery) -> None:
    channels = []
    for _ in range(2):
        with app.producer_or_acquire() as producer:
            channels.append(producer.channel)
    assert channels[0] is channels[1]


def test_a_producer_that_is_in_use_is_given_to_nobody_else(app: Celery) -> None:
    with app.producer_or_acquire() as one, app.producer_or_acquire() as other:
        assert one is not other

    barrier = Barrier(2)

    def acquired() -> Any:
        with app.producer_or_acquire() as producer:
            barrier.wait(10)
            return producer

    with ThreadPoolExecutor(2) as threads:
        one, other = (each.result() for each in [threads.submit(acquired) for _ in range(2)])
    assert one is not other


def test_a_producer_that_has_raised_publishes_again(app: Celery) -> None:
    with pytest.raises(ZeroDivisionError), app.producer_or_acquire() as producer:
        raise ZeroDivisionError
    with app.producer_or_acquire() as again:
        again.publish("hello", routing_key="queue")
    assert again is producer
    assert broker(NAME).depths() == {"queue": 1}


def test_producers_take_no_connection_from_the_pool(app: Celery) -> None:
    app.conf.broker_pool_limit = 1
    with app.producer_or_acquire(), app.pool.acquire(block=False) as connection:
        assert connection.transport_cls == addresses.SCHEME


def test_the_connections_of_producers_are_closed_with_the_pool(app: Celery) -> None:
    with app.producer_or_acquire() as producer:
        connection = producer.connection
        assert producer.channel in connection.transport.channels
    close_pool(app.pool)
    assert not connection.connected


def test_another_broker_has_producers_of_kombu(app: Celery) -> None:
    # An address of its own: kombu has one pool for all apps of an address, and this is closed here.
    other = Celery("other", broker="memory://producers-other", set_as_current=False)
    assert isinstance(app.producer_pool, ConnectedProducers)
    assert not isinstance(other.producer_pool, ConnectedProducers)
    close_pool(other.pool)
