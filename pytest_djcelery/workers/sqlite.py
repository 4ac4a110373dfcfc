"""Lets a worker use SQLite beside the test: threads take turns, processes wait for one another.

Threads share an in-memory database through SQLite's shared cache, which raises "table is locked" at
once for a table in use, whatever the timeout; a file raises "database is locked" in a transaction
that first reads and then writes. While a worker runs beside the test, each transaction (or each
statement outside of one) has the database to itself, and the next one waits for its turn. So
nothing is locked, nothing is read before it is committed, and two transactions that would deadlock
run one after the other.

A thread that only reads from a file, outside any transaction, does not wait: SQLite then returns
what is committed, as in production.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from weakref import WeakSet

from django.db import OperationalError, connections, transaction
from django.db.backends.signals import connection_created

from pytest_djcelery.clock import Deadline
from pytest_djcelery.errors import DjceleryError, django_is_configured
from pytest_djcelery.patching import patches, replaced
from pytest_djcelery.transactions.blocks import atomic_replaced
from pytest_djcelery.transactions.connections import all_connections, opened_connections

_UNFINISHED_CURSOR = 0.005  # seconds to wait for another thread's unfinished cursor


class DatabaseBusyError(DjceleryError, OperationalError):
    """Another thread kept SQLite to itself for too long, so a statement got no turn in time.

    Usually a test waits for a task inside its own ``atomic()`` block: wait after the block. It is
    also Django's ``OperationalError``, as "database is locked" is.
    """


class Turns:
    """A re-entrant lock over all SQLite databases of the process, with a deadline.

    The thread that has waited longest is next. If any thread could take the turn, a worker that
    runs task after task would keep the test waiting until all are done, or until its deadline.

    Args:
        timeout: Seconds to wait for a turn.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._lock = threading.Lock()
        self._left = threading.Condition(self._lock)  # wakes a wait for an unfinished cursor
        self._queue: deque[tuple[threading.Thread, threading.Condition]] = deque()
        self._owner: threading.Thread | None = None
        self._depth = 0

    def take(self) -> None:
        """Wait for the calling thread's turn.

        Raises:
            DatabaseBusyError: Another thread did not end its transaction in time.
        """
        me = threading.current_thread()
        with self._lock:
            if self._owner not in (None, me):
                self._stand_in_line(me)
            self._owner = me
            self._depth += 1

    def _stand_in_line(self, me: threading.Thread) -> None:
        deadline = Deadline(self._timeout)
        place = me, threading.Condition(self._lock)
        self._queue.append(place)
        came = False
        try:
            while self._owner is not me and not deadline.passed:
                place[1].wait(deadline.remaining)
            came = self._owner is me
        finally:
            if not came:  # also after Ctrl-C, where nothing else would give up the place
                self._step_out(place)
        if not came:
            owner = self._owner.name if self._owner else None
            msg = (
                f"SQLite was not free for {me.name!r} within {self._timeout:g} s: {owner!r} has "
                "an open transaction.\n"
                "SQLite has one writer at a time, so a test that waits for a task inside "
                "its own atomic() block waits for ever: wait after the block."
            )
            raise DatabaseBusyError(msg)

    def _step_out(self, place: tuple[threading.Thread, threading.Condition]) -> None:
        if place in self._queue:
            self._queue.remove(place)
        else:  # its turn had come
            self._pass_on()

    def leave(self) -> None:
        """End the turn begun by the last `take`."""
        with self._lock:
            self._depth -= 1
            if not self._depth:
                self._pass_on()

    def _pass_on(self) -> None:
        self._owner = None
        if self._queue:
            self._owner, turn = self._queue.popleft()
            turn.notify()
        self._left.notify_all()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Have a turn within the ``with``."""
        self.take()
        try:
            yield
        finally:
            self.leave()

    @contextmanager
    def stepped_aside(self) -> Iterator[None]:
        """Let others have the turn within the ``with``, since a hook runs after its transaction."""
        with self._lock:
            depth = self._depth if self._owner is threading.current_thread() else 0
            if depth:
                self._depth = 0
                self._pass_on()
        try:
            yield
        finally:
            for _ in range(depth):
                self.take()

    def execute(
        self, execute: Callable[..., Any], sql: Any, params: Any, many: Any, context: Any
    ) -> Any:
        """Run one statement in a turn; Django's ``execute_wrapper``."""
        deadline = Deadline(self._timeout)
        while True:
            try:
                with nullcontext() if _reads_beside_others(sql, context) else self.turn():
                    return execute(sql, params, many, context)
            except OperationalError as error:
                # A query of another thread locks its table until all its rows are read, outside
                # any turn. Nothing signals that.
                if (
                    "locked" not in str(error)
                    or deadline.passed
                    or isinstance(error, DatabaseBusyError)
                ):
                    raise
            with self._left:
                self._left.wait(_UNFINISHED_CURSOR)


def _reads_beside_others(sql: Any, context: Mapping[str, Any]) -> bool:
    connection: Any = context["connection"]
    return (
        not connection.in_atomic_block
        and str(sql).lstrip()[:6].upper() == "SELECT"
        and not connection.is_in_memory_db()
    )


@contextmanager
def threads_in_turns(timeout: float) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Within the ``with``, have all threads of this process take turns on SQLite.

    Yields a function that makes the context manager to enter around an on_commit hook.
    """
    databases = connections.settings.values() if django_is_configured() else ()
    if not any(settings["ENGINE"].endswith("sqlite3") for settings in databases):
        yield nullcontext
        return
    turns = Turns(timeout)
    with _statements_in_turns(turns), _transactions_in_turns(turns):
        yield turns.stepped_aside


@contextmanager
def _statements_in_turns(turns: Turns) -> Iterator[None]:
    watched: WeakSet[Any] = WeakSet()

    def watch(connection: Any, **_: Any) -> None:
        if connection.vendor == "sqlite" and turns.execute not in connection.execute_wrappers:
            connection.execute_wrappers.append(turns.execute)
            watched.add(connection)

    for connection in opened_connections():
        watch(connection)
    connection_created.connect(watch, weak=False)
    try:
        yield
    finally:
        connection_created.disconnect(watch)
        for connection in watched:
            if turns.execute in connection.execute_wrappers:
                connection.execute_wrappers.remove(turns.execute)


@contextmanager
def _transactions_in_turns(turns: Turns) -> Iterator[None]:
    """Take a turn for each outermost ``atomic()`` block."""
    enter, leave = transaction.Atomic.__enter__, transaction.Atomic.__exit__
    held: WeakSet[Any] = WeakSet()

    def enter_in_turn(self: Any) -> None:
        connection = transaction.get_connection(self.using)
        outermost = connection.vendor == "sqlite" and not connection.in_atomic_block
        if not outermost:
            return enter(self)
        turns.take()
        try:
            enter(self)
        except BaseException:
            turns.leave()
            raise
        held.add(connection)
        return None

    def exit_turn(self: Any, *exc_info: Any) -> None:
        connection = transaction.get_connection(self.using)
        try:
            leave(self, *exc_info)
        finally:
            if connection in held and not connection.in_atomic_block:
                held.discard(connection)
                turns.leave()

    with atomic_replaced(enter_in_turn, exit_turn):
        yield


# Processes ---------------------------------------------------------------------------


@contextmanager
def waiting_for_other_processes(timeout: float) -> Iterator[None]:
    """Within the ``with``, have SQLite wait for other processes instead of raising an error.

    A transaction that reads and then writes gets "database is locked" at once, whatever the
    timeout, if another process has written meanwhile: waiting would not help. In production the
    project's database usually has no such rule, so here each transaction claims the right to write
    as it begins, and waits for it.

    Args:
        timeout: Seconds that a statement waits.
    """

    def wait(connection: Any, **_: Any) -> None:
        if connection.vendor == "sqlite":
            _set_busy_timeout(connection, timeout)

    if not any(connection.vendor == "sqlite" for connection in all_connections()):
        yield
        return
    for connection in opened_connections():
        if connection.connection:
            wait(connection)
    connection_created.connect(wait)
    try:
        with _transactions_begun_for_writing():
            yield
    finally:
        connection_created.disconnect(wait)
        for connection in opened_connections():
            if connection.vendor == "sqlite" and connection.connection:
                _set_busy_timeout(connection, connection.get_connection_params().get("timeout", 5))


def _set_busy_timeout(connection: Any, seconds: float) -> None:
    connection.connection.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")


@patches(
    "django.db.backends.sqlite3.base:DatabaseWrapper._start_transaction_under_autocommit",
    why="Django's option transaction_mode, new in 5.1, only applies to connections yet to be made.",
    checked_on="Django 4.2, 5.2, 6.0 and 6.1",
)
@contextmanager
def _transactions_begun_for_writing() -> Iterator[None]:
    """Begin transactions with the right to write.

    Since Django 5.1 its option ``transaction_mode`` does so, but only for new connections.

    Private API (``DatabaseWrapper._start_transaction_under_autocommit``), checked on Django 4.2 to
    6.1.
    """
    from django.db.backends.sqlite3.base import DatabaseWrapper

    def begin(self: Any) -> None:
        self.cursor().execute("BEGIN IMMEDIATE")

    with replaced(DatabaseWrapper, _start_transaction_under_autocommit=begin):
        yield
