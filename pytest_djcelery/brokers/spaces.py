"""This process's own space on a real broker, and on Redis as a result backend.

All names there begin with a prefix that no other process has. What was made is noted in a record
(`records`), so that the end of the run removes it; what a killed run left is removed by the next
one that connects to that broker.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from pytest_djcelery.brokers import space_records as records
from pytest_djcelery.patching import replaced

if TYPE_CHECKING:
    from celery import Celery

OPTION: Final = "djcelery"  # the key of ours among the transport options
_SHARE: Final = 4  # of a wait may go by in one try: there are others around it

_TRANSPORTS: Final = {
    "redis": "pytest_djcelery.brokers.redis:Transport",
    "rediss": "pytest_djcelery.brokers.redis:Transport",
    "sentinel": "pytest_djcelery.brokers.redis:SentinelTransport",
    "amqp": "pytest_djcelery.brokers.amqp:Transport",
    "pyamqp": "pytest_djcelery.brokers.amqp:Transport",
    "amqps": "pytest_djcelery.brokers.amqp:SSLTransport",
}
_REDIS_RESULTS: Final = ("redis://", "rediss://", "redis+socket://", "sentinel://")

#: The spaces of this process, by prefix. A channel looks its own up here.
spaces: dict[str, Space] = {}


@dataclass(frozen=True, kw_only=True)
class Noted:
    """What a channel needs to know, in a form that another process can be told.

    ``limit`` is in seconds, for an answer of the broker.
    """

    prefix: str
    record: str
    limit: float

    @classmethod
    def of(cls, options: MutableMapping[str, Any]) -> Noted | None:
        """What stands in transport options, and is taken out of them."""
        noted = options.pop(OPTION, None)
        return noted and cls(**noted)


class Space:
    """What this process has in one place.

    Args:
        url: of the place.
        timeout: seconds that any wait of the run may last.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self.url = url
        self.prefix = f"djcelery-{_host()}-{os.getpid()}-{secrets.token_hex(4)}."
        self.timeout = timeout
        self.used = False  # whether there ever was a connection
        self.dirty = False  # whether a message may wait there
        #: Removes what a record tells of.
        self.remove: Callable[[records.Record], None] = _nothing
        self._record: records.Record | None = None
        self._lock = threading.Lock()

    @property
    def record(self) -> records.Record:
        """What was made there."""
        if self._record is None:
            self._record = records.Record.create(self.prefix, self.url)
        return self._record

    def begin(self) -> None:
        """Own it from now on, so that the next run knows of it whatever happens."""
        self.record  # noqa: B018 - it is made when it is first asked for

    def noted(self) -> Noted:
        """What its channels need to know."""
        return Noted(prefix=self.prefix, record=str(self.record.path), limit=self.timeout / _SHARE)

    def first_used(self) -> None:
        """There is a connection: if it is the first, remove what dead processes have left."""
        with self._lock:
            if self.used:
                return
            self.used = True
        with records.abandoned(self.url) as found:
            for record in found:
                with suppress(Exception):  # it stays noted, and the next run tries again
                    self.remove(record)
                    record.remove()

    def close(self) -> None:
        """Remove everything.

        A broker that doesn't answer any more keeps it until the next run, which reads the record.
        """
        if self._record is None:
            return
        try:
            if self.used:
                self.remove(self._record)
            self._record.remove()
        except Exception:  # noqa: BLE001 - whatever a lost connection raises
            self._record.release()


def note(option: Noted | None, kind: str, name: str, known: set[tuple[str, str]]) -> None:
    """Remember that something was made, once for each ``known``."""
    if option is not None and (kind, name) not in known:
        records.append(option.record, kind, name)
        known.add((kind, name))


class Isolation:
    """The spaces of a run.

    Args:
        broker: URL of the broker, ``None`` where it is none of ours.
        results: URL of the result backend, likewise.
        timeout: seconds that any wait of the run may last.
    """

    def __init__(self, *, broker: str | None, results: str | None, timeout: float) -> None:
        scheme = (broker or "").partition("://")[0]
        self.transport = _TRANSPORTS.get(scheme)
        self.broker = Space(broker, timeout) if broker and self.transport else None
        at_redis = results is not None and results.startswith(_REDIS_RESULTS)
        self.results = Space(results, timeout) if results and at_redis else None

    def broker_settings(self, bounded: Mapping[str, Any]) -> dict[str, Any]:
        """Celery's settings for the broker; other processes need no more.

        Args:
            bounded: transport options that limit how long anything waits.
        """
        if self.broker is None:
            return {}
        return {
            "broker_transport": self.transport,
            "broker_transport_options": {**bounded, **self._own_options(self.broker)},
        }

    def result_settings(self) -> dict[str, Any]:
        """Celery's settings for results at Redis."""
        if self.results is None:
            return {}
        timeout = self.results.timeout
        return {
            "redis_socket_connect_timeout": timeout / _SHARE,
            "redis_socket_timeout": timeout / _SHARE,
            "result_backend_transport_options": {
                "global_keyprefix": self.results.prefix,
                # Celery's own takes 20 seconds.
                "retry_policy": {"max_retries": 1, "interval_start": 0, "interval_step": 0.1},
            },
        }

    @contextmanager
    def entered(self, app: Celery) -> Iterator[None]:
        """Own the spaces for a block; what is in them is removed at its end."""
        with ExitStack() as stack:
            if self.broker is not None:
                stack.enter_context(_connecting(app, self.broker, self._own_options(self.broker)))
                spaces[self.broker.prefix] = self.broker
                stack.callback(spaces.pop, self.broker.prefix, None)

                def remove(record: records.Record) -> None:
                    with self._connection(app) as connection:
                        self._module().remove(connection, record)

                self.broker.remove = remove
                stack.callback(self.broker.close)
            if self.results is not None:
                self.results.begin()
                stack.callback(self._close_results, app)
            yield

    def empty(self, app: Celery) -> None:
        """Drop the messages; queues stay declared. Costs nothing where nothing was sent."""
        space = self.broker
        if space is None or not space.dirty:
            return
        # Before: what is sent meanwhile counts as sent.
        space.dirty = False
        # A broker that is dead is told of by whoever needs it.
        with suppress(Exception), self._connection(app) as connection:
            self._module().empty(connection, space.record)

    def _own_options(self, space: Space) -> dict[str, Any]:
        # In plain values: remote control sends the options of a worker's broker as JSON.
        return {"global_keyprefix": space.prefix, OPTION: asdict(space.noted())}

    def _module(self) -> ModuleType:
        return import_module(str(self.transport).partition(":")[0])

    @contextmanager
    def _connection(self, app: Celery) -> Iterator[Any]:
        """A connection that knows nothing of prefixes; one try, and a second for luck."""
        space = self.broker
        assert space is not None  # noqa: S101 - for mypy: only asked where there is one
        limit = space.timeout / _SHARE
        with app.amqp.Connection(
            space.url,
            ssl=app.conf.broker_use_ssl,
            connect_timeout=limit,
            transport_options=self._module().options(limit),
        ) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
            yield connection

    def _close_results(self, app: Celery) -> None:
        space = self.results
        assert space is not None  # noqa: S101 - as above
        # Else no result was ever wanted, or they went elsewhere.
        if "celery.backends.redis" in sys.modules and space.url == app.conf.result_backend:
            from pytest_djcelery.brokers import redis

            space.remove = lambda record: redis.remove_keys(app.backend.client, record.prefix)
            space.first_used()
        space.close()


@contextmanager
def _connecting(app: Celery, space: Space, options: Mapping[str, Any]) -> Iterator[None]:
    """Use the run's transport for the run's URL, and none of it for another one.

    A test that changes the URL gets that broker as it is; one that changes transport options
    stays in the space. Private API (``Celery._connection``, through which all of Celery's
    connections are made), checked on Celery 5.4 to 5.7.
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


def _nothing(_: records.Record) -> None:
    pass


def _host() -> str:
    """This machine, in letters that no broker gives a meaning to."""
    return re.sub(r"[^A-Za-z0-9]+", "-", socket.gethostname())[:20].strip("-") or "host"
