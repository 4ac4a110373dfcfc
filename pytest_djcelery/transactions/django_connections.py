"""The database connections of Django, of which a project without Django has none."""

from __future__ import annotations

from collections.abc import Sequence
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
    does the same and takes twice as long. Private API (``connections._connections`` and
    ``settings``), checked on Django 4.2 to 6.1.
    """
    global _connections  # noqa: PLW0603 - to import it takes as long as to ask it
    if _connections is None:
        if not django_is_configured():
            return []
        from django.db import connections as _connections
    of_thread, found = _connections._connections, []
    for alias in _connections.settings:
        connection = getattr(of_thread, alias, None)
        if connection is not None:
            found.append(connection)
    return found
