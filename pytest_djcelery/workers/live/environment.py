"""The environment of a test, handed to the worker in another process.

The test databases, the settings that the run and the test have changed, and where modules are
imported from.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celery.app.utils import find_app
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections

from pytest_djcelery.brokers import filesystem
from pytest_djcelery.brokers.memory import addresses
from pytest_djcelery.errors import BadOptionError, WorkerError, django_is_configured
from pytest_djcelery.project.configuration import Configuration
from pytest_djcelery.project.finding import app_beside
from pytest_djcelery.project.isolation import broker_values
from pytest_djcelery.project.other_apps import OtherApps
from pytest_djcelery.transactions.connections import all_connections

if TYPE_CHECKING:
    from celery import Celery

    from pytest_djcelery.options import Policy
    from pytest_djcelery.session.sandbox import Sandbox

#: The settings that lead to a test database. The others are the same as in the project's settings.
_DATABASE = ("NAME", "USER", "PASSWORD", "HOST", "PORT")


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The environment of a test, in a form that another process can read."""

    app: str  # the argument of ``celery -A``
    path: tuple[str, ...]  # `sys.path`
    debug: bool | None  # Django's ``DEBUG``; ``None`` without Django
    databases: Mapping[str, Mapping[str, Any]]
    configuration: Mapping[str, bytes]  # Celery's settings, each as a pickle
    sent_in_transaction: Policy
    timeout: float  # seconds

    @classmethod
    def of(cls, sandbox: Sandbox) -> Environment:
        """The environment of a test that is being set up.

        Raises:
            WorkerError: Another process could not work in it.
            BadOptionError: A setting can't be sent.
        """
        if django_is_configured() and not os.environ.get("DJANGO_SETTINGS_MODULE"):
            msg = (
                "celery_live_worker runs `celery -A …` in a separate process, which finds the "
                "settings by DJANGO_SETTINGS_MODULE, and that is not set.\n"
                "Set it in pytest's configuration, or use celery_worker, which runs in this "
                "process."
            )
            raise WorkerError(msg)
        return cls(
            app=path_of(sandbox.app, sandbox.options.app),
            path=tuple(sys.path),
            debug=settings.DEBUG if django_is_configured() else None,
            databases=_databases() if django_is_configured() else {},
            configuration=_pickled(sandbox.project.configuration.overridden()),
            sent_in_transaction=sandbox.options.sent_in_transaction,
            timeout=sandbox.options.timeout,
        )

    def apply(self) -> tuple[Celery, OtherApps]:
        """Set up the worker's process for it, and return the project's app and the others."""
        sys.path[:] = self.path
        if self.debug is not None:
            from django.test.utils import setup_test_environment

            for alias, database in self.databases.items():
                settings.DATABASES[alias].update(database)
            setup_test_environment(debug=self.debug)  # among other things, no mail is sent
        app: Celery = find_app(self.app)
        values = {key: _unpickled(value) for key, value in self.configuration.items()}
        host = f"live-{os.getpid()}"
        others = OtherApps(
            app, host, lambda _, virtual_host: _values_of_other_app(values, virtual_host, host)
        )
        others.note_project_settings()
        Configuration(app).push(values)
        return app, others

    def write(self, path: Path) -> None:
        """Write it so that only this user can read it: it contains the database's password."""
        path.touch(mode=0o600)
        path.write_bytes(pickle.dumps(self))

    @classmethod
    def read(cls, path: Path) -> Environment:
        """Read what `write` has written."""
        environment: Environment = _unpickled(path.read_bytes())
        return environment


def _values_of_other_app(values: Mapping[str, Any], virtual_host: str, host: str) -> dict[str, Any]:
    """The settings of another app: the project's broker, or one from which nothing consumes."""
    prefixes = ("broker_", "redis_", "result_")
    outside = {key: value for key, value in values.items() if key.startswith(prefixes)}
    if virtual_host != host and values.get("broker_transport") == filesystem.TRANSPORT:
        outside |= broker_values(addresses.url(virtual_host))
    return outside


def path_of(app: Celery, given: str | None) -> str:
    """The argument with which ``celery -A`` finds the app.

    Args:
        app: The project's app.
        given: The value of ``djcelery_app``.

    Raises:
        WorkerError: No module has the app as an attribute.
    """
    if given:
        return given
    package = os.environ.get("DJANGO_SETTINGS_MODULE", "").partition(".")[0]
    if package and app_beside(package) is app:
        return package  # as in Celery's tutorial
    for place, module in list(sys.modules.items()):
        if place.partition(".")[0] not in ("celery", "pytest_djcelery"):
            for name, value in list(getattr(module, "__dict__", {}).items()):
                if value is app:
                    return f"{place}:{name}"
    msg = (
        f"celery_live_worker runs `celery -A …`, and no module has the app {app.main!r} as an "
        "attribute.\nSet djcelery_app = proj.celery:app, or use celery_worker."
    )
    raise WorkerError(msg)


def _databases() -> dict[str, dict[str, Any]]:
    """Where the test databases are.

    Raises:
        WorkerError: One of them is in this process's memory.
    """
    # A test without database access fails here, with an error that says why.
    connections[DEFAULT_DB_ALIAS].ensure_connection()
    hidden = [
        f"{connection.alias!r}" for connection in all_connections() if _is_in_memory(connection)
    ]
    if hidden:
        msg = (
            "celery_live_worker runs in a separate process, and needs a test database that it can "
            f"open; SQLite in memory exists in this process only (database {', '.join(hidden)}).\n"
            f"Set DATABASES[{hidden[0]}]['TEST'] = {{'NAME': BASE_DIR / 'test.sqlite3'}} in the "
            "settings, or use PostgreSQL or MariaDB. celery_inline and celery_worker work with "
            "SQLite in memory."
        )
        raise WorkerError(msg)
    return {
        connection.alias: {
            key: connection.settings_dict[key]
            for key in _DATABASE
            if key in connection.settings_dict
        }
        for connection in all_connections()
    }


def _is_in_memory(connection: Any) -> bool:
    return bool(connection.vendor == "sqlite" and connection.is_in_memory_db())


def _unpickled(data: bytes) -> Any:
    return pickle.loads(data)  # noqa: S301 - written by the test's own process


def _pickled(configuration: Mapping[str, Any]) -> dict[str, bytes]:
    pickles = {}
    for key, value in configuration.items():
        try:
            pickles[key] = pickle.dumps(value)
        except Exception as error:
            msg = (
                f"{key} = {value!r} can't be sent to celery_live_worker, which runs in a separate "
                f"process: {type(error).__name__}: {error}\n"
                "Give it in the settings of the project, or use celery_worker, which runs in this "
                "process."
            )
            raise BadOptionError(msg) from error
    return pickles
