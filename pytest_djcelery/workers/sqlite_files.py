"""Processes wait for one another on SQLite in a file, where it would refuse one of them.

A transaction that has read and then writes is told "database is locked" at once, whatever the
time-out, if another process has written meanwhile: waiting could not help it. As a test stands for
a project whose database has no such rule, transactions ask for the right to write as they begin,
and that is waited for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pytest_djcelery.patching import replaced


@contextmanager
def waited_for(timeout: float) -> Iterator[None]:
    """Let this process wait for others, for the time of a block.

    Args:
        timeout: seconds that a statement waits.
    """
    from django.db import connections
    from django.db.backends.signals import connection_created

    def wait(connection: Any, **_: Any) -> None:
        if connection.vendor == "sqlite":
            _set_busy_timeout(connection, timeout)

    if not any(connection.vendor == "sqlite" for connection in connections.all()):
        yield
        return
    opened = [each for each in connections.all(initialized_only=True) if each.connection]
    for connection in opened:
        wait(connection)
    connection_created.connect(wait)
    try:
        with _writing_from_the_start():
            yield
    finally:
        connection_created.disconnect(wait)
        for connection in connections.all(initialized_only=True):
            if connection.vendor == "sqlite" and connection.connection:
                _set_busy_timeout(connection, connection.get_connection_params().get("timeout", 5))


def _set_busy_timeout(connection: Any, seconds: float) -> None:
    connection.connection.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")


@contextmanager
def _writing_from_the_start() -> Iterator[None]:
    """Django's option ``transaction_mode`` does this since 5.1, for connections yet to be made.

    Private API (``DatabaseWrapper._start_transaction_under_autocommit``), checked on Django 4.2 to
    6.1.
    """
    from django.db.backends.sqlite3.base import DatabaseWrapper

    def begin(self: Any) -> None:
        self.cursor().execute("BEGIN IMMEDIATE")

    with replaced(DatabaseWrapper, _start_transaction_under_autocommit=begin):
        yield
