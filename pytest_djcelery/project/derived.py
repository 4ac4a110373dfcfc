"""What Celery derives from its settings and keeps: queues, pools, backend, tasks, their tracers.

So it does with ``task_annotations``: Celery applies the setting once, when a task is bound
(`Task.annotate`), and forgets what was there before. Here annotations follow the setting, and are
undone.

Private API of celery/app/base.py, celery/app/amqp.py, celery/app/task.py and celery/app/trace.py,
checked on Celery 5.4 to 5.7.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from pytest_djcelery.patching import SharedChange

if TYPE_CHECKING:
    from celery import Celery


MISSING: Final = object()
_LOGGERS = [logging.getLogger(name) for name in ("celery.worker.strategy", "celery.app.trace")]
_listening = SharedChange()

_ROUTING = (
    "accept_content", "enable_utc", "task_compression", "task_create_missing",
    "task_default_", "task_protocol", "task_publish_", "task_queue", "task_routes",
    "task_serializer",
)  # fmt: skip
_NOT_BACKEND = ("beat_", "broker_", "control_", "event_", "imports", "include", "task_", "worker_")
_PRODUCERS = "_producer_pool"  # of ``app.amqp``, but computed with ``_pool``
SETTING: Final = "task_annotations"


def _prefixed(*prefixes: str) -> Callable[[str], bool]:
    return lambda key: key.startswith(prefixes)


# Attributes of the app, and the settings from which they are computed.
_GROUPS: tuple[tuple[tuple[str, ...], Callable[[str], bool]], ...] = (
    (("amqp",), _prefixed(*_ROUTING)),
    (("_pool",), _prefixed("broker_")),
    (("control", "events"), _prefixed("broker_", "control_", "event_")),
    (("timezone",), _prefixed("enable_utc", "timezone")),
    (("annotations",), _prefixed("task_annotations")),
    (("_backend_cache", "_local"), lambda key: not key.startswith(_NOT_BACKEND)),
)


class DerivedObjects:
    """The computed objects of an app, kept for each combination of layers.

    When a combination returns, so do the same objects: code may have changed them, and may have
    references to them. Whatever a change does not affect stays as it is.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._kept: dict[tuple[int, ...], dict[str, Any]] = {}

    def keep(self, combination: tuple[int, ...]) -> None:
        """Remember the current objects as those of ``combination``."""
        self._kept[combination] = self._now()

    def change(self, combination: tuple[int, ...], changed: Iterable[str]) -> None:
        """Give the app those objects of ``combination`` that ``changed`` settings affect.

        If an object was never computed it is dropped, so that Celery computes it on demand.
        """
        kept = self._kept.get(combination, {})
        attributes = vars(self._app)
        keys = list(changed)
        for names, touches in _GROUPS:
            if not any(touches(key) for key in keys):
                continue
            for name in names:
                put(attributes, name, kept.get(name, self._fresh(name)))
            if "_pool" in names and "amqp" in attributes:
                attributes["amqp"]._producer_pool = kept.get(_PRODUCERS)

    def forget(self, living: Iterable[int]) -> None:
        """Close and forget what belongs to layers that are gone."""
        layers = set(living)
        dead = [combination for combination in self._kept if not layers.issuperset(combination)]
        gone = [self._kept.pop(combination) for combination in dead]
        # kombu may share an object for one address with another app.
        alive = (vars(self._app), *map(vars, _other_apps(self._app)), *self._kept.values())
        for parts_of, close in ((_pools, close_pool), (_backends, close_backend)):
            unused = {id(part): part for kept in gone for part in parts_of(kept)}
            for used in (part for kept in alive for part in parts_of(kept)):
                unused.pop(id(used), None)
            for part in unused.values():
                close(part)

    def _now(self) -> dict[str, Any]:
        attributes = vars(self._app)
        amqp = attributes.get("amqp")
        computed = (name for names, _ in _GROUPS for name in names)
        now = {name: attributes.get(name, self._fresh(name)) for name in computed}
        return {**now, _PRODUCERS: amqp._producer_pool if amqp is not None else None}

    def _fresh(self, name: str) -> Any:
        if name == "_local":
            return _ThreadBackends([])
        return None if name in ("_pool", "_backend_cache") else MISSING


def _other_apps(app: Celery) -> list[Any]:
    """The other apps of this process. ``_apps`` is private; checked on Celery 5.4 to 5.7."""
    from celery import _state

    return [other for other in list(vars(_state)["_apps"]) if other is not app]


def _pools(computed: Mapping[str, Any]) -> list[Any]:
    pool = computed.get("_pool")
    return [] if pool is None else [pool]


class _ThreadBackends(threading.local):
    """``app._local``, where each thread keeps its backend, with a list of all of them.

    Args:
        backends: Filled with the threads and their backends. ``__init__`` is called with this same
            list in each thread.
    """

    def __init__(self, backends: list[tuple[threading.Thread, Any]]) -> None:
        self.backends = backends

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "backend":
            self.backends.append((threading.current_thread(), value))


def _backends(computed: Mapping[str, Any]) -> list[Any]:
    """The result backends: one for all threads where that is safe, else one for each thread."""
    of_threads = [backend for _, backend in getattr(computed.get("_local"), "backends", ())]
    shared = computed.get("_backend_cache")
    return [backend for backend in (shared, *of_threads) if backend is not None]


def close_backends_of_ended_threads(app: Celery) -> None:
    """Close the connections of result backends whose threads have ended."""
    backends = getattr(app._local, "backends", [])
    for entry in list(backends):
        thread, backend = entry
        if not thread.is_alive():
            backends.remove(entry)
            close_backend(backend)


def put(mapping: dict[str, Any], key: str, value: Any) -> None:
    """Set an entry, or remove it if the value is `MISSING`."""
    if value is MISSING:
        mapping.pop(key, None)
    else:
        mapping[key] = value


@contextmanager
def queues_restored(app: Celery) -> Iterator[None]:
    """Restore ``app.amqp.queues``: a message to an unknown queue, or a worker, adds to it."""
    queues = app.amqp.queues
    entries = dict(queues)
    selected = {
        name: value if value is None else dict(value)
        for name in ("_consume_from", "_default_consume_from")  # the latter in later releases
        if (value := vars(queues).get(name, MISSING)) is not MISSING
    }
    try:
        yield
    finally:
        dict.clear(queues)
        dict.update(queues, entries)
        vars(queues).pop("_consume_from", None)
        vars(queues).update(selected)


def close_pool(pool: Any) -> None:
    """Close a kombu connection pool, and remove it and its producers from kombu's registry."""
    from kombu import pools

    for group in (pools.connections, pools.producers):
        for key, value in list(group.items()):
            if pool in (value, getattr(value, "connections", None)):
                dict.__delitem__(group, key)
                value.force_close_all()
    pool.force_close_all()


def close_backend(backend: Any) -> None:
    """Close the connections of a result backend, if it has any: Redis' client, subscriptions."""
    consumer = getattr(backend, "result_consumer", None)
    pool = getattr(vars(backend).get("client"), "connection_pool", None)
    # The consumer of RPC can't be stopped if it was never started.
    if consumer is not None and getattr(consumer, "_consumer", consumer) is not None:
        # Its reply queue may have been removed with all the others of the run.
        errors = getattr(getattr(consumer, "_connection", None), "connection_errors", ())
        with suppress(*errors):
            consumer.stop()
        if hasattr(consumer, "_pubsub"):
            # A result that is garbage-collected later would reconnect in order to unsubscribe.
            consumer._pubsub = None
    if pool is not None:
        pool.disconnect()


def refresh_tasks(app: Celery, before: Mapping[str, Any]) -> None:
    """Update the attributes of tasks that `Task.bind` copied from the settings.

    Binding sets ``__bound__`` on the class, and after it each attribute that was still ``None``;
    what the author of the task set comes before it. Only attributes that still equal the setting
    they came from are changed.
    """
    if not before or not app.finalized:
        return
    touched = False
    for task in list(app._tasks.values()):  # ``app.tasks`` would finalize
        for attribute, key in task.from_config:
            if key not in before:
                continue
            owner = next((cls for cls in type(task).__mro__ if attribute in vars(cls)), None)
            if owner is None or not copied_by_bind(owner, attribute):
                continue
            if vars(owner)[attribute] == before[key]:
                setattr(owner, attribute, app.conf[key])
                touched = True
    if touched:
        renew_built(app)


def renew_built(app: Celery) -> None:
    """Drop, or build again, what was built from the attributes of tasks."""
    renew_tracers(app)
    for task in list(app._tasks.values()):
        task._exec_options = None


def copied_by_bind(owner: type, attribute: str) -> bool:
    """Whether `Task.bind`, rather than the author of the task, has set an attribute."""
    names = list(vars(owner))
    return "__bound__" in names and names.index(attribute) > names.index("__bound__")


def logs_listened_to() -> bool:
    """Whether anything listens to what a worker logs about the tasks it receives and runs."""
    for logger in _LOGGERS:  # noqa: SIM110 - `any()` takes twice as long
        if logger.isEnabledFor(logging.INFO):
            return True
    return False


@contextmanager
def info_logging_enabled() -> Iterator[None]:
    """Within the ``with``, have Celery build strategies and tracers that log what they do.

    Celery checks once, when it builds them, whether anything listens at level INFO; a test may
    want to listen later (``caplog.at_level``). Each record is still filtered by the level at the
    time.
    """
    with _listening.used(_levels_lowered()):
        yield


@contextmanager
def _levels_lowered() -> Iterator[None]:
    levels = [logger.level for logger in _LOGGERS]
    for logger in _LOGGERS:
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, level in zip(_LOGGERS, levels, strict=True):
            logger.setLevel(level)


def renew_tracers(app: Celery) -> None:
    """Build the tracers of tasks again, since the attributes they were built from have changed.

    A worker that runs here may be about to use one, so each is built in the same way as that
    worker built it. If no worker runs, Celery builds one when it needs it.

    Private API (``celery.app.trace._localized``: the arguments of `setup_worker_optimizations`),
    checked on Celery 5.4 to 5.7.
    """
    from celery.app import trace

    tasks, _, hostname = trace._localized or (None, None, None)
    with info_logging_enabled():
        for task in list(app._tasks.values()):  # ``app.tasks`` would finalize
            if task.__trace__ is not None:
                task.__trace__ = (
                    trace.build_tracer(task.name, task, app.loader, hostname, app=app)
                    if tasks is app._tasks
                    else None
                )


class Annotations:
    """Keeps the annotations of an app's tasks as its settings currently say.

    Private API (``Task.__bound__`` and ``_app``, ``Celery._tasks``), checked on Celery 5.4 to 5.7.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._bound_under: WeakKeyDictionary[type, Any] = WeakKeyDictionary()
        self._found: WeakKeyDictionary[type, dict[str, Any]] = WeakKeyDictionary()

    @contextmanager
    def kept_current(self, before: Mapping[str, Any]) -> Iterator[None]:
        """Undo annotations within the ``with``, and annotate by the current settings after it.

        Args:
            before: The settings that have changed, with their earlier values.
        """
        if not self._app.finalized or not (SETTING in before or (before and self._found)):
            yield
            return
        now = self._app.conf[SETTING]
        kinds = [kind for kind in map(type, self._app._tasks.values()) if self._is_ours(kind)]
        for kind in kinds:
            self._bound_under.setdefault(kind, before.get(SETTING, now))
        self._restore()
        yield
        try:
            for kind in kinds:
                if self._bound_under[kind] != now:
                    self._annotate(kind)
        finally:
            renew_built(self._app)

    def _is_ours(self, kind: Any) -> bool:
        return bool(kind.__bound__) and kind._app is self._app

    def _restore(self) -> None:
        while self._found:
            kind, attributes = self._found.popitem()
            for name, value in attributes.items():
                if value is not MISSING:
                    setattr(kind, name, value)
                elif name in vars(kind):
                    delattr(kind, name)

    def _annotate(self, kind: Any) -> None:
        found = dict(vars(kind))
        try:
            self._remove_from_binding(kind)
            kind.annotate()
        finally:
            names = {*found, *vars(kind)}
            before = {name: found.get(name, MISSING) for name in names}
            changed = {
                name: value
                for name, value in before.items()
                if value is not vars(kind).get(name, MISSING)
            }
            if changed:
                self._found[kind] = changed

    def _remove_from_binding(self, kind: Any) -> None:
        """Undo what annotations changed of a task when it was bound.

        An attribute that its author set, and an annotation replaced, can't be found any more.
        """
        from celery.app.annotations import prepare, resolve_all

        settings = dict(kind.from_config)
        for annotation in resolve_all(prepare(self._bound_under[kind]), kind):
            for key in annotation:
                name = key.removeprefix("@")
                present = vars(kind).get(name, MISSING)
                if present is not MISSING and copied_by_bind(kind, name):
                    delattr(kind, name)
                    if name in settings:
                        setattr(kind, name, self._app.conf[settings[name]])
                elif key.startswith("@") and hasattr(present, "__wrapped__"):
                    setattr(kind, name, present.__wrapped__)
