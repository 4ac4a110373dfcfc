"""A task of the embedded worker that waits for another, as Celery's ``allow_join_result`` lets it.

Under prefork another process runs what it waits for. With one thread, that thread goes on taking
messages from inside the task that waits, and a second one runs them. With several threads, another
one does; where all of them wait, none is left to run anything, and the task fails at once.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from celery.concurrency import thread

from pytest_djcelery.clock import Deadline
from pytest_djcelery.errors import WorkerError

if TYPE_CHECKING:
    from celery.worker import WorkController

    from pytest_djcelery.messages.journal import Journal
    from pytest_djcelery.workers.embedded.pools import InHand

#: kombu's kinds of broker whose connection can be read again while a message of it is handled.
_READ_INSIDE: Final = ("memory", "amqp", "filesystem")
_POLL: Final = 0.05  # seconds, for what other threads do


def wait_in_task(
    controller: WorkController,
    in_hand: InHand,
    journal: Journal,
    done: Callable[[], bool],
    timeout: float,
) -> bool:
    """Wait in a task until ``done()``; returns whether it was in time.

    Args:
        controller: the worker.
        in_hand: what its pool is busy with.
        journal: of the test; it wakes the wait.
        done: whether all results are there.
        timeout: seconds.

    Raises:
        WorkerError: when no thread is left that could run what is waited for.
    """
    if done():
        return True
    with in_hand.one_waits() as waiting:
        if threading.current_thread() in in_hand.taking_turns:
            return _serve_until(controller, done, timeout)
        limit = controller.pool.limit or 1
        if isinstance(controller.pool, thread.TaskPool) and waiting >= limit and not done():
            raise WorkerError(_no_thread_left(limit))
        return journal.wait_until(done, timeout)


def _serve_until(controller: WorkController, done: Callable[[], bool], timeout: float) -> bool:
    """Take messages from inside a task that keeps the thread from its loop."""
    connection = controller.consumer.connection
    kind = connection.transport.driver_type
    if kind not in _READ_INSIDE:
        raise WorkerError(_no_second_read(kind))
    deadline = Deadline(timeout)
    while not done():
        if deadline.passed:
            return False
        controller.consumer.perform_pending_operations()
        with suppress(socket.timeout, TimeoutError):
            connection.drain_events(timeout=min(_POLL, deadline.remaining))
    return True


def _no_thread_left(limit: int) -> str:
    threads = "The one thread" if limit == 1 else f"Each of the {limit} threads"
    return (
        f"{threads} of celery_worker runs a task that waits for the result of another, and none "
        "is left to run that one. A worker with as few processes would wait for ever.\n"
        f"Give it more: celery_worker_parameters = {{'concurrency': {limit + 1}}}; or chain the "
        "tasks, so that none waits inside another."
    )


def _no_second_read(kind: str) -> str:
    return (
        "celery_worker runs tasks in its one thread, and that runs a task which waits for the "
        f"result of another. Over {kind!r} no second message can be taken meanwhile.\n"
        "Give it a second thread: celery_worker_pool 'threads' with celery_worker_parameters = "
        "{'concurrency': 2}; or use djcelery_broker = memory."
    )
