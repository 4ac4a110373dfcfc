"""Django's database connections, those of a project without Django, and those of a task."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from pytest_djcelery.errors import django_is_configured

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper


_connections: Any = None


def all_connections() -> Sequence[BaseDatabaseWrapper]:
    """This thread's connections to all databases of the project, opened as far as need be."""
    from django.db import connections

    return connections.all() if django_is_configured() else []


def opened_connections() -> Sequence[BaseDatabaseWrapper]:
    """This thread's connections that the project has used.

    It is asked several times for each task. Django's ``connections.all(initialized_only=True)``
    does the same and takes five times as long. Private API (``connections._connections`` and
    ``settings``, asgiref's ``Local._storage``), checked on Django 4.2 to 6.1 and asgiref 3.7 to
    3.11; with any other asgiref each alias is asked for.
    """
    global _connections  # noqa: PLW0603 - to import it takes as long as to ask it
    if _connections is None:
        if not django_is_configured():
            return []
        from django.db import connections as _connections
    of_thread = _connections._connections
    storage = vars(of_thread).get("_storage")
    asyncio = sys.modules.get("asyncio")  # to import it here would take half of a start-up
    in_loop = asyncio is not None and asyncio._get_running_loop() is not None
    if type(storage) is threading.local and not in_loop:
        held = vars(storage)
        return [held[alias] for alias in _connections.settings if alias in held]
    asked = (getattr(of_thread, alias, None) for alias in _connections.settings)
    return [connection for connection in asked if connection is not None]


def in_testcase(connection: BaseDatabaseWrapper) -> bool:
    """Whether a connection is in the transaction of a test, which is rolled back.

    Private API (``Atomic._from_testcase``, set by `django.test.TestCase`), checked on Django 4.2 to
    6.1.
    """
    return any(getattr(block, "_from_testcase", False) for block in connection.atomic_blocks)


# Lets a task treat the test's database connections as it would treat a worker's -----------
# In a worker a task may close its connection, and whatever it leaves open is closed after it. Tasks
# that run in the test's own thread use the test's connections instead.


@contextmanager
def connection_held_open(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Within the ``with``, have ``connection.close()`` leave the connection and its transaction.

    Inside a block that the task itself opened, closing would lose what the block wrote in
    production: the block is marked for rollback, and refuses further statements.
    """
    depth = len(connection.atomic_blocks)

    def close() -> None:
        if len(connection.atomic_blocks) > depth:
            connection.needs_rollback = True

    attributes = vars(connection)
    before = attributes.get("close")
    attributes["close"] = close
    try:
        yield
    finally:
        if before is None:
            del attributes["close"]
        else:
            attributes["close"] = before


@contextmanager
def test_connections_held_open() -> Iterator[None]:
    """Do the same for each connection that is in the transaction of a test."""
    with ExitStack() as stack:
        for connection in opened_connections():
            if in_testcase(connection):
                stack.enter_context(connection_held_open(connection))
        yield


class AutocommitRestorer:
    """Ends, after each task, the transactions that the task began by switching autocommit off.

    A worker closes the connection after the task (`celery.fixups.django`), which rolls back
    whatever was not committed.
    """

    def __init__(self) -> None:
        self._off_in_test = [
            connection
            for connection in opened_connections()
            if connection.connection is not None and not connection.autocommit
        ]

    def restore(self) -> None:
        """Roll back, and switch autocommit on again, where the task had switched it off."""
        for connection in opened_connections():
            if connection.autocommit or connection.connection is None:
                continue
            if not (connection.in_atomic_block or connection in self._off_in_test):
                _switch_on(connection)


def _switch_on(connection: Any) -> None:
    from django.db import Error

    with suppress(Error):  # the connection is lost, and reopened when it is next used
        connection.rollback()
        connection.set_autocommit(connection.settings_dict["AUTOCOMMIT"])
