"""What a Celery worker changes for its whole process, which is the tests' here, is put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from celery.worker import state

from pytest_djcelery.patching import SharedChange
from pytest_djcelery.recording.task_threads import join_check_per_thread
from pytest_djcelery.workers.applying import internal_errors_reported

if TYPE_CHECKING:
    from celery import Celery

_MISSING = object()
_working = SharedChange()


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
        with join_check_per_thread(), _tracing_as_found(app), internal_errors_reported():
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
    """Undo limits that remote control set on tasks; whether there were any."""
    changed = False
    for task in app.tasks.values():
        for name in ("rate_limit", "time_limit", "soft_time_limit"):
            changed |= vars(task).pop(name, _MISSING) is not _MISSING
    return changed
