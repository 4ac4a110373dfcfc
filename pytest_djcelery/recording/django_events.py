"""Records what Django does: tasks that `django.tasks` (6.0) enqueues, requests that it answers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from pytest_djcelery import locations
from pytest_djcelery.messages.django_tasks import (
    Enqueueing,
    enqueued_by,
    enqueueing,
)
from pytest_djcelery.messages.events import Enqueued, RequestFinished, RequestRaised, RequestStarted
from pytest_djcelery.messages.task_message import DjangoCall
from pytest_djcelery.patching import Current, last_receivers, patches, replaced, standing_while
from pytest_djcelery.project.after_import import entered_after_import
from pytest_djcelery.transactions.hooks import WatchedHook

if TYPE_CHECKING:
    from types import FrameType

    from pytest_djcelery.messages.events import Note
    from pytest_djcelery.messages.journal import Journal
    from pytest_djcelery.recording.task_signals import EventLog


def enqueues_recorded(journal: Current[Any]) -> AbstractContextManager[None]:
    """Within the ``with``, link messages with the Django tasks that they were sent for."""
    return entered_after_import("django.tasks.base", lambda: _enqueue_replaced(journal))


@patches(
    "django.tasks.base:Task.enqueue",
    "django.tasks.base:Task.aenqueue",
    "django.tasks.base:Task.call",
    "django.tasks.base:Task.acall",
    why="What a backend publishes belongs to the task that it was called for. The signal "
    "task_enqueued is sent by the backends themselves, afterwards and not by all.",
    checked_on="Django 6.0 and 6.1",
)
@contextmanager
def _enqueue_replaced(current: Current[Any]) -> Iterator[None]:
    from django.tasks.base import Task

    enqueue_now, enqueue_later = Task.enqueue, Task.aenqueue
    call_now, call_later = Task.call, Task.acall

    def enqueue(self: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        journal: EventLog | None = current.now
        if journal is None:
            return enqueue_now(self, *args, **kwargs)
        with _recorded(journal, self, args, kwargs, sys._getframe(1)) as returned:
            return returned(enqueue_now(self, *args, **kwargs))

    async def aenqueue(self: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        journal: EventLog | None = current.now
        if journal is None:
            return await enqueue_later(self, *args, **kwargs)
        with _recorded(journal, self, args, kwargs, sys._getframe(1)) as returned:
            return returned(await enqueue_later(self, *args, **kwargs))

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        with enqueued_by(None):
            return call_now(self, *args, **kwargs)

    async def acall(self: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        with enqueued_by(None):
            return await call_later(self, *args, **kwargs)

    with replaced(Task, enqueue=enqueue, aenqueue=aenqueue, call=call, acall=acall):
        yield


@contextmanager
def _recorded(
    journal: EventLog, task: Any, args: Any, kwargs: Any, caller: FrameType | None
) -> Iterator[Any]:
    """Enter around a call of ``enqueue()``; yields a function that takes what it returned."""
    __tracebackhide__ = True
    outer = enqueueing()
    if outer is not None and outer.call.path == task.module_path:
        yield lambda result: result  # the outer of two patches, a test's and the run's, records it
        return
    running = Enqueueing(
        call=DjangoCall(
            enqueued=uuid4().hex,
            path=task.module_path,
            args=args,
            kwargs=kwargs,
            priority=task.priority,
            queue_name=task.queue_name,
            backend=task.backend,
            run_after=task.run_after,
            location=locations.of_caller(caller, until=WatchedHook.__call__.__code__),
        ),
        function=task.func,
    )

    def returned(result: Any) -> Any:
        backend = type(task.get_backend())
        journal.append(
            Enqueued(
                id=running.call.enqueued,
                path=running.call.path,
                backend=f"{backend.__module__}.{backend.__qualname__}",
                result=str(getattr(result, "id", "")),
                hooks=tuple(running.hooks),
                location=running.call.location,
            )
        )
        return result

    with enqueued_by(running):
        yield returned


# Records the requests that Django answers in a test, for the timeline ---------------------


@contextmanager
def requests_recorded(current: Current[Journal]) -> Iterator[None]:
    """Within the ``with``, note when Django begins to answer a request, and when it is done.

    Args:
        current: The journal where it is noted.
    """
    from django.core import signals

    note = partial(_note, current)

    def started(environ: Any = None, scope: Any = None, **_: Any) -> None:
        if current.now is None:
            return
        if environ is not None:  # WSGI
            method, path = environ.get("REQUEST_METHOD"), environ.get("PATH_INFO")
        else:
            method, path = (scope or {}).get("method"), (scope or {}).get("path")
        note(RequestStarted(method=str(method), path=str(path), location=locations.of_test(None)))

    def raised(**_: Any) -> None:
        if (error := sys.exc_info()[1]) is not None:
            note(RequestRaised(error=error))

    def finished(**_: Any) -> None:
        note(RequestFinished())

    receivers = {
        signals.request_started: started,
        signals.got_request_exception: raised,
        signals.request_finished: finished,
    }
    for signal, receiver in receivers.items():
        signal.connect(receiver, weak=False)
    standing_while(last_receivers(receivers))
    try:
        yield
    finally:
        for signal, receiver in receivers.items():
            signal.disconnect(receiver)


def _note(current: Current[Journal], what: Note) -> None:
    if (journal := current.now) is not None:
        journal.note(what)
