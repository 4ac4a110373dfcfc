"""A worker's process that is lost in the middle of a run, as a signal 9 would end it.

In one process nothing can be killed without the test. What comes nearest is an exception that
leaves the body of the task through everything that is open there: blocks are rolled back, and
their hooks discarded. From then on the thread runs nothing of that process: Celery sends no
``task_postrun``, and the pool reports to the worker what it would report of a dead child.

A child that the hard time limit ends is not killed: the worker reports the timeout, and ends the
child by ``SIGTERM``, which raises ``SystemExit`` there. So it sends ``task_postrun``, after all.

What is left of the difference: a ``finally`` of the project runs as the exception passes, where a
killed process would have ended; under a hard limit it runs before the worker's report, not after.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

from pytest_djcelery.messages.descriptions import message_text
from pytest_djcelery.messages.events import WorkerLost
from pytest_djcelery.patching import SharedChange, patches, replaced
from pytest_djcelery.recording.task_bodies import body_wrapped

if TYPE_CHECKING:
    from pytest_djcelery.messages.journal import Journal
    from pytest_djcelery.messages.sent_task import SentTask


_shared: Final = SharedChange()


class ProcessGoneError(BaseException):
    """Leaves the body of a task whose process is gone.

    Attributes:
        host: Whether the whole worker is gone, with its connection to the broker.
        timed_out: Whether the worker itself has ended it, by the hard time limit.
    """

    def __init__(self, *, host: bool, timed_out: bool) -> None:
        super().__init__("the process that runs this task is gone")
        self.host = host
        self.timed_out = timed_out
        self._postruns: list[Callable[[], object]] = []

    def send_later(self, task: Any, postrun: Callable[[], object]) -> None:
        """Keep a ``task_postrun`` until the worker has reported the timeout."""
        request = task.request_stack.top

        def send() -> None:
            task.request_stack.push(request)
            try:
                postrun()
            finally:
                task.request_stack.pop()

        self._postruns.append(send)

    def end(self) -> None:
        """Do what the child does as it ends."""
        while self._postruns:
            self._postruns.pop(0)()


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """When the worker is lost in a run, and how much of it.

    ``at`` is ``"start"``, before the body of the task, or ``"end"``, after it and before its
    outcome is stored. With ``host`` the whole worker is gone, otherwise the one process that runs
    the task.
    """

    at: Literal["start", "end"]
    host: bool = False


class Process:
    """The process that a run of a task stands for."""

    __slots__ = ("gone",)

    def __init__(self) -> None:
        self.gone: ProcessGoneError | None = None


class _Local(threading.local):
    process: Process | None = None


_local = _Local()
#: The same one, for the other threads that a task uses, such as those of `async_to_sync`.
_process: ContextVar[Process | None] = ContextVar("djcelery_process", default=None)


class RunningProcess:
    """Entered by a pool around a run: the process that the calling thread then stands for."""

    __slots__ = ("_before", "process")

    def __init__(self) -> None:
        self.process = Process()

    def __enter__(self) -> None:
        self._before = _local.process
        _local.process = self.process

    def __exit__(self, *_: object) -> None:
        _local.process = self._before


def lost_process() -> ProcessGoneError | None:
    """How the process whose code runs here was lost, if it was."""
    process = _local.process or _process.get()
    return None if process is None else process.gone


def lose_process(*, host: bool = False, timed_out: bool = False) -> ProcessGoneError:
    """Have the process that runs this code be gone, from now on; raise what is returned.

    To be called in `body_in_process`, within `losses_possible`.

    Args:
        host: Whether the whole worker is gone.
        timed_out: Whether the worker itself has ended it, by the hard time limit.
    """
    gone = ProcessGoneError(host=host, timed_out=timed_out)
    process = _process.get() or _local.process
    if process is not None:
        process.gone = gone
    return gone


def body_in_process(body: Callable[[], Any]) -> Any:
    """Run the body of a task, in which the process may be lost, and let nothing keep it alive."""
    __tracebackhide__ = True
    token = _process.set(_local.process)
    try:
        value = body()
    except BaseException:
        if (gone := lost_process()) is not None:
            raise gone from None
        raise
    finally:
        _process.reset(token)
    if (gone := lost_process()) is not None:  # and the task has caught it
        raise gone
    return value


@contextmanager
def losses_possible() -> Iterator[None]:
    """Enter where processes may be lost: Celery then reports nothing from inside a lost one."""
    with _shared.used(_postrun_of_the_living()):
        yield


@patches(
    "celery.app.trace:send_postrun",
    why="A killed process sends no task_postrun, and one that has timed out sends it after the "
    "worker's report; a tracer sends it whatever leaves the task.",
    checked_on="Celery 5.4 to 5.7",
)
@contextmanager
def _postrun_of_the_living() -> Iterator[None]:
    """Send no ``task_postrun`` of a process that is gone; at its end, if that is a timeout.

    Private API (the name by which ``celery.app.trace`` calls the signal), checked on Celery 5.4 to
    5.7.
    """
    from celery.app import trace

    send = trace.send_postrun

    def send_postrun(sender: Any, **kwargs: Any) -> Any:
        gone = lost_process()
        if gone is None:
            return send(sender=sender, **kwargs)
        if gone.timed_out:
            gone.send_later(sender, partial(send, sender=sender, **kwargs))
        return None

    with replaced(trace, send_postrun=send_postrun):
        yield


@contextmanager
def lost_in_run(task: Any, loss: Loss) -> Iterator[None]:
    """Lose the process in the run of a task that is made within the ``with``."""

    def around(body: Callable[[], Any], _args: object, _kwargs: object) -> Any:
        if task.request.called_directly:
            return body()
        return body_in_process(lambda: body_lost(body, loss))

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


# Tasks that will never have an outcome: the worker of one was lost with its message -------

_REASON: Final = (
    "its worker was lost after the message had been acknowledged, so no worker gets it again"
)


def why_lost(journal: Journal, task_ids: Collection[str], since: int = 0) -> str | None:
    """Return why one of these tasks will never have an outcome, if that is for a lost worker.

    Args:
        journal: The journal of the test.
        task_ids: The ids of the tasks that are waited for.
        since: The position in the journal from which losses count.
    """
    for lost in journal.events(WorkerLost, since):
        if not lost.for_good:
            continue
        sent = journal.sent(lost.task_id)
        name = f"{message_text(sent[-1])} [{lost.task_id}]" if sent else lost.task_id
        if lost.task_id in task_ids:
            return f"{name} will never be ready: {_REASON}."
        for waiting in set(task_ids).intersection(_that_follow(sent[-1]) if sent else ()):
            return f"{waiting} will never be ready: it waits for {name}, and {_REASON}."
    return None


def _that_follow(sent: SentTask) -> Iterator[str]:
    """The ids of the tasks that run after a message: its links, its chain, its chord's body."""
    for signature in (*sent.links, *sent.chain, sent.chord):
        yield from _ids(signature)


def _ids(signature: Any) -> Iterator[str]:
    if not isinstance(signature, Mapping):
        return
    options, kwargs = signature.get("options") or {}, signature.get("kwargs") or {}
    if options.get("task_id"):
        yield options["task_id"]
    for each in (options.get("chord"), kwargs.get("body")):
        yield from _ids(each)
    for several in (options.get("chain"), options.get("link"), kwargs.get("tasks")):
        for each in several if isinstance(several, (list, tuple)) else ():
            yield from _ids(each)
