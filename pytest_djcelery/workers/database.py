"""Gives a worker its own database connections, none of which outlives its test."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import celery
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from pytest_djcelery.errors import FixtureConflictError, SharedConnectionsWarning
from pytest_djcelery.recording.task_threads import beside_task, in_worker_thread
from pytest_djcelery.transactions.connections import (
    all_connections,
    in_testcase,
    opened_connections,
)

if TYPE_CHECKING:
    from celery import Celery

_CLOSES_POOLS: Final = (5, 6)  # the version of Celery


class WorkerConnections:
    """The connections opened by worker threads, and by threads that their tasks started.

    Args:
        busy: Whether a task is running that may have started such a thread.
        check: Called with each connection that is opened; it may raise.
    """

    def __init__(
        self,
        busy: Callable[[], bool],
        check: Callable[[BaseDatabaseWrapper], None] | None = None,
    ) -> None:
        self._opened: dict[int, BaseDatabaseWrapper] = {}
        self._lock = threading.Lock()
        self._home = threading.current_thread()
        self._busy = busy
        self._check = check
        # A weak reference to a method costs Django a finalizer; `disconnect` is always called.
        connection_created.connect(self._on_created, weak=False)

    def _on_created(self, connection: BaseDatabaseWrapper, **_: Any) -> None:
        beside = threading.current_thread() is not self._home and self._busy()
        if in_worker_thread() or beside:
            self.add(connection)
        if self._check is not None:
            self._check(connection)

    def add(self, connection: BaseDatabaseWrapper) -> None:
        """Close this connection, too, when all are closed."""
        with self._lock:
            self._opened[id(connection)] = connection

    def disconnect(self) -> None:
        """Stop watching for new ones."""
        connection_created.disconnect(self._on_created)

    def close_in_thread(self) -> None:
        """Close the calling thread's connections after a task, as Celery's Django fixup does."""
        for connection in opened_connections():
            connection.close()

    def close(self) -> None:
        """Close all connections that worker threads still hold, while none of them runs a task.

        Django ignores ``close()`` for in-memory SQLite, to keep the database alive; the test's own
        connection does that, so a worker's can be closed.
        """
        with self._lock:
            opened, self._opened = list(self._opened.values()), {}
        for connection in opened:
            connection.inc_thread_sharing()
            try:
                BaseDatabaseWrapper.close(connection)
            finally:
                connection.dec_thread_sharing()


@contextmanager
def other_threads_watched() -> Iterator[None]:
    """Close the connections of threads that run beside a task in place, or refuse to open them.

    Such a thread gets a `FixtureConflictError` if the test's rows are in a transaction, which no
    other connection sees.
    """
    of_test = {connection.alias: connection for connection in all_connections()}

    def check(connection: BaseDatabaseWrapper) -> None:
        own = of_test.get(connection.alias)
        if beside_task() and own is not None and own is not connection and in_testcase(own):
            BaseDatabaseWrapper.close(connection)
            raise FixtureConflictError(_other_thread(connection.alias))

    opened = WorkerConnections(beside_task, check)
    try:
        yield
    finally:
        opened.disconnect()
        opened.close()


def _other_thread(alias: str) -> str:
    return (
        f"A task uses the database {alias!r} in another thread ({threading.current_thread().name!r}"
        "): the ORM under asyncio.run() or another event loop, or a thread pool. The test's "
        "rows are in a transaction that is never committed, so no other connection sees them.\n"
        "Use @pytest.mark.django_db(transaction=True) or TransactionTestCase. Coroutines that a "
        "task runs by asgiref's async_to_sync use its own connection, and need neither."
    )


@contextmanager
def fixups_kept_to_workers(app: Celery) -> Iterator[None]:
    """Keep Celery's Django fixup to worker threads, and disconnect it at the end.

    A starting worker permanently connects handlers that close every database connection of the
    thread they are called in, for all tasks in the process. That is right in a worker's own
    process, but here the test's connections must stay open. Private API
    (``celery.fixups.django``), checked on Celery 5.4 to 5.7.
    """
    from celery import signals
    from celery.fixups.django import DjangoFixup

    fixups = [fixup for fixup in app._fixups if isinstance(fixup, DjangoFixup)]
    workers = [fixup.worker_fixup for fixup in fixups]
    for worker in workers:
        worker.close_database = _only_in_workers(worker.close_database)
        worker.close_cache = _only_in_workers(worker.close_cache)
    handlers = [
        (signal, handler)
        for worker in workers
        for signal, handler in (
            (signals.beat_embedded_init, worker.close_database),
            (signals.task_prerun, worker.on_task_prerun),
            (signals.task_postrun, worker.on_task_postrun),
            (signals.worker_process_init, worker.on_worker_process_init),
        )
    ]
    try:
        yield
    finally:
        for signal, handler in handlers:
            signal.disconnect(handler)
        for worker in workers:
            del worker.close_database, worker.close_cache
            worker.worker = None


def _only_in_workers(close: Any) -> Any:
    def close_in_workers(**kwargs: Any) -> None:
        if in_worker_thread():
            close(**kwargs)

    return close_in_workers


def warn_of_shared_connections() -> None:
    """Warn of a connection pool that the worker's child processes would share with their parent.

    This happens in production too, so it isn't fixed here. The parent opens its pool when it
    stores a result itself, for example after a time limit.
    """
    if celery.VERSION >= _CLOSES_POOLS:
        return
    pooled = [
        connection.alias
        for connection in all_connections()
        if connection.settings_dict["OPTIONS"].get("pool")
    ]
    if pooled:
        warnings.warn(
            SharedConnectionsWarning(
                f"Celery {celery.__version__} does not close Django's connection pool in the "
                f"processes that it forks (database {', '.join(map(repr, pooled))}). One that is "
                "forked after the worker itself has used the database, as for a time limit, shares "
                'its connections and fails: "another command is already in progress", or worse. '
                "This happens in production, too.\n"
                "Celery 5.6 closes it: upgrade, or turn the pool off."
            ),
            stacklevel=2,
        )
