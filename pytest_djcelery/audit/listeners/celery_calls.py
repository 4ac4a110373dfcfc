"""Records what is published, run and looked at, and which servers are really reached.

Celery's own signals cover most of it. Eager calls have none, so `Task.apply`, in which all of them
end, is wrapped by a function that passes everything on unchanged. Checked on Celery 5.4 to 5.7.

Neither kombu nor Celery has a signal for reaching a server. ``Connection._establish_connection``
(private) and ``Producer.publish`` of kombu, ``Backend.store_result`` and ``Backend.get_task_meta``
of Celery and ``AbstractConnection.connect`` of redis are wrapped in the same way. Checked on kombu
5.4 to 5.7, Celery 5.4 to 5.7 and redis 5 to 7.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from itertools import zip_longest
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from pytest_djcelery import locations
from pytest_djcelery.audit.recorder import Reached, Sent, Taken
from pytest_djcelery.messages.events import Ended, Looked, RaisedElsewhere
from pytest_djcelery.patching import Current, patches, replaced
from pytest_djcelery.recording.failures import watched_results

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_djcelery.audit.recorder import Recorder


# Celery's own upkeep, not the project's work: tasks of `celery.app.builtins`, and the ping of
# `celery.contrib.testing`.
_UPKEEP = frozenset(
    f"celery.{name}" for name in ("accumulate", "backend_cleanup", "chord_unlock", "ping")
)
_MAPS = frozenset({"celery.map", "celery.starmap", "celery.chunks"})
_INSIDE = ("memory", "djcelery", "pyro")  # transports that end in this process
# Django isolates the first; the second belongs to a test that uses the plugin.
_ISOLATED = ("django_celery_results", "pytest_djcelery")
_IN_MEMORY = ("sqlite://", "sqlite:///:memory:", "memory", "cache+memory")


@contextmanager
def signals_recorded(recorder: Recorder) -> Iterator[None]:
    """Record messages sent to a broker, and what becomes of them in workers of this process."""
    from celery import signals

    # This imports Celery, which the suite has imported by now.
    from pytest_djcelery.recording.task_signals import signals_connected

    def about_to_publish(sender: str, body: Any, headers: Any, **_: Any) -> None:
        with recorder.errors_contained():
            if not recorder.quiet and sender not in _UPKEEP:
                recorder.check_race(_message(recorder, sender, body, headers))

    def published(sender: str, body: Any, headers: Any, **_: Any) -> None:
        with recorder.errors_contained():
            if not recorder.quiet and sender not in _UPKEEP:
                recorder.append(_message(recorder, sender, body, headers))

    def received(request: Any, **_: Any) -> None:
        recorder.append(Taken(task_id=request.id))

    def started(task_id: str, **_: Any) -> None:
        recorder.append(Taken(task_id=task_id))

    with ExitStack() as stack:
        stack.enter_context(signals_connected(Current(recorder)))
        for signal, receiver in (
            (signals.task_received, received),
            (signals.task_prerun, started),
            (signals.before_task_publish, about_to_publish),
            (signals.after_task_publish, published),
        ):
            signal.connect(receiver, weak=False, dispatch_uid=recorder)
            stack.callback(signal.disconnect, dispatch_uid=recorder)
        yield


def _message(recorder: Recorder, name: str, body: Any, headers: Any) -> Sent:
    if isinstance(body, tuple):
        args, kwargs, task_id = body[0], body[1], headers.get("id")
    else:  # the first protocol keeps everything in the body
        args, kwargs, task_id = body["args"], body["kwargs"], body["id"]
    task, args, kwargs = _mapped(name, args, kwargs)
    return Sent(
        task=task,
        args=args,
        kwargs=kwargs,
        id=task_id,
        location=recorder.caller(),
        way="broker",
        beyond=beyond_visibility(headers.get("eta")),
    )


def _mapped(name: str, args: Any, kwargs: Any) -> tuple[str, Any, Any]:
    """The task called by `Task.map`, ``starmap`` and ``chunks``, with all values per argument.

    Celery has built-in tasks for them (`celery.app.builtins`); checked on Celery 5.4 to 5.7.
    """
    task, items = kwargs.get("task"), kwargs.get("it")
    if name not in _MAPS or not isinstance(task, dict) or not isinstance(items, list | tuple):
        return name, args, kwargs
    if name == "celery.map":
        return task["task"], (items,), {}
    calls = [item for item in items if isinstance(item, list | tuple)]
    return task["task"], tuple(zip_longest(*calls)), {}


@contextmanager
def eager_runs_recorded(recorder: Recorder) -> Iterator[None]:
    """Record eager runs, both those in place of a publish and those by a test's ``apply()``."""
    from celery.app.task import Task

    from pytest_djcelery.recording.task_signals import task_replaced

    original = vars(Task)["apply"]

    def apply(self: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if recorder.quiet:
            return original(self, *args, **kwargs)
        with recorder.errors_contained():
            frame = locations.publishing_frame()
            if frame is not None and self.name not in _UPKEEP:
                task, given, named = _mapped(
                    self.name,
                    _argument(args, kwargs, 0, "args") or (),
                    _argument(args, kwargs, 1, "kwargs") or {},
                )
                sent = Sent(
                    task=task,
                    args=given,
                    kwargs=named,
                    location=recorder.caller(frame),
                    way="eager",
                    beyond=beyond_visibility(kwargs.get("eta"), kwargs.get("countdown"), self.app),
                )
                if locations.skips_own_apply_async(frame, self):
                    recorder.journal.append(sent)
                else:
                    recorder.check_race_and_append(sent)
        since = len(recorder.journal)
        with recorder.eager_task():
            try:
                return original(self, *args, **kwargs)
            except BaseException:
                # It was raised to the caller, which has therefore seen the failure.
                for ended in list(recorder.journal.events(Ended, since)):
                    if ended.eager:
                        recorder.append(Looked(task_id=ended.task_id))
                raise

    with task_replaced(apply=apply):
        yield


def _argument(args: Any, kwargs: Any, place: int, name: str) -> Any:
    return args[place] if len(args) > place else kwargs.get(name)


@contextmanager
def results_recorded(recorder: Recorder) -> Iterator[None]:
    """Record which outcomes a test has read."""
    with watched_results(Current(_ReadRecorder(recorder)), recorder.suite):
        yield


class _ReadRecorder:
    """Records what `watched_results` reports."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def looked(self, task_ids: Iterable[str]) -> None:
        """Note what the test has read."""
        with self._recorder.errors_contained():
            if not self._recorder.quiet:
                for task_id in task_ids:
                    self._recorder.append(Looked(task_id=task_id))

    def raised_elsewhere(self, task_ids: Iterable[str], error: BaseException) -> None:
        """Note what was raised in code that is not the test's."""
        with self._recorder.errors_contained():
            self._recorder.append(RaisedElsewhere(task_ids=tuple(task_ids), error=error))


@patches(
    "kombu.connection:Connection._establish_connection",
    why="Celery and kombu have no signal for reaching a server.",
    checked_on="kombu 5.4 to 5.7",
)
@contextmanager
def connections_recorded(recorder: Recorder) -> Iterator[None]:
    """Record the connections that are made to a broker."""
    from kombu.connection import Connection

    def record(connection: Any, _: Any) -> None:
        _broker_reached(recorder, connection)

    made = _after(recorder, Connection, "_establish_connection", record)
    with replaced(Connection, _establish_connection=made):
        yield


@patches(
    "kombu.messaging:Producer.publish",
    why="Celery and kombu have no signal for reaching a server.",
    checked_on="kombu 5.4 to 5.7",
)
@contextmanager
def producers_recorded(recorder: Recorder) -> Iterator[None]:
    """Record messages sent over connections that were made earlier."""
    from kombu.messaging import Producer

    def record(producer: Any, _: Any) -> None:
        _broker_reached(recorder, producer.connection)

    with replaced(Producer, publish=_after(recorder, Producer, "publish", record)):
        yield


def _broker_reached(recorder: Recorder, connection: Any) -> None:
    if connection is not None and connection.transport.driver_type not in _INSIDE:
        _reached(recorder, "broker", connection.as_uri(include_password=True))


@patches(
    "celery.backends.base:Backend.get_task_meta",
    why="Celery and kombu have no signal for reaching a server.",
    checked_on="Celery 5.4 to 5.7",
)
@contextmanager
def backends_recorded(recorder: Recorder) -> Iterator[None]:
    """Record results that are stored or read."""
    from celery.backends.base import Backend

    from pytest_djcelery.recording.task_signals import store_result_replaced

    def record(backend: Any, _: Any) -> None:
        _backend_reached(recorder, backend)

    with (
        store_result_replaced(Backend, _after(recorder, Backend, "store_result", record)),
        replaced(Backend, get_task_meta=_after(recorder, Backend, "get_task_meta", record)),
    ):
        yield


@patches(
    "redis.connection:AbstractConnection.connect",
    why="Celery and kombu have no signal for reaching a server.",
    checked_on="redis 5 to 7",
)
@contextmanager
def redis_recorded(recorder: Recorder) -> Iterator[None]:
    """Record connections that a result backend makes as soon as a task is sent."""
    from redis.connection import AbstractConnection

    def record(_: Any, frame: FrameType) -> None:
        backend = _calling_backend(frame)
        if backend is not None:
            _backend_reached(recorder, backend)

    with replaced(
        AbstractConnection, connect=_after(recorder, AbstractConnection, "connect", record)
    ):
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


def _after(
    recorder: Recorder, owner: Any, name: str, record: Callable[[Any, FrameType], None]
) -> Callable[..., Any]:
    """A method that, once it has returned, calls ``record`` with the object and the caller."""
    method = vars(owner)[name]

    def recorded(self: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        returned = method(self, *args, **kwargs)
        with recorder.errors_contained():
            if not recorder.quiet:
                record(self, sys._getframe(1))
        return returned

    return recorded


#: Listeners, by the module whose import they wait for.
BY_MODULE: dict[str, Callable[[Recorder], Any]] = {
    "celery.signals": signals_recorded,
    "celery.app.task": eager_runs_recorded,
    "celery.result": results_recorded,
    "kombu.connection": connections_recorded,
    "kombu.messaging": producers_recorded,
    "celery.backends.base": backends_recorded,
    "redis.connection": redis_recorded,
}


# How long a broker waits for an acknowledgement, before it delivers a message once more ---

# Seconds: kombu.transport.redis, .SQS. Other transports have no such limit.
_DEFAULTS: Final = {"redis": 3600, "rediss": 3600, "sentinel": 3600, "sqs": 1800}


def beyond_visibility(
    eta: Any, countdown: Any = None, app: Any = None
) -> tuple[float, float] | None:
    """The seconds until an ETA and the limit of the project's broker, if the ETA is beyond it.

    Args:
        eta: A datetime, or the text of one in a message.
        countdown: Seconds, in place of an ETA.
        app: The app that sends; by default the current one.
    """
    if not eta and not countdown:
        return None
    limit = _limit(app)
    if limit is None:
        return None
    wait = float(countdown) if countdown else _seconds_until(eta)
    return (round(wait), limit) if wait > limit else None


def _seconds_until(eta: Any) -> float:
    moment = datetime.fromisoformat(eta.replace("Z", "+00:00")) if isinstance(eta, str) else eta
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return float((moment - datetime.now(timezone.utc)).total_seconds())


def _limit(app: Any) -> float | None:
    from celery import current_app

    conf = (app or current_app).conf
    url = conf.broker_url
    first = url[0] if isinstance(url, (list, tuple)) and url else url
    transport = conf.broker_transport or str(first or "").partition(":")[0]
    transport = str(transport).partition("+")[0].lower()
    options = conf.broker_transport_options
    given = options.get("visibility_timeout") if isinstance(options, Mapping) else None
    default = _DEFAULTS.get(transport)
    return None if default is None else float(given or default)
