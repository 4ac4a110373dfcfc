"""The database connections of Django, of which a project without Django has none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_djcelery.errors import django_is_configured

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper


def all_connections() -> Sequence[BaseDatabaseWrapper]:
    """This thread's connections to all databases of the project, opened as far as need be."""
    from django.db import connections

    return connections.all() if django_is_configured() else []


def opened_connections() -> Sequence[BaseDatabaseWrapper]:
    """This thread's connections that the project has used."""
    from django.db import connections

    return connections.all(initialized_only=True) if django_is_configured() else []
