"""A worker's process that is lost in the middle of a run, as a signal 9 would end it.

In one process nothing can be killed without the test. What comes nearest is an exception that
leaves the body of the task through everything that is open there: blocks are rolled back, and
their hooks discarded. From then on the thread runs nothing of that process: Celery sends no
``task_postrun``, and the pool reports to the worker what it would report of a dead child.

What is left of the difference: a ``finally`` of the project runs as the exception passes, where a
killed process would have ended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, Literal

from pytest_djcelery.patching import SharedChange, patches, replaced
from pytest_djcelery.recording.task_bodies import body_wrapped

_shared: Final = SharedChange()


class ProcessGoneError(BaseException):
    """Leaves the body of a task whose process is gone.

    Attributes:
        host: Whether the whole worker is gone, with its connection to the broker.
    """

    def __init__(self, *, host: bool) -> None:
        super().__init__("the worker of this task is lost")
        self.host = host


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """When the worker is lost in a run, and how much of it.

    ``at`` is ``"start"``, before the body of the task, or ``"end"``, after it and before its
    outcome is stored. With ``host`` the whole worker is gone, otherwise the one process that runs
    the task.
    """

    at: Literal["start", "end"]
    host: bool = False


class _Local(threading.local):
    gone: ProcessGoneError | None = None


_local = _Local()


def is_gone() -> bool:
    """Whether the code that runs in this thread is that of a process which is gone."""
    return _local.gone is not None


def lose_process(*, host: bool) -> ProcessGoneError:
    """Have the process that this thread stands for be gone, from now on; raise what is returned.

    To be called in a run of a task, within `losses_possible`.

    Args:
        host: Whether the whole worker is gone.
    """
    _local.gone = ProcessGoneError(host=host)
    return _local.gone


def process_ends() -> ProcessGoneError | None:
    """Return how the process of this thread was lost, if it was; a new one takes its place.

    To be called by a pool after each run.
    """
    gone, _local.gone = _local.gone, None
    return gone


@contextmanager
def losses_possible() -> Iterator[None]:
    """Enter where processes may be lost: Celery then reports nothing from inside a lost one."""
    with _shared.used(_postrun_of_the_living()):
        yield


@patches(
    "celery.app.trace:send_postrun",
    why="A killed process sends no task_postrun; a tracer sends it whatever leaves the task.",
    checked_on="Celery 5.4 to 5.7",
)
@contextmanager
def _postrun_of_the_living() -> Iterator[None]:
    """Send no ``task_postrun`` of a process that is gone.

    Private API (the name by which ``celery.app.trace`` calls the signal), checked on Celery 5.4 to
    5.7.
    """
    from celery.app import trace

    send = trace.send_postrun

    def send_postrun(*args: Any, **kwargs: Any) -> Any:
        return None if is_gone() else send(*args, **kwargs)

    with replaced(trace, send_postrun=send_postrun):
        yield


@contextmanager
def lost_in_run(task: Any, loss: Loss) -> Iterator[None]:
    """Lose the process in the run of a task that is made within the ``with``."""

    def around(body: Callable[[], Any], _args: object, _kwargs: object) -> Any:
        if task.request.called_directly or is_gone():
            return body()
        return body_lost(body, loss)

    with ExitStack() as stack:
        stack.enter_context(losses_possible())
        stack.enter_context(body_wrapped(task, around))
        yield


def body_lost(body: Callable[[], Any], loss: Loss) -> Any:
    """Run the body of a task whose process is lost."""
    if loss.at == "end":
        with suppress(Exception):  # whatever it raised, nobody lives to store it
            body()
    raise lose_process(host=loss.host)
