"""Parts of a worker that wake on an event where Celery's own parts poll.

Celery lets the classes of the consumer and the timer be chosen (``worker_consumer``,
``worker_timer``).
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from celery.app.trace import build_tracer
from celery.exceptions import CPendingDeprecationWarning, NotRegistered
from celery.utils import timer2
from celery.worker import state
from celery.worker.consumer import Consumer as CeleryConsumer

from pytest_djcelery.messages.events import Dropped
from pytest_djcelery.project.derived import info_logging_enabled
from pytest_djcelery.recording.task_threads import enter_worker_thread
from pytest_djcelery.session.session import current_sandbox

_POLL = 0.05  # seconds
_READ_WITHIN = 2  # seconds, for a broker to end a connection that has nothing more to say
_PIECE = 1 << 16  # bytes
# Seconds between attempts to reconnect; with Celery's 2, 4, 6, … a test would be over by then.
_RECONNECT_INTERVALS = {"interval_start": 0.05, "interval_step": 0.05, "interval_max": 0.5}


class Strategies(dict[str, Any]):
    """A worker's strategies, including those for tasks registered after the worker had started.

    A worker looks strategies up by name; each is kept with the task that it was built for, since
    another task may have taken that name.
    """

    def __init__(self, consumer: Any) -> None:
        super().__init__()
        self._consumer = consumer
        self._tasks = consumer.app.tasks

    def __setitem__(self, name: str, strategy: Any) -> None:
        super().__setitem__(name, (self._tasks[name], strategy))

    def __getitem__(self, name: str) -> Any:
        try:
            task = self._tasks[name]
        except NotRegistered:
            raise KeyError(name) from None  # the error that `task_unknown` receivers get
        built_for, strategy = self.get(name, (None, None))
        if built_for is not task:
            strategy = self[name] = self.build(task)
        return strategy

    def build(self, task: Any) -> Any:
        """Build a task's strategy, and its tracer, which a worker builds when it starts."""
        consumer = self._consumer
        with info_logging_enabled():
            if task.__trace__ is None:
                task.__trace__ = build_tracer(
                    task.name, task, consumer.app.loader, consumer.hostname, app=consumer.app
                )
            return task.start_strategy(consumer.app, consumer)


class Consumer(CeleryConsumer):
    """Celery's consumer, which stops waiting for messages when there is something else to do.

    Args:
        *args: As Celery's.
        wake: Called when it consumes, for the first time or again.
        **kwargs: As Celery's.
    """

    def __init__(self, *args: Any, wake: Callable[[], None], **kwargs: Any) -> None:
        self._wake = wake
        super().__init__(*args, **kwargs)
        self.strategies = Strategies(self)
        self.lost: Exception | None = None  # why there is no connection now
        self._broken: Exception | None = None  # the same, if that is on purpose

    def call_soon(self, p: Any, *args: Any, **kwargs: Any) -> Any:
        pending = super().call_soon(p, *args, **kwargs)
        self._interrupt()
        return pending

    def _interrupt(self) -> None:
        interrupt = getattr(getattr(self.connection, "transport", None), "interrupt", None)
        if interrupt is not None:
            interrupt()

    def update_strategies(self) -> None:
        with info_logging_enabled():
            super().update_strategies()

    def connect(self) -> Any:
        """Connect; if the broker's transport can't be interrupted, poll it often."""
        self._broken = None
        connection = super().connect()
        drain_events = connection.drain_events
        longest = None if hasattr(connection.transport, "interrupt") else _POLL

        def drain_events_often(timeout: float | None = None, **options: Any) -> Any:
            if self._broken is not None:
                raise self._broken
            if longest is not None:
                timeout = min(longest if timeout is None else timeout, longest)
            return drain_events(timeout=timeout, **options)

        connection.drain_events = drain_events_often
        return connection

    def break_connection(self) -> Exception:
        """Lose the connection to the broker, as soon as the worker looks for messages.

        Returns:
            The error that it then meets, for code that runs in the worker's own thread to raise.
        """
        kinds = self.connection_errors
        kind = ConnectionResetError if issubclass(ConnectionResetError, kinds) else kinds[0]
        self._broken = error = kind("the host of this worker is lost, by a fault")
        # After five restarts within a second Celery sleeps, as long again. Private API, checked on
        # Celery 5.4 to 5.7.
        self._restart_state.R = 0
        self._interrupt()
        return error

    def perform_pending_operations(self) -> None:
        pending = self.has_pending_operations
        super().perform_pending_operations()
        if pending:
            self._wake()  # who waits until it is idle

    def on_ready(self) -> None:
        # Redis drops a broadcast without subscribers, and kombu subscribes as it waits.
        if self.connection.transport.driver_type == "redis":
            with suppress(socket.timeout):
                self.connection.drain_events(timeout=_POLL)
        super().on_ready()
        self._wake()

    # A broker that is lost, and may come back -------------------------------------------

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        self.lost = exc
        if exc is self._broken:
            self._have_it_read()
        # Celery then warns of a change in its next version: under -W error that ends a worker.
        with suppress(CPendingDeprecationWarning):
            super().on_connection_error_after_connected(exc)

    def _have_it_read(self) -> None:
        """Have a broker of AMQP read the acknowledgements that were sent.

        A socket that is dropped with messages unread may take along what is on its way. Private API
        (the socket of py-amqp), checked on py-amqp 5.3 to 5.4.
        """
        transport = getattr(self.connection.connection, "transport", None)
        sock = getattr(transport, "sock", None)
        if isinstance(sock, socket.socket):
            with suppress(OSError):
                sock.settimeout(_READ_WITHIN)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(_PIECE):
                    pass

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, trying often, and give up when asked to stop."""
        ensure_connection = conn.ensure_connection

        def ensure_soon(errback: Any, max_retries: Any, **_: Any) -> Any:
            return ensure_connection(
                errback, max_retries, callback=self._attend, **_RECONNECT_INTERVALS
            )

        conn.ensure_connection = ensure_soon
        try:
            connected = super().ensure_connected(conn)
        finally:
            del conn.ensure_connection
        self.lost = None
        return connected

    def _attend(self) -> None:
        state.maybe_shutdown()
        self.perform_pending_operations()

    # A message that no task is run for --------------------------------------------------

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        super().on_decode_error(message, exc)
        _dropped(message)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        super().on_invalid_task(body, message, exc)
        _dropped(message)

    def on_unknown_message(self, body: Any, message: Any) -> None:
        super().on_unknown_message(body, message)
        _dropped(message)

    @property
    def is_broken(self) -> bool:
        """Whether it has lost its connection on purpose, and has no other yet."""
        return self._broken is not None

    @property
    def has_pending_operations(self) -> bool:
        """Whether acknowledgements or callbacks wait for the loop."""
        return bool(self._pending_operations)


def _dropped(message: Any) -> None:
    current = current_sandbox()
    if current is not None:
        task_id = (message.headers or {}).get("id") or message.properties.get("correlation_id")
        current.journal.append(Dropped(task_id=task_id))


class Timer(timer2.Timer):
    """Celery's timer thread, woken by new entries and by `stop`.

    Args:
        wake: Called whenever it has run a due entry.
    """

    def __init__(self, *args: Any, wake: Callable[[], None], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._wake = wake
        self._starting = threading.Lock()
        self._doing = False
        self._stopping = False

    def ensure_started(self) -> None:
        with self._starting:  # either the test or the worker may be the first to use it
            super().ensure_started()

    def run(self) -> None:
        enter_worker_thread(None)
        self.running = True
        schedule = iter(self.schedule)
        while not self._stopping:
            with self.not_empty:
                delay, entry = next(schedule)
                self._doing = entry is not None
                if entry is None and not self._stopping:
                    self.not_empty.wait(delay)
            if entry is not None:
                self.schedule.apply_entry(entry)
                self._doing = False
                self._wake()

    @property
    def late(self) -> bool:
        """Whether an entry is due, and not yet done."""
        with self.mutex:
            now = time.monotonic()
            return self._doing or any(
                scheduled.eta <= now and not scheduled.entry.canceled
                for scheduled in self.schedule.queue
            )

    def stop(self) -> None:
        with self.not_empty:
            self._stopping = True
            self.not_empty.notify_all()
        if self.running and threading.current_thread() is not self:
            self.join()
        self.running = False
