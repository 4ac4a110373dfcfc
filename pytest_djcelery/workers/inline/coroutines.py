"""Where the tasks that a coroutine publishes may use the database.

Django refuses the ORM to a coroutine, and runs it in another thread by `sync_to_async`: the
test's own where Django itself has started the event loop, a thread for all such code elsewhere.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future

from pytest_djcelery.errors import InlineError
from pytest_djcelery.recording.task_threads import in_coroutine, serves_request


def run_for_test(function: Callable[[], object], *, home: threading.Thread, timeout: float) -> None:
    """Run a function where the code of a test may use the test's database.

    In a thread that the code under test has started it is not run; it is in one that serves a
    request to the live server, which the test waits for.

    Args:
        function: what to run; it is over when this returns.
        home: the thread of the test.
        timeout: seconds to wait for the thread of a coroutine's ORM to be free.

    Raises:
        InlineError: when that is not free in time.
    """
    __tracebackhide__ = True
    if in_coroutine():
        _run_beside(function, timeout)
    elif threading.current_thread() is home or _runs_for_coroutines() or serves_request():
        function()


def _run_beside(function: Callable[[], object], timeout: float) -> None:
    """Run a function in the thread that `sync_to_async` runs it in, and block until it is over.

    The first step of what `sync_to_async` returns hands the function over to the thread; all that
    comes after would wait in the event loop, which a publish can't.
    """
    __tracebackhide__ = True
    from asgiref.sync import sync_to_async

    begun, outcome = threading.Event(), Future[None]()

    def call() -> None:
        if not outcome.set_running_or_notify_cancel():
            return
        begun.set()
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - raised in the coroutine
            outcome.set_exception(error)
        else:
            outcome.set_result(None)

    handed_over = sync_to_async(call)()
    try:
        handed_over.send(None)
        if not begun.wait(timeout) and outcome.cancel():
            msg = (
                f"The thread in which Django runs the ORM for a coroutine is not free after "
                f"{timeout:g} s, so celery_inline can't deliver there what was published. "
                "Without auto=True, deliver later: await celery_inline.arun()"
            )
            raise InlineError(msg)
        outcome.result()
    finally:
        handed_over.close()


def _runs_for_coroutines() -> bool:
    """Whether `sync_to_async` has run code in the calling thread.

    Private API (``SyncToAsync.threadlocal``), checked on asgiref 3.6 to 3.13.
    """
    sync = sys.modules.get("asgiref.sync")
    return sync is not None and hasattr(sync.SyncToAsync.threadlocal, "main_event_loop")
