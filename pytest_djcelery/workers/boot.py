"""What a starting worker runs of the project's, and what that connects to Celery's signals.

Those are the boot steps that are added to the app, and the receivers of the signals of a start.
Libraries connect there what only a worker is to do (django-structlog does); in a process that goes
on without a worker it has to go with it.

Private API (``Signal.receivers``), checked on Celery 5.4 to 5.7.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FunctionType
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType

from celery import bootsteps, signals
from celery.fixups.django import DjangoFixup
from celery.utils.dispatch import Signal
from celery.worker import WorkController

if TYPE_CHECKING:
    from celery import Celery

_ALL = [each for each in vars(signals).values() if isinstance(each, Signal)]
_OF_A_START = (
    signals.celeryd_init,
    signals.celeryd_after_setup,
    signals.worker_init,
    signals.worker_ready,
)


class BootReceivers:
    """The receivers that a worker's start has connected."""

    def __init__(self) -> None:
        self._added: list[tuple[Signal, Any]] = []

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note what a block connects, but for what importing a module connects: that stays."""
        before = {id(each) for signal in _ALL for each in signal.receivers}
        modules = set(sys.modules)
        try:
            yield
        finally:
            self._added += [
                (signal, each)
                for signal in _ALL
                for each in signal.receivers
                if id(each) not in before and not _of_import(each, modules)
            ]

    def disconnect(self) -> None:
        """Take them away, while the worker runs no task of a test."""
        for signal, entry in self._added:
            _replace(signal, [each for each in signal.receivers if each is not entry])

    def connect(self) -> None:
        """Put them back."""
        for signal, entry in self._added:
            if not any(each is entry for each in signal.receivers):
                _replace(signal, [*signal.receivers, entry])


def _replace(signal: Signal, receivers: list[Any]) -> None:
    """In place: the tracers of tasks hold the list itself."""
    with signal.lock:
        signal.receivers[:] = receivers
        signal.sender_receivers_cache.clear()


class Controller(WorkController):
    """Celery's, which sends the signals of a start that ``celery worker`` sends.

    They stand in `celery.apps.worker.Worker`, beside what that does to the process: its title,
    its standard output, its handlers of the operating system's signals.
    """

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


@contextmanager
def booted(app: Celery, consumer: Any) -> Iterator[None]:
    """Start a worker without thread and controller, as far as the project has a part in it.

    Args:
        app: the project's app.
        consumer: its consumer, whose ``controller`` stands for the worker.
    """
    if not (app.steps["worker"] or any(map(_of_project, _OF_A_START))):
        yield
        return
    worker, receivers = consumer.controller, BootReceivers()
    with ExitStack() as stack:
        stack.callback(receivers.disconnect)
        with receivers.noted():
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
        steps.clear()  # they live as long as the worker: receivers may be held by them alone


def _stop(step: Any, worker: Any) -> None:
    if isinstance(step, bootsteps.StartStopStep):
        step.stop(worker)


def _of_project(signal: Signal) -> list[Any]:
    return [each for each in signal.receivers if not _of_fixup(each)]


def _of_fixup(entry: Any) -> bool:
    """Whether it is Celery's own for Django, which lets a worker close each connection it finds."""
    return isinstance(getattr(_receiver(entry), "__self__", None), DjangoFixup)


def _of_import(entry: Any, modules: set[str]) -> bool:
    """Whether it is a function of a module that was imported meanwhile, once in a process.

    Args:
        entry: of a signal.
        modules: those that were imported before.
    """
    receiver = _receiver(entry)
    return isinstance(receiver, FunctionType) and receiver.__module__ not in modules


def _receiver(entry: Any) -> Any:
    return entry[1]() if isinstance(entry[1], ReferenceType) else entry[1]


@contextmanager
def _without_fixups(signal: Signal) -> Iterator[None]:
    fixups = [each for each in signal.receivers if _of_fixup(each)]
    _replace(signal, _of_project(signal))
    try:
        yield
    finally:
        _replace(signal, [*fixups, *signal.receivers])
