"""Lets a task treat the test's database connections as it would treat a worker's.

In a worker a task may close its connection, and whatever it leaves open is closed after it. Tasks
that run in the test's own thread use the test's connections instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from pytest_djcelery.transactions.django_connections import opened_connections

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper


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
            if any(getattr(block, "_from_testcase", False) for block in connection.atomic_blocks):
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
