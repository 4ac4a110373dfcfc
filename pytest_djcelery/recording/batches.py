"""Tasks of celery-batches, which hold their messages back and run many at once.

A message of theirs is taken, held in a buffer of the task, and run with others when enough have
come or some time has passed. Celery knows nothing of it meanwhile.

Private API (``Batches._buffer``, ``_pending``, ``_count`` and ``_tref``), checked on celery-batches
0.8 to 0.11.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import count
from queue import Empty, Queue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery import Celery


def is_batch(task: Any) -> bool:
    """Whether a task takes its messages by the batch."""
    module = sys.modules.get("celery_batches")  # of the project, if it has it
    return module is not None and isinstance(task, module.Batches)


def requests_of(args: Any) -> list[Any]:
    """The requests of a batch, by the arguments that it was run with; none for another task's."""
    module = sys.modules.get("celery_batches")
    if module is None or len(args or ()) != 1 or not isinstance(args[0], list):
        return []
    return [each for each in args[0] if isinstance(each, module.SimpleRequest)]


def holding(app: Celery, within: float | None = None) -> dict[Any, int]:
    """The tasks that hold messages which are due, and how many.

    Args:
        app: the project's app.
        within: of those only that run them within so many seconds.
    """
    return {
        task: task._buffer.qsize()
        for task in _batches(app)
        if task._buffer.qsize() and (within is None or task.flush_interval <= within)
    }


def forget_held(app: Celery) -> None:
    """Let each task hold nothing any longer: what it has is of a test that is over."""
    for task in _batches(app):
        for request in (*_taken(task._buffer), *_taken(task._pending)):
            if not request.acknowledged:
                request.acknowledge()
        timer, task._tref = task._tref, None
        if timer is not None:
            timer.cancel()
        task._count = count(1)


def described(held: dict[Any, int]) -> list[str]:
    """What is held, a line for each task."""
    return [
        f"{task.name} holds {number} message(s) of a batch: it runs {task.flush_every} together, "
        f"or what there is after flush_interval={task.flush_interval:g} s."
        for task, number in held.items()
    ]


def _batches(app: Celery) -> list[Any]:
    if "celery_batches" not in sys.modules:
        return []
    # ``app.tasks`` would finalize
    return [task for task in list(app._tasks.values()) if is_batch(task)]


def _taken(buffer: Queue[Any]) -> Iterator[Any]:
    try:
        while True:
            yield buffer.get_nowait()
    except Empty:
        return
