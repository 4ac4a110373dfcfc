"""What Celery derives from its settings and keeps: queues, pools, backend, tasks, their tracers.

The setting ``task_annotations`` is one of them: Celery applies it once, as a task is bound
(`Task.annotate`), and keeps nothing of what was there before. Here it follows the setting, and is
taken back.

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


# Attributes of the app, and which settings they are computed from.
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

    Where a combination comes back, so do its very objects: code may have changed them, and may
    hold them. What a change does not touch stays as it is.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._kept: dict[tuple[int, ...], dict[str, Any]] = {}

    def keep(self, combination: tuple[int, ...]) -> None:
        """Remember the present objects as those of ``combination``."""
        self._kept[combination] = self._now()

    def change(self, combination: tuple[int, ...], changed: Iterable[str]) -> None:
        """Give the app the objects of ``combination``, where ``changed`` settings touch them.

        Those that were never computed are dropped, so that Celery computes them on demand.
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
        # What kombu has one of for an address may be another app's, too.
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
            return _OfThreads([])
        return None if name in ("_pool", "_backend_cache") else MISSING


def _other_apps(app: Celery) -> list[Any]:
    """The other apps of this process. ``_apps`` is private; checked on Celery 5.4 to 5.7."""
    from celery import _state

    return [other for other in list(vars(_state)["_apps"]) if other is not app]


def _pools(computed: Mapping[str, Any]) -> list[Any]:
    pool = computed.get("_pool")
    return [] if pool is None else [pool]


class _OfThreads(threading.local):
    """``app._local``, where each thread keeps its backend: here, they are known to all.

    Args:
        backends: filled with the threads and their backends. ``__init__`` is called with this
            very list in each thread.
    """

    def __init__(self, backends: list[tuple[threading.Thread, Any]]) -> None:
        self.backends = backends

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "backend":
            self.backends.append((threading.current_thread(), value))


def _backends(computed: Mapping[str, Any]) -> list[Any]:
    """Celery keeps one for all threads where that is safe, else one for each thread."""
    of_threads = [backend for _, backend in getattr(computed.get("_local"), "backends", ())]
    shared = computed.get("_backend_cache")
    return [backend for backend in (shared, *of_threads) if backend is not None]


def close_backends_of_ended_threads(app: Celery) -> None:
    """Let go of the connections of result backends whose threads are no more."""
    backends = getattr(app._local, "backends", [])
    for entry in list(backends):
        thread, backend = entry
        if not thread.is_alive():
            backends.remove(entry)
            close_backend(backend)


def put(mapping: dict[str, Any], key: str, value: Any) -> None:
    """Set an entry, or remove it where the value is `MISSING`."""
    if value is MISSING:
        mapping.pop(key, None)
    else:
        mapping[key] = value


@contextmanager
def queues_restored(app: Celery) -> Iterator[None]:
    """Put ``app.amqp.queues`` back: a message for an unknown queue, or a worker, adds to them."""
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
    """Close a kombu connection pool and forget it, with its producers, in kombu's registry."""
    from kombu import pools

    for group in (pools.connections, pools.producers):
        for key, value in list(group.items()):
            if pool in (value, getattr(value, "connections", None)):
                dict.__delitem__(group, key)
                value.force_close_all()
    pool.force_close_all()


def close_backend(backend: Any) -> None:
    """Let go of the connections of a result backend that has any: Redis' client, subscriptions."""
    consumer = getattr(backend, "result_consumer", None)
    pool = getattr(vars(backend).get("client"), "connection_pool", None)
    # RPC's can't be stopped if it was never started.
    if consumer is not None and getattr(consumer, "_consumer", consumer) is not None:
        # The queue of its replies may have gone with all others of the run.
        errors = getattr(getattr(consumer, "_connection", None), "connection_errors", ())
        with suppress(*errors):
            consumer.stop()
        if hasattr(consumer, "_pubsub"):
            # A result that is collected later would unsubscribe, and connect anew to do so.
            consumer._pubsub = None
    if pool is not None:
        pool.disconnect()


def refresh_tasks(app: Celery, before: Mapping[str, Any]) -> None:
    """Let tasks follow settings that `Task.bind` copied onto their classes.

    Binding sets ``__bound__`` on the class and after it each attribute that was still ``None``;
    what the author of the task gave stands before it. Only what still equals the setting it
    came from is changed.
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
    """Let go of what was built from the attributes of tasks."""
    renew_tracers(app)
    for task in list(app._tasks.values()):
        task._exec_options = None


def copied_by_bind(owner: type, attribute: str) -> bool:
    """Whether `Task.bind` has set an attribute, and not the author of the task."""
    names = list(vars(owner))
    return "__bound__" in names and names.index(attribute) > names.index("__bound__")


def logs_listened_to() -> bool:
    """Whether anyone listens to what a worker logs of the tasks that it receives and runs."""
    for logger in _LOGGERS:  # noqa: SIM110 - `any()` takes twice as long
        if logger.isEnabledFor(logging.INFO):
            return True
    return False


@contextmanager
def info_logging_enabled() -> Iterator[None]:
    """Let Celery build strategies and tracers that log what is received and done.

    It asks once, when it builds them, whether anyone listens at level INFO; a test may want to
    listen later (``caplog.at_level``). Each record is still filtered by the level of its time.
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
    """Let the tracers of tasks follow the attributes of the tasks, which they were built from.

    A worker that runs here may be about to use one, so each is built anew as that worker has
    built it. Where none runs, Celery builds one when it needs it.

    Private API (``celery.app.trace._localized``: what `setup_worker_optimizations` was given),
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
    """The annotations of an app's tasks, as its settings have them now.

    Private API (``Task.__bound__`` and ``_app``, ``Celery._tasks``), checked on Celery 5.4 to 5.7.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._bound_under: WeakKeyDictionary[type, Any] = WeakKeyDictionary()
        self._found: WeakKeyDictionary[type, dict[str, Any]] = WeakKeyDictionary()

    @contextmanager
    def kept_current(self, before: Mapping[str, Any]) -> Iterator[None]:
        """Give tasks as they were bound to a block, and annotate them as the settings say after it.

        Args:
            before: the settings that have changed, as they were.
        """
        if not self._app.finalized or not (SETTING in before or (before and self._found)):
            yield
            return
        now = self._app.conf[SETTING]
        kinds = [kind for kind in map(type, self._app._tasks.values()) if self._is_ours(kind)]
        for kind in kinds:
            self._bound_under.setdefault(kind, before.get(SETTING, now))
        self._put_back()
        yield
        try:
            for kind in kinds:
                if self._bound_under[kind] != now:
                    self._annotate(kind)
        finally:
            renew_built(self._app)

    def _is_ours(self, kind: Any) -> bool:
        return bool(kind.__bound__) and kind._app is self._app

    def _put_back(self) -> None:
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
            self._withdraw(kind)
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

    def _withdraw(self, kind: Any) -> None:
        """Take away what annotations made of a task as it was bound.

        What the author of the task gave, and an annotation replaced, is nowhere to be found.
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
