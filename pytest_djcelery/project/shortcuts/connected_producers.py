"""Producers for the broker in memory, which stay connected: nothing can be lost there.

Celery takes a producer out of kombu's pool for each message, and kombu a connection for it, to
which the producer is bound anew: a tenth of what a message costs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from kombu import Connection, Producer, pools

from pytest_djcelery.brokers.memory.addresses import SCHEME
from pytest_djcelery.patching import replaced


class ConnectedProducers(pools.ProducerPool):
    """A pool in which each producer keeps a connection.

    There are as many as are in use at one time, so that none ever has to be waited for.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._idle: list[Producer] = []
        super().__init__(*args, **kwargs)

    def setup(self) -> None:
        """Producers are made as they are needed."""

    def acquire(self, block: bool = False, timeout: float | None = None) -> Producer:
        try:
            return self._idle.pop()
        except IndexError:
            return self._made()

    def _made(self) -> Producer:
        producer = self.Producer(self.connections.connection.clone())
        producer.release = partial(self.release, producer)
        return producer

    def release(self, resource: Producer) -> None:
        self._idle.append(resource)

    def force_close_all(self, close_pool: bool = True) -> None:
        while self._idle:
            self._idle.pop().connection.release()


@contextmanager
def producers_kept_connected() -> Iterator[None]:
    """Have kombu make such pools for the broker in memory, for the time of a block."""
    create = pools.producers.create

    def create_connected(connection: Connection, limit: int) -> pools.ProducerPool:
        if connection.transport_cls != SCHEME:
            return create(connection, limit)
        return ConnectedProducers(pools.connections[connection], limit=limit)

    with replaced(pools.producers, create=create_connected):
        yield
