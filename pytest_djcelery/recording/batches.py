"""Tasks of celery-batches, which collect their messages and run many at once.

Such a task takes a message, holds it in a buffer, and runs it with others when enough have arrived
or some time has passed. Until then Celery knows nothing of it.

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
    """Whether a task takes its messages in batches."""
    module = sys.modules.get("celery_batches")  # loaded only where the project uses it
    return module is not None and isinstance(task, module.Batches)


def requests_of(args: Any) -> list[Any]:
    """The requests of a batch, from the arguments it was run with; none for any other task."""
    module = sys.modules.get("celery_batches")
    if module is None or len(args or ()) != 1 or not isinstance(args[0], list):
        return []
    return [request for request in args[0] if isinstance(request, module.SimpleRequest)]


def holding(app: Celery, within: float | None = None) -> dict[Any, int]:
    """The tasks that hold messages which are due, with the number of them.

    Args:
        app: The project's app.
        within: Only tasks that run what they hold within this many seconds.
    """
    return {
        task: task._buffer.qsize()
        for task in _batches(app)
        if task._buffer.qsize() and (within is None or task.flush_interval <= within)
    }


def forget_held(app: Celery, *, acknowledge: bool = True) -> None:
    """Empty the buffer of each task: what it holds belongs to a test, or a worker, that is over.

    Args:
        app: The project's app.
        acknowledge: Whether nobody is to get its messages again.
    """
    for task in _batches(app):
        for request in (*_taken(task._buffer), *_taken(task._pending)):
            if acknowledge and not request.acknowledged:
                request.acknowledge()
        timer, task._tref = task._tref, None
        if timer is not None:
            timer.cancel()
        task._count = count(1)


def described(held: dict[Any, int]) -> list[str]:
    """What is held, one line for each task."""
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
