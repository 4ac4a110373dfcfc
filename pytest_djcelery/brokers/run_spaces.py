"""The spaces of a run: what it makes on a real broker, and on Redis as a result backend."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from pytest_djcelery.brokers.spaces import OPTION, SHARE, Record, Space, spaces
from pytest_djcelery.patching import patches, replaced

if TYPE_CHECKING:
    from celery import Celery

_TRANSPORTS: Final = {
    "redis": "pytest_djcelery.brokers.redis:Transport",
    "rediss": "pytest_djcelery.brokers.redis:Transport",
    "sentinel": "pytest_djcelery.brokers.redis:SentinelTransport",
    "amqp": "pytest_djcelery.brokers.amqp:Transport",
    "pyamqp": "pytest_djcelery.brokers.amqp:Transport",
    "amqps": "pytest_djcelery.brokers.amqp:SSLTransport",
}
_REDIS_RESULTS: Final = ("redis://", "rediss://", "redis+socket://", "sentinel://")


class RunSpaces:
    """The spaces of a run.

    Args:
        broker: URL of the broker; ``None`` for one in memory or the project's own.
        results: URL of the result backend; ``None`` for one in memory or the project's own.
        timeout: Seconds that any wait of the run may last.
    """

    def __init__(self, *, broker: str | None, results: str | None, timeout: float) -> None:
        scheme = (broker or "").partition("://")[0]
        self.transport = _TRANSPORTS.get(scheme)
        self.broker = Space(broker, timeout) if broker and self.transport else None
        at_redis = results is not None and results.startswith(_REDIS_RESULTS)
        self.results = Space(results, timeout) if results and at_redis else None

    def broker_settings(self, bounded: Mapping[str, Any]) -> dict[str, Any]:
        """Celery's settings for the broker, which are all that other processes need.

        Args:
            bounded: Transport options that limit how long anything waits.
        """
        if self.broker is None:
            return {}
        return {
            "broker_transport": self.transport,
            "broker_transport_options": {**bounded, **self._own_options(self.broker)},
        }

    def result_settings(self) -> dict[str, Any]:
        """Celery's settings for results in Redis."""
        if self.results is None:
            return {}
        timeout = self.results.timeout
        return {
            "redis_socket_connect_timeout": timeout / SHARE,
            "redis_socket_timeout": timeout / SHARE,
            "result_backend_transport_options": {
                "global_keyprefix": self.results.prefix,
                # With Celery's own policy it takes 20 seconds to give up.
                "retry_policy": {"max_retries": 1, "interval_start": 0, "interval_step": 0.1},
            },
        }

    @contextmanager
    def owned(self, app: Celery) -> Iterator[None]:
        """Own the spaces within the ``with``; what is in them is removed at its end."""
        with ExitStack() as stack:
            if (space := self.broker) is not None:
                stack.enter_context(_run_connections_used(app, space, self._own_options(space)))
                spaces[space.prefix] = space
                stack.callback(spaces.pop, space.prefix, None)

                def remove(record: Record) -> None:
                    with self._connection(app, space) as connection:
                        self._module().remove(connection, record)

                space.remove = remove
                stack.callback(space.close)
            if self.results is not None:
                self.results.begin()
                stack.callback(self._close_results, app, self.results)
            yield

    def empty(self, app: Celery) -> None:
        """Drop the messages; queues stay declared. If nothing was sent, this costs nothing."""
        space = self.broker
        if space is None or not space.dirty:
            return
        # Set first, so that anything sent from now on makes it dirty again.
        space.dirty = False
        # A dead broker is reported where it is needed.
        with suppress(Exception), self._connection(app, space) as connection:
            self._module().empty(connection, space.record)

    def _own_options(self, space: Space) -> dict[str, Any]:
        # As plain values: remote control sends the options of a worker's broker as JSON.
        return {"global_keyprefix": space.prefix, OPTION: asdict(space.options())}

    def _module(self) -> ModuleType:
        return import_module(str(self.transport).partition(":")[0])

    @contextmanager
    def _connection(self, app: Celery, space: Space) -> Iterator[Any]:
        """A connection that knows nothing of prefixes, opened with one retry."""
        limit = space.timeout / SHARE
        with app.amqp.Connection(
            space.url,
            ssl=app.conf.broker_use_ssl,
            connect_timeout=limit,
            transport_options=self._module().options(limit),
        ) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
            yield connection

    def _close_results(self, app: Celery, space: Space) -> None:
        # Otherwise no result was ever stored, or they went elsewhere.
        if "celery.backends.redis" in sys.modules and space.url == app.conf.result_backend:
            from pytest_djcelery.brokers import redis

            space.remove = lambda record: redis.remove_keys(app.backend.client, record.prefix)
            space.first_used()
        space.close()


@patches(
    "celery.app.base:Celery._connection",
    why="Celery makes all its connections here; the run's transport and options are for the run's "
    "URL only.",
    checked_on="Celery 5.4 to 5.7",
)
@contextmanager
def _run_connections_used(app: Celery, space: Space, options: Mapping[str, Any]) -> Iterator[None]:
    """Use the run's transport and its options for the run's URL only.

    A test that changes the URL gets that broker as it is; one that changes transport options
    stays in the space. Private API (``Celery._connection``, which makes all of Celery's
    connections), checked on Celery 5.4 to 5.7.
    """
    connect = app._connection

    def connection(url: Any, *args: Any, **given: Any) -> Any:
        ours = url == space.url
        kept = options if ours else dict.fromkeys(options)
        conf = app.conf
        if not ours and str(conf.broker_transport) in _TRANSPORTS.values():
            first = url if isinstance(url, str) else next(iter(url or ()), "")
            given["transport"] = given.get("transport") or first.partition("://")[0] or "amqp"
        given["transport_options"] = {
            **{
                key: value
                for key, value in kept.items()
                if ours or key in conf.broker_transport_options
            },
            **(given.get("transport_options") or {}),
        }
        return connect(url, *args, **given)

    with replaced(app, _connection=connection):
        yield
