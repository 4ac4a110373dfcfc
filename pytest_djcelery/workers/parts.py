"""Celery's own worker parts, given ears: they wake on an event where Celery polls.

Consumer, pools and timer are classes that Celery lets a worker be built from
(``worker_consumer``, ``worker_pool``, ``worker_timer``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

from celery.concurrency import get_implementation, solo, thread
from celery.concurrency.base import BasePool, apply_target
from celery.utils import timer2
from celery.worker.consumer import Consumer as CeleryConsumer

from pytest_djcelery.workers.threads import enter_worker_thread

_POLL = 0.05  # seconds


class _Strategies(dict[str, Any]):
    """Knows the tasks that a test registered after the worker had started."""

    def __init__(self, consumer: Any) -> None:
        super().__init__()
        self._consumer = consumer

    def __missing__(self, name: str) -> Any:
        app = self._consumer.app
        strategy = self[name] = app.tasks[name].start_strategy(app, self._consumer)
        return strategy


class Consumer(CeleryConsumer):
    """Comes back from its wait for messages when it has been given something to do."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.strategies = _Strategies(self)

    def call_soon(self, p: Any, *args: Any, **kwargs: Any) -> Any:
        pending = super().call_soon(p, *args, **kwargs)
        interrupt = getattr(getattr(self.connection, "transport", None), "interrupt", None)
        if interrupt is not None:
            interrupt()
        return pending

    def connect(self) -> Any:
        """Connect; a broker of another kind is asked often, since nothing can interrupt it."""
        connection = super().connect()
        if not hasattr(connection.transport, "interrupt"):
            drain_events = connection.drain_events

            def drain_events_often(timeout: float = _POLL, **options: Any) -> Any:
                return drain_events(timeout=min(timeout, _POLL), **options)

            connection.drain_events = drain_events_often
        return connection

    @property
    def has_pending_operations(self) -> bool:
        """Whether acknowledgements or callbacks wait for the loop."""
        return bool(self._pending_operations)


class SoloPool(solo.TaskPool):
    """Runs tasks in the worker's own thread, and tells when one is over."""

    on_task_done: ClassVar[Any]  # a static function of no arguments

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.on_apply = self._apply

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return apply_target(*args, **kwargs)
        finally:
            self.on_task_done()


class ThreadPool(thread.TaskPool):
    """Runs tasks in threads that know the app, and tells when one is over."""

    on_task_done: ClassVar[Any]  # a static function of no arguments

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.executor = ThreadPoolExecutor(
            max_workers=self.limit,
            thread_name_prefix="celery-pool",
            initializer=enter_worker_thread,
            initargs=(self.app,),
        )

    def on_apply(self, *args: Any, **kwargs: Any) -> Any:
        result = super().on_apply(*args, **kwargs)
        result.f.add_done_callback(lambda _: self.on_task_done())
        return result


def leave_behind(thread: threading.Thread) -> None:
    """Let the process end while ``thread`` still runs a task.

    Pool threads are daemons, as the worker's thread that starts them; `concurrent.futures`
    joins them at exit all the same. Private API, checked on Python 3.10 to 3.13.
    """
    from concurrent.futures import thread as futures_thread

    queues: Any = futures_thread._threads_queues
    queues.pop(thread, None)


_OURS: dict[type[BasePool], type[BasePool]] = {solo.TaskPool: SoloPool, thread.TaskPool: ThreadPool}


def pool_class(pool: Any, on_task_done: Callable[[], None]) -> type[BasePool] | None:
    """The pool for a ``celery_worker_pool`` value, ``None`` for one that can't be embedded."""
    ours = _OURS.get(get_implementation(pool))
    return ours and type(ours.__name__, (ours,), {"on_task_done": staticmethod(on_task_done)})


class Timer(timer2.Timer):
    """Celery's timer thread, woken by new entries and by `stop`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stopping = False

    def run(self) -> None:
        enter_worker_thread(None)
        self.running = True
        schedule = iter(self.schedule)
        while not self._stopping:
            with self.not_empty:
                delay, entry = next(schedule)
                if entry is None and not self._stopping:
                    self.not_empty.wait(delay)
            if entry is not None:
                self.schedule.apply_entry(entry)

    def stop(self) -> None:
        with self.not_empty:
            self._stopping = True
            self.not_empty.notify_all()
        if self.running and threading.current_thread() is not self:
            self.join()
        self.running = False
