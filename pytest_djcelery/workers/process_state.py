"""What a Celery worker changes for its whole process, put back: here the process is the tests'."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING

from celery.worker import state

from pytest_djcelery.recording.task_threads import join_check_per_thread

if TYPE_CHECKING:
    from celery import Celery

_MISSING = object()
_LOGGERS = [logging.getLogger(name) for name in ("celery.worker.strategy", "celery.app.trace")]


class _Shared:
    """A change to the process that several want: the first one makes it, the last one undoes it."""

    def __init__(self) -> None:
        self._changing = threading.RLock()
        self._users = 0
        self._change = ExitStack()

    @contextmanager
    def used(self, change: AbstractContextManager[None]) -> Iterator[None]:
        with self._changing:
            if not self._users:
                self._change.enter_context(change)
            self._users += 1
        try:
            yield
        finally:
            with self._changing:
                self._users -= 1
                if not self._users:
                    self._change.close()


_working, _listening = _Shared(), _Shared()


@contextmanager
def process_as_found(app: Celery) -> Iterator[None]:
    """Put back what a worker changes for the whole process.

    Those are ``celery.worker.state``, the queues selected on the app, the flag that forbids
    ``get()`` in tasks, the limits set by remote control, and the optimized tracing of tasks.
    Workers may end in any order: the process is put back as the last one ends.
    """
    with _working.used(_as_found(app)):
        _forget_requests()
        try:
            yield
        finally:
            _forget_requests()
            limits_changed(app)


@contextmanager
def _as_found(app: Celery) -> Iterator[None]:
    flags = state.should_stop, state.should_terminate
    state.should_stop = state.should_terminate = None
    queues = app.amqp.queues
    consume_from = queues._consume_from
    try:
        with join_check_per_thread(), _tracing_as_found(app):
            yield
    finally:
        queues._consume_from = consume_from
        state.should_stop, state.should_terminate = flags


def _forget_requests() -> None:
    state.reset_state()
    state.revoked_stamps.clear()


@contextmanager
def _tracing_as_found(app: Celery) -> Iterator[None]:
    """Undo ``celery.app.trace.setup_worker_optimizations``; see there for what it does.

    Private API, checked on Celery 5.4 to 5.7.
    """
    from celery import _state
    from celery.app import trace
    from celery.app.task import Task

    call, protected = vars(Task)["__call__"], getattr(Task, "_stackprotected", None)
    patched, localized = dict(trace._patched), list(trace._localized)
    fast, default = app.use_fast_trace_task, _state.default_app
    try:
        yield
    finally:
        Task.__call__ = call
        if protected is None and hasattr(Task, "_stackprotected"):
            del Task._stackprotected
        trace._patched.clear()
        trace._patched.update(patched)
        trace._localized[:] = localized
        app.use_fast_trace_task = fast
        _state.default_app = default


def limits_changed(app: Celery) -> bool:
    """Undo limits that remote control set on task instances; whether there were any."""
    changed = False
    for task in app.tasks.values():
        for name in ("rate_limit", "time_limit", "soft_time_limit"):
            changed |= vars(task).pop(name, _MISSING) is not _MISSING
    return changed


def listened_to() -> bool:
    """Whether anyone listens to what a worker logs of the tasks that it receives and runs."""
    return any(logger.isEnabledFor(logging.INFO) for logger in _LOGGERS)


@contextmanager
def info_enabled() -> Iterator[None]:
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
    with info_enabled():
        for task in list(app._tasks.values()):  # ``app.tasks`` would finalize
            if task.__trace__ is not None:
                task.__trace__ = (
                    trace.build_tracer(task.name, task, app.loader, hostname, app=app)
                    if tasks is app._tasks
                    else None
                )
