"""Stands around the body of a task: inside its ``run``, so that Celery sees what it would see.

A task's ``run`` is what Celery calls; with ``autoretry_for`` it is a wrapper of the project's
function, which is then ``_orig_run``. A tracer remembers ``run`` when it is built, and a worker
asks the task for its tracer at each message.

Private API (``Task._orig_run``, ``Task.__trace__``, ``celery.app.trace.build_tracer``), checked on
Celery 5.4 to 5.7.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Final

from pytest_djcelery.patching import patches, replaced
from pytest_djcelery.project.derived import info_logging_enabled

_MISSING: Final = object()

#: What stands around a body: it gets the body as a function without parameters, then the
#: arguments of the call, and returns what the task is to return.
Around = Callable[[Callable[[], Any], tuple[Any, ...], dict[str, Any]], Any]


@patches(
    "celery.app.task:Task.run",
    "celery.app.task:Task._orig_run",
    "celery.app.task:Task.__trace__",
    why="What happens to a run on purpose has to happen inside it: signals come before and after "
    "autoretry_for and a task class's __call__.",
    checked_on="Celery 5.4 to 5.7",
)
@contextmanager
def body_wrapped(task: Any, around: Around) -> Iterator[None]:
    """Within the ``with``, have a function called in place of the body of a task.

    Args:
        task: The task, as its app has registered it.
        around: The function.
    """
    name = "_orig_run" if hasattr(task, "_orig_run") else "run"
    body = getattr(task, name)

    @wraps(body)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        return around(lambda: body(*args, **kwargs), args, kwargs)

    with _tracer_renewed(task) as renew, replaced(task, **{name: wrapped}):
        renew()
        yield


@contextmanager
def _tracer_renewed(task: Any) -> Iterator[Callable[[], None]]:
    """Yield what makes the task's tracer call the present ``run``; it is put back afterwards.

    A task without a tracer gets one from the worker that runs it.
    """
    before = task.__trace__
    ours = None

    def renew() -> None:
        nonlocal ours
        if before is not None:
            ours = task.__trace__ = _tracer(task)
            ours.stands_for = before

    try:
        yield renew
    finally:
        # One that a worker has built meanwhile would call the wrapper for ever; but that worker
        # relies on there being one.
        task.__trace__ = before if task.__trace__ in {ours, None} else _tracer(task)


def tracer_apart(task: Any) -> Any:
    """The tracer of a task, as it is without `body_wrapped`."""
    return getattr(task.__trace__, "stands_for", task.__trace__)


def _tracer(task: Any) -> Any:
    from celery.app import trace

    app = task.app
    _, _, hostname = trace._localized or (None, None, None)
    with info_logging_enabled():
        return trace.build_tracer(task.name, task, app.loader, hostname, app=app)
