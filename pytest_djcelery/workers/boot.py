"""Runs the project's part in the start of a worker, and puts back what a worker changes.

That part consists of the boot steps added to the app, and the receivers of the start-up signals.
Libraries such as django-structlog use these to connect what only a worker should do; in a process
that outlives its worker, it has to be disconnected with the worker.

Private API (``Signal.receivers``), checked on Celery 5.4 to 5.7.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FunctionType
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType

from celery import _state, bootsteps, signals
from celery.app import trace
from celery.app.task import Task
from celery.fixups.django import DjangoFixup
from celery.utils.dispatch import Signal
from celery.worker import WorkController, state

from pytest_djcelery.patching import SharedChange
from pytest_djcelery.recording.task_threads import join_check_per_thread
from pytest_djcelery.workers.applying import internal_errors_reported

if TYPE_CHECKING:
    from celery import Celery


_working = SharedChange()
_ALL = [signal for signal in vars(signals).values() if isinstance(signal, Signal)]
_START_SIGNALS = (
    signals.celeryd_init,
    signals.celeryd_after_setup,
    signals.worker_init,
    signals.worker_ready,
)


@contextmanager
def process_as_found(app: Celery) -> Iterator[None]:
    """Put back what a worker changes for the whole process.

    That is ``celery.worker.state``, the queues selected on the app, the flag that forbids
    ``get()`` in tasks, the limits set by remote control, and the optimized tracing of tasks.
    Workers may end in any order: the process is put back when the last one ends.
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
    """Undo limits that remote control set on tasks, and return whether there were any."""
    changed = False
    for task in app.tasks.values():
        own = task.__dict__
        for name in ("rate_limit", "time_limit", "soft_time_limit"):
            if name in own:  # `pop` would be called three times for each task of the project
                del own[name]
                changed = True
    return changed


class BootReceivers:
    """The receivers that a worker's start has connected."""

    def __init__(self) -> None:
        self._added: list[tuple[Signal, Any]] = []

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Collect what is connected within the ``with``, except by importing a module."""
        before = {id(entry) for signal in _ALL for entry in signal.receivers}
        modules = set(sys.modules)
        try:
            yield
        finally:
            self._added += [
                (signal, entry)
                for signal in _ALL
                for entry in signal.receivers
                if id(entry) not in before and not _of_import(entry, modules)
            ]

    def disconnect(self) -> None:
        """Disconnect them, while the worker runs no test's tasks."""
        for signal, entry in self._added:
            _replace(signal, [other for other in signal.receivers if other is not entry])

    def connect(self) -> None:
        """Connect them again."""
        for signal, entry in self._added:
            if not any(other is entry for other in signal.receivers):
                _replace(signal, [*signal.receivers, entry])


def _replace(signal: Signal, receivers: list[Any]) -> None:
    """In place: the tracers of tasks hold a reference to the list."""
    with signal.lock:
        signal.receivers[:] = receivers
        signal.sender_receivers_cache.clear()


class Controller(WorkController):
    """Celery's controller, which also sends the signals that ``celery worker`` sends at its start.

    Celery sends them in `celery.apps.worker.Worker`, which changes the process too: its title, its
    standard output, its handlers of the operating system's signals.
    """

    def run(self) -> BaseException | None:
        """Run until the end, and return the error that ended it, which Celery only logs.

        Private API (``WorkController.blueprint``), checked on Celery 5.4 to 5.7.
        """
        errors: list[BaseException] = []
        start = self.blueprint.start

        def start_and_keep_error(parent: Any) -> Any:
            try:
                return start(parent)
            except Exception as error:
                errors.append(error)
                raise

        self.blueprint.start = start_and_keep_error
        try:
            self.start()
        finally:
            del self.blueprint.start
        return _raised_by_task(errors[0]) if errors else None

    def on_before_init(self, **options: Any) -> None:
        super().on_before_init(**options)
        signals.celeryd_init.send(
            sender=self.hostname, instance=self, conf=self.app.conf, options=options
        )

    def on_start(self) -> None:
        super().on_start()
        signals.celeryd_after_setup.send(sender=self.hostname, instance=self, conf=self.app.conf)

    def on_consumer_ready(self, consumer: Any) -> None:
        super().on_consumer_ready(consumer)
        signals.worker_ready.send(sender=consumer)


def _raised_by_task(error: BaseException) -> BaseException:
    """The error with which a task ended the worker, which Celery's subsequent error hides.

    A solo pool calls back with an argument that no callback accepts
    (`celery.concurrency.base.apply_target`), so the worker dies of a `TypeError`.
    """
    cause: BaseException | None = error
    while cause is not None:
        if not isinstance(cause, Exception):
            return cause
        cause = cause.__cause__ or cause.__context__
    return error


def starts_project_code(app: Celery) -> bool:
    """Whether the project has a part in the start of a worker."""
    return bool(app.steps["worker"] or any(map(_of_project, _START_SIGNALS)))


@contextmanager
def project_steps_run(app: Celery, consumer: Any) -> Iterator[None]:
    """Run the project's part in the start of a worker that has neither thread nor controller.

    Args:
        app: The project's app.
        consumer: The worker's consumer, whose ``controller`` stands for the worker.
    """
    if not starts_project_code(app):
        yield
        return
    worker, receivers = consumer.controller, BootReceivers()
    with ExitStack() as stack:
        stack.callback(receivers.disconnect)
        with receivers.collected():
            signals.celeryd_init.send(
                sender=worker.hostname, instance=worker, conf=app.conf, options={}
            )
            with _without_fixups(signals.worker_init):
                signals.worker_init.send(sender=worker)
            steps = [kind(worker) for kind in sorted(app.steps["worker"], key=repr)]
            for step in steps:
                step.include(worker)
            signals.celeryd_after_setup.send(sender=worker.hostname, instance=worker, conf=app.conf)
            for step in worker.steps:
                step.start(worker)
                stack.callback(_stop, step, worker)
            signals.worker_ready.send(sender=consumer)
        yield
        steps.clear()  # kept until now: they may hold the only references to receivers


def _stop(step: Any, worker: Any) -> None:
    if isinstance(step, bootsteps.StartStopStep):
        step.stop(worker)


def _of_project(signal: Signal) -> list[Any]:
    return [entry for entry in signal.receivers if not _of_fixup(entry)]


def _of_fixup(entry: Any) -> bool:
    """Whether a receiver is of Celery's Django fixup, which closes every connection it finds."""
    return isinstance(getattr(_receiver(entry), "__self__", None), DjangoFixup)


def _of_import(entry: Any, modules: set[str]) -> bool:
    """Whether a receiver was connected by importing a module, which happens only once.

    Args:
        entry: An entry of a signal's list.
        modules: The modules that were imported before.
    """
    receiver = _receiver(entry)
    return isinstance(receiver, FunctionType) and receiver.__module__ not in modules


def _receiver(entry: Any) -> Any:
    return entry[1]() if isinstance(entry[1], ReferenceType) else entry[1]


@contextmanager
def _without_fixups(signal: Signal) -> Iterator[None]:
    fixups = [entry for entry in signal.receivers if _of_fixup(entry)]
    _replace(signal, _of_project(signal))
    try:
        yield
    finally:
        _replace(signal, [*fixups, *signal.receivers])
