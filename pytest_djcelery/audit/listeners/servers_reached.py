"""Record which brokers and result backends outside this process are really reached.

Neither kombu nor Celery has a signal for it. ``Connection._establish_connection`` (private) and
``Producer.publish`` of kombu, ``Backend.store_result`` and ``Backend.get_task_meta`` of Celery and
``AbstractConnection.connect`` of redis are wrapped, by functions that pass everything on. Checked
on kombu 5.4 to 5.7, Celery 5.4 to 5.7 and redis 5 to 7.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from pytest_djcelery.audit.recorder import Reached
from pytest_djcelery.patching import replaced

if TYPE_CHECKING:
    from pytest_djcelery.audit.recorder import Recorder

_INSIDE = ("memory", "djcelery", "pyro")  # transports that end in this process
# Django isolates the first; the others are of a test that uses the plugin.
_ISOLATED = ("django_celery_results", "pytest_djcelery")
_IN_MEMORY = ("sqlite://", "sqlite:///:memory:", "memory", "cache+memory")


@contextmanager
def connections_recorded(recorder: Recorder) -> Iterator[None]:
    """Record the connections that are made to a broker."""
    from kombu.connection import Connection

    def record(connection: Any, _: Any) -> None:
        _broker_reached(recorder, connection)

    with _after(recorder, Connection, "_establish_connection", record):
        yield


@contextmanager
def producers_recorded(recorder: Recorder) -> Iterator[None]:
    """Record messages over connections that were made before."""
    from kombu.messaging import Producer

    def record(producer: Any, _: Any) -> None:
        _broker_reached(recorder, producer.connection)

    with _after(recorder, Producer, "publish", record):
        yield


def _broker_reached(recorder: Recorder, connection: Any) -> None:
    if connection is not None and connection.transport.driver_type not in _INSIDE:
        _reached(recorder, "broker", connection.as_uri(include_password=True))


@contextmanager
def backends_recorded(recorder: Recorder) -> Iterator[None]:
    """Record results that are stored or read."""
    from celery.backends.base import Backend

    def record(backend: Any, _: Any) -> None:
        _backend_reached(recorder, backend)

    with (
        _after(recorder, Backend, "store_result", record),
        _after(recorder, Backend, "get_task_meta", record),
    ):
        yield


@contextmanager
def redis_recorded(recorder: Recorder) -> Iterator[None]:
    """Record connections that a result backend makes as soon as a task is sent."""
    from redis.connection import AbstractConnection

    def record(_: Any, frame: FrameType) -> None:
        backend = _calling_backend(frame)
        if backend is not None:
            _backend_reached(recorder, backend)

    with _after(recorder, AbstractConnection, "connect", record):
        yield


def _calling_backend(frame: FrameType | None) -> Any:
    while frame is not None:
        if frame.f_globals.get("__name__") == "celery.backends.redis":
            owner = frame.f_locals.get("self")
            return getattr(owner, "backend", owner)
        frame = frame.f_back
    return None


def _backend_reached(recorder: Recorder, backend: Any) -> None:
    if type(backend).__module__.startswith(_ISOLATED) or backend.as_uri() in ("", "disabled://"):
        return
    address = str(backend.as_uri())
    if not address.startswith(_IN_MEMORY) and type(backend).__name__ != "DisabledBackend":
        _reached(recorder, "result backend", address)


def _reached(recorder: Recorder, what: Any, url: str) -> None:
    from kombu.utils.url import maybe_sanitize_url

    url = maybe_sanitize_url(url)
    recorder.append(Reached(what=what, url=url, location=recorder.caller()))


@contextmanager
def _after(
    recorder: Recorder, owner: Any, name: str, record: Callable[[Any, FrameType], None]
) -> Iterator[None]:
    """Call ``heard`` with the object and the calling frame once a method has returned."""
    method = vars(owner)[name]

    def passed_on(self: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        returned = method(self, *args, **kwargs)
        with recorder.errors_kept():
            if not recorder.quiet:
                record(self, sys._getframe(1))
        return returned

    with replaced(owner, **{name: passed_on}):
        yield


#: Listeners, by the module whose import they wait for.
BY_MODULE: dict[str, Callable[[Recorder], Any]] = {
    "kombu.connection": connections_recorded,
    "kombu.messaging": producers_recorded,
    "celery.backends.base": backends_recorded,
    "redis.connection": redis_recorded,
}
