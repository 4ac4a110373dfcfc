"""Which threads run tasks, and what Celery keeps for the process but belongs to those threads."""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery import Celery
from pytest_djcelery.patching import patches

# The modules that import the two functions of `join_check_per_thread` by name.
_IMPORTING = (
    "celery._state", "celery.backends.redis", "celery.backends.rpc",
    "celery.concurrency.prefork", "celery.contrib.testing.worker", "celery.result",
    "celery.worker.components",
)  # fmt: skip


class _Local(threading.local):
    worker = False
    serving = False  # an HTTP request
    running = 0  # tasks that run in place, in a thread that is not a worker's
    join_will_block: bool | None = None  # None: the process's flag applies


_local = _Local()


def enter_worker_thread(app: Celery | None) -> None:
    """Mark the calling thread as one that runs tasks, and make ``app`` its ``current_app``.

    Celery's current app belongs to the thread: without it ``shared_task`` would resolve to a
    default app that has no broker.
    """
    _local.worker = True
    _local.join_will_block = True
    if app is not None:
        app.set_current()


def in_worker_thread() -> bool:
    """Whether the calling thread runs tasks of an embedded worker."""
    return _local.worker


def in_task() -> bool:
    """Whether the calling thread runs a task, or belongs to a worker."""
    return _local.worker or _local.running > 0


def in_coroutine() -> bool:
    """Whether the calling thread runs an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def serves_request() -> bool:
    """Whether the calling thread serves an HTTP request, as noted by `requests_noted`."""
    return _local.serving


@contextmanager
def requests_noted() -> Iterator[None]:
    """Within the ``with``, note which threads serve requests.

    The threads of Django's live server can't be recognized in any other way.
    """
    from django.core.signals import request_finished, request_started

    def begin(**_: Any) -> None:
        _local.serving = True

    def end(**_: Any) -> None:
        _local.serving = False

    request_started.connect(begin, weak=False)
    request_finished.connect(end, weak=False)
    try:
        yield
    finally:
        request_started.disconnect(begin)
        request_finished.disconnect(end)


_in_place: Counter[int] = Counter()  # running tasks, by the thread they run in


class TaskInPlace:
    """Entered around a task that runs in place, eagerly or inline, in the calling thread."""

    def __enter__(self) -> None:
        _in_place[threading.get_ident()] += 1

    def __exit__(self, *_: object) -> None:
        _in_place[threading.get_ident()] -= 1


def beside_task() -> bool:
    """Whether a task is running in place in another thread than this one, and none in this one."""
    running = [ident for ident, count in list(_in_place.items()) if count]
    return bool(running) and threading.get_ident() not in running


class RunningTask:
    """Entered around a task that runs in place: meanwhile the thread passes for a worker's."""

    def __enter__(self) -> None:
        self._before = _local.join_will_block
        _local.running += 1
        _local.join_will_block = True

    def __exit__(self, *_: object) -> None:
        _local.running -= 1
        _local.join_will_block = self._before


@patches(
    "celery._state:task_join_will_block",
    "celery._state:_set_task_join_will_block",
    why="Celery keeps the flag for the whole process, because a worker is one; here each thread "
    "has its own.",
    checked_on="Celery 5.4 to 5.7",
)
@contextmanager
def join_check_per_thread() -> Iterator[None]:
    """Have Celery refuse ``result.get()`` in tasks, as in a prefork worker, and only there.

    Private API: Celery keeps the flag in ``celery._state`` for the whole process, because a
    worker is one. Modules import its two functions by name, so they are replaced in each of these
    modules; in one that is imported later ours stay, and call Celery's own.
    Checked on Celery 5.4 to 5.7.
    """
    from celery import _state

    get, put = _state.task_join_will_block, _state._set_task_join_will_block

    def task_join_will_block() -> bool:
        own = _local.join_will_block
        return bool(get()) if own is None else own

    def _set_task_join_will_block(blocks: bool) -> None:
        if in_task():
            _local.join_will_block = blocks
        else:
            put(blocks)

    originals = {"task_join_will_block": get, "_set_task_join_will_block": put}
    ours = {
        "task_join_will_block": task_join_will_block,
        "_set_task_join_will_block": _set_task_join_will_block,
    }
    _replace(originals, ours)
    try:
        yield
    finally:
        _replace(ours, originals)


def _replace(old: dict[str, Any], new: dict[str, Any]) -> None:
    for module in filter(None, map(sys.modules.get, _IMPORTING)):
        for name, function in old.items():
            if vars(module).get(name) is function:
                setattr(module, name, new[name])


def stack_of(thread: threading.Thread) -> str:
    """Where a thread is now, as a traceback reads."""
    frame = sys._current_frames().get(thread.ident or -1)
    if frame is None:
        return f"  thread {thread.name!r} has ended\n"
    return "".join(traceback.format_stack(frame))
