"""The tracers that Celery builds for tasks, and who listens to what they log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pytest_djcelery.patching import SharedChange

if TYPE_CHECKING:
    from celery import Celery

_LOGGERS = [logging.getLogger(name) for name in ("celery.worker.strategy", "celery.app.trace")]
_listening = SharedChange()


def listened_to() -> bool:
    """Whether anyone listens to what a worker logs of the tasks that it receives and runs."""
    for logger in _LOGGERS:  # noqa: SIM110 - `any()` takes twice as long
        if logger.isEnabledFor(logging.INFO):
            return True
    return False


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
