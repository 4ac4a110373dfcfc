"""A broker in memory for each test, and a connection to it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING

import pytest
from kombu import Connection

from pytest_djcelery.brokers.memory import addresses

if TYPE_CHECKING:
    from pytest_djcelery.brokers.memory.queues import Broker

_numbers = count()


@pytest.fixture(autouse=True, scope="module")
def _registered() -> Iterator[None]:
    with addresses.scheme_registered():
        yield


@pytest.fixture
def virtual_host() -> Iterator[str]:
    """A name that no other test has."""
    name = f"unit-test-{next(_numbers)}"
    yield name
    addresses.forget(name)


@pytest.fixture
def connection(virtual_host: str) -> Iterator[Connection]:
    """A connection to the broker of that name."""
    with Connection(addresses.url(virtual_host)) as connection:
        yield connection


@pytest.fixture
def broker(virtual_host: str) -> Broker:
    """The broker of that name."""
    return addresses.broker(virtual_host)
