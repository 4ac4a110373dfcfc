"""The pools of an embedded worker, and how a task in one of them waits for another task.

Celery lets the class of the pool be chosen (``worker_pool``): these are Celery's own pools, which
also know what they are busy with.

A task may wait for another one if Celery's ``allow_join_result`` lets it. Under prefork another
process runs that one. With a single thread, the waiting task itself keeps taking messages, and a
second thread runs them. With several threads, another thread runs it; if all of them wait, none is
left to run anything, and the task fails at once.
"""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final

from celery.concurrency import get_implementation, solo, thread
from celery.exceptions import WorkerLostError

from pytest_djcelery.clock import Deadline
from pytest_djcelery.errors import WorkerError
from pytest_djcelery.recording.losses import ProcessGoneError, lose_process
from pytest_djcelery.recording.task_threads import enter_worker_thread
from pytest_djcelery.workers.applying import apply_as_prefork, exits

if TYPE_CHECKING:
    from celery.concurrency.base import BasePool
    from celery.worker import WorkController

    from pytest_djcelery.messages.journal import Journal
    from pytest_djcelery.recording.task_surroundings import Surroundings

#: kombu's kinds of brokers whose connection can be read while one of its messages is handled.
_READ_INSIDE: Final = ("memory", "amqp", "filesystem")
_POLL: Final = 0.05  # seconds between looks at what other threads have done


class InHand:
    """The tasks that a pool has taken and hasn't finished, including their clean-up.

    Celery's own list of requests doesn't show that: it drops a request before the thread that ran
    it has closed its database connections, and drops one attempt at a task together with the next,
    which has the same id.

    Args:
        started: Called in the thread that runs a task, with its id, before the task begins.
        after_task: Called in the thread that ran a task, before the task counts as done.
        wake: Called when the task counts as done.
        surroundings: What tasks are run in.
    """

    def __init__(
        self,
        *,
        started: Callable[[str], None],
        after_task: Callable[[], None],
        wake: Callable[[], None],
        surroundings: Surroundings,
    ) -> None:
        self._started = started
        self._after_task = after_task
        self._wake = wake
        #: Has the worker lose its connection to the broker, and returns the error that says so.
        self.host_lost: Callable[[], Exception]
        self._surroundings = surroundings
        self._lock = threading.Lock()
        self._ids: Counter[str | None] = Counter()
        self.count = 0
        #: How many of them wait for the result of another.
        self.waiting = 0
        #: The threads of a single-threaded pool: the worker's own, which takes the messages, and
        #: another one for each task that waits for a result.
        self.taking_turns: list[threading.Thread] = []

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._ids

    def take(self, task_id: str | None) -> None:
        """Count one more."""
        with self._lock:
            self.count += 1
            self._ids[task_id] += 1

    def run(
        self,
        task_id: str | None,
        target: Callable[..., Any],
        *args: Any,
        passes: Callable[[BaseException], bool],
        **kwargs: Any,
    ) -> None:
        """Run a task that has been taken, by `apply_as_prefork`, and let go of it."""
        try:
            if task_id is not None:  # else it is a whole batch
                self._started(task_id)
            target = partial(self._surroundings.run, target)
            apply_as_prefork(target, *args, passes=passes, **kwargs)
        finally:
            try:
                self._after_task()
            finally:
                self.let_go(task_id)

    def let_go(self, task_id: str | None) -> None:
        """Count one less, and wake."""
        with self._lock:
            self.count -= 1
            self._ids[task_id] -= 1
            if not self._ids[task_id]:
                del self._ids[task_id]
        self._wake()

    @contextmanager
    def one_waits(self) -> Iterator[int]:
        """Enter while the calling thread's task waits for another; yields how many tasks wait."""
        with self._lock:
            self.waiting += 1
            waiting = self.waiting
        try:
            yield waiting
        finally:
            with self._lock:
                self.waiting -= 1


class SoloPool(solo.TaskPool):
    """Runs tasks in the worker's own thread, or in another one while the task there waits."""

    in_hand: ClassVar[InHand]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.on_apply = self._apply

    def _apply(self, *args: Any, **options: Any) -> None:
        task_id = options.get("correlation_id")
        self.in_hand.take(task_id)
        if self.in_hand.waiting:
            self._run_beside(task_id, *args, **options)
        else:
            self._run(task_id, *args, **options)

    def _run(self, task_id: str | None, *args: Any, **options: Any) -> None:
        try:
            self.in_hand.run(task_id, *args, passes=exits, **options)
        except ProcessGoneError:
            if self.in_hand.waiting:  # for this one: a task of the same lost worker
                raise lose_process(host=True) from None
            raise self.in_hand.host_lost() from None
        except (SystemExit, KeyboardInterrupt) as error:
            # Unchanged, it would look like a request to shut the worker down.
            raise WorkerLostError(repr(error)) from error

    def _run_beside(self, task_id: str | None, *args: Any, **options: Any) -> None:
        """Run a task in another thread, so that it shares no connection, as under prefork."""
        errors: list[BaseException] = []

        def run() -> None:
            enter_worker_thread(self.app)
            try:
                self._run(task_id, *args, **options)
            except BaseException as error:  # noqa: BLE001 - raised below
                errors.append(error)

        helper = threading.Thread(target=run, name="celery-worker-beside", daemon=True)
        self.in_hand.taking_turns.append(helper)
        try:
            helper.start()
            helper.join()  # as long as the task takes, as with any other task of this pool
        finally:
            self.in_hand.taking_turns.remove(helper)
        for error in errors:
            raise error


class ThreadPool(thread.TaskPool):
    """Runs tasks in threads that know the app."""

    in_hand: ClassVar[InHand]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.executor = ThreadPoolExecutor(
            max_workers=self.limit,
            thread_name_prefix="celery-pool",
            initializer=enter_worker_thread,
            initargs=(self.app,),
        )

    def on_apply(
        self,
        target: Any,
        args: Any = None,
        kwargs: Any = None,
        **options: Any,
    ) -> Any:
        task_id = options.get("correlation_id")
        self.in_hand.take(task_id)
        try:
            future = self.executor.submit(
                self._run,
                task_id,
                target,
                args,
                kwargs,
                passes=lambda _: False,  # no error of a task ends a thread of this pool
                **options,
            )
        except BaseException:
            self.in_hand.let_go(task_id)
            raise
        return thread.ApplyResult(future)

    def _run(self, *args: Any, **options: Any) -> None:
        try:
            self.in_hand.run(*args, **options)
        except ProcessGoneError:
            self.in_hand.host_lost()


def leave_behind(thread: threading.Thread) -> None:
    """Let the process end even if ``thread`` still runs a task.

    Pool threads are daemons, like the worker's thread that starts them, but `concurrent.futures`
    joins them at exit anyway. Private API, checked on Python 3.10 to 3.13.
    """
    from concurrent.futures import thread as futures_thread

    queues: Any = futures_thread._threads_queues
    queues.pop(thread, None)


_OURS: dict[type[BasePool], type[BasePool]] = {solo.TaskPool: SoloPool, thread.TaskPool: ThreadPool}


def pool_class(pool: Any, in_hand: InHand) -> type[BasePool] | None:
    """The pool for a ``celery_worker_pool`` value; ``None`` if it can't be embedded."""
    ours = _OURS.get(get_implementation(pool))
    return ours and type(ours.__name__, (ours,), {"in_hand": in_hand})


def wait_in_task(
    controller: WorkController,
    in_hand: InHand,
    journal: Journal,
    done: Callable[[], bool],
    timeout: float,
) -> bool:
    """Wait in a task until ``done()``, and return whether that was in time.

    Args:
        controller: The worker.
        in_hand: What its pool is busy with.
        journal: The journal of the test, which wakes the wait.
        done: Whether all results are there.
        timeout: Seconds.

    Raises:
        WorkerError: No thread is left that could run what is waited for.
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
    """Take messages from inside a task that keeps the worker's thread from its loop."""
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
