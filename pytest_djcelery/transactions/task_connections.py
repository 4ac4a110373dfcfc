"""What a task may do with its connections to the database, done to those of the test.

A worker's connection is a task's own: it may be closed, and what it has left open is closed after
it. In place, tasks have the connections of the test.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper


@contextmanager
def held_open(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Let ``connection.close()`` leave the test's connection open, and its transaction.

    In a block of the task's own production would lose what the block has written: it is marked
    for rollback, and refuses further statements.
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
    """The same for each connection that is in the transaction of a test."""
    from django.db import connections

    with ExitStack() as stack:
        for connection in connections.all(initialized_only=True):
            if any(getattr(block, "_from_testcase", False) for block in connection.atomic_blocks):
                stack.enter_context(held_open(connection))
        yield


class ConnectionsAsBegun:
    """Leave no transaction open that a task has begun by switching autocommit off.

    A worker closes the connection after the task (`celery.fixups.django`): what was not committed
    is rolled back.
    """

    def __init__(self) -> None:
        from django.db import connections

        self._connections = connections
        self._off = [  # by the test
            each
            for each in connections.all(initialized_only=True)
            if each.connection is not None and not each.autocommit
        ]

    def restore(self) -> None:
        """After each task."""
        for connection in self._connections.all(initialized_only=True):
            if connection.autocommit or connection.connection is None:
                continue
            if not (connection.in_atomic_block or connection in self._off):
                _switch_on(connection)


def _switch_on(connection: Any) -> None:
    from django.db import Error

    with suppress(Error):  # it is lost, and opened anew by who wants it
        connection.rollback()
        connection.set_autocommit(connection.settings_dict["AUTOCOMMIT"])
