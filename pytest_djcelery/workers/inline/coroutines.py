"""Runs the tasks that a coroutine publishes in a thread where they may use the database.

Django refuses to run the ORM in a coroutine; `sync_to_async` runs it in another thread: the test's
own if Django itself started the event loop, otherwise one thread for all such code.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from typing import Final

from pytest_djcelery.errors import InlineError
from pytest_djcelery.recording.task_threads import in_coroutine, serves_request, stack_of

_NOTHING: Final = nullcontext()


def run_for_test(
    function: Callable[[], object],
    *,
    home: threading.Thread,
    timeout: float,
    progress: Callable[[], int],
) -> None:
    """Run a function where the code of a test may use the test's database.

    It isn't run in a thread that the code under test has started, except in one that serves a
    request to the live server, for which the test waits.

    Args:
        function: What to run; it has ended when this returns.
        home: The test's thread.
        timeout: Seconds to wait until the thread of the ORM is free, and for each step of what
            runs there.
        progress: Returns how many steps have been made.

    Raises:
        InlineError: The thread isn't free in time, or makes no step in time.
    """
    __tracebackhide__ = True
    if in_coroutine():
        _run_beside(function, timeout, progress)
    elif threading.current_thread() is home or _runs_for_coroutines() or serves_request():
        function()


def _run_beside(
    function: Callable[[], object], timeout: float, progress: Callable[[], int]
) -> None:
    """Run a function in the thread that `sync_to_async` uses, and block until it is over.

    The first step of the coroutine that `sync_to_async` returns hands the function to that thread;
    its further steps would wait in the event loop, which a publish can't do.
    """
    __tracebackhide__ = True
    from asgiref.sync import sync_to_async

    begun, outcome = threading.Event(), Future[None]()
    runs_in: list[threading.Thread] = []

    def call() -> None:
        if not outcome.set_running_or_notify_cancel():
            return
        runs_in.append(threading.current_thread())
        begun.set()
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - raised in the coroutine
            outcome.set_exception(error)
        else:
            outcome.set_result(None)

    handed_over = sync_to_async(call)()
    try:
        # From Python 3.14 on, a function that has ended by now ends the coroutine at once.
        with suppress(StopIteration):
            handed_over.send(None)
        if not begun.wait(timeout) and outcome.cancel():
            msg = (
                f"The thread in which Django runs the ORM for a coroutine is not free after "
                f"{timeout:g} s, so celery_inline can't deliver there what was published. "
                "Without auto=True, deliver later: await celery_inline.arun()"
            )
            raise InlineError(msg)
        seen = progress()
        while not wait([outcome], timeout).done:
            if seen == progress():
                raise InlineError(_no_progress_text(runs_in[0], timeout))
            seen = progress()
        outcome.result()
    finally:
        handed_over.close()


def _no_progress_text(thread: threading.Thread, timeout: float) -> str:
    return (
        f"A task that celery_inline delivers at a publish in a coroutine has not ended within "
        f"{timeout:g} s. The event loop stands still until then: a task that waits for it waits "
        "for ever.\nWithout auto=True, deliver later: await celery_inline.arun()\n"
        f"The task is at:\n{stack_of(thread)}"
    )


def event_loop_hidden() -> AbstractContextManager[None]:
    """Hide the test's event loop from a task, since a worker has none.

    In the thread that `sync_to_async` uses, ``async_to_sync`` would run the task's coroutines in
    the test's loop, which waits for the task.

    Private API (``SyncToAsync.threadlocal``), checked on asgiref 3.6 to 3.13.
    """
    return _running_loop_hidden() if _runs_for_coroutines() else _NOTHING


@contextmanager
def _running_loop_hidden() -> Iterator[None]:
    from asgiref.sync import SyncToAsync

    known = SyncToAsync.threadlocal
    with ExitStack() as stack:
        for name in ("main_event_loop", "task_context"):
            if hasattr(known, name):
                stack.callback(setattr, known, name, getattr(known, name))
                setattr(known, name, None)
        yield


def _runs_for_coroutines() -> bool:
    """Whether `sync_to_async` has run code in the calling thread.

    Private API (``SyncToAsync.threadlocal``), checked on asgiref 3.6 to 3.13.
    """
    sync = sys.modules.get("asgiref.sync")
    return sync is not None and hasattr(sync.SyncToAsync.threadlocal, "main_event_loop")
