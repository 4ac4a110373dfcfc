"""The databases that inner projects use, and what a run may leave in them: nothing.

Copied into those projects, too, which import it as `databases_here`.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.support.project import Project

IN_MEMORY, FILE, POSTGRESQL, MARIADB = "sqlite-memory", "sqlite-file", "postgresql", "mariadb"
SERVERS = (POSTGRESQL, MARIADB)
DATABASES = (IN_MEMORY, FILE, *SERVERS)

# Most of the time of a small transaction in a file is spent on what only matters if the power goes.
# Django has a setting for it since 5.1 (``init_command``).
_WITHOUT_WAITING_FOR_THE_DISK = """
from django.db.backends.signals import connection_created


def leave_it_to_the_disk(connection, **_):
    connection.connection.execute("PRAGMA synchronous = OFF")


connection_created.connect(leave_it_to_the_disk)
"""

_OPTIONS = {
    POSTGRESQL: {"options": "-c synchronous_commit=off"},  # likewise
    MARIADB: {"charset": "utf8mb4"},
}
_USERS = {POSTGRESQL: "postgres", MARIADB: "root"}
_ENGINES = {POSTGRESQL: "postgresql", MARIADB: "mysql"}
_ENDING = 10  # seconds; a server ends a connection some time after its client has closed it


def use(project: Project, kind: str, *aliases: str) -> None:
    """Let a project keep its rows in databases of one kind, one for each alias.

    Skips the calling test where there is no such server, or no driver for it.
    """
    named = {alias: _settings(kind, alias) for alias in ("default", *aliases)}
    project.settings(f"DATABASES = {named!r}\n")
    if kind == FILE:
        project.settings(_WITHOUT_WAITING_FOR_THE_DISK)
    project.write(databases_here=Path(__file__).read_text())


def _settings(kind: str, alias: str) -> dict[str, Any]:
    if kind not in SERVERS:
        test = {"NAME": f"{alias}.sqlite3"} if kind == FILE else {}
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:", "TEST": test}

    import pytest

    from tests.support.services import require

    this = os.environ.get("DATABASE") == kind  # else the environment speaks of another server
    host, port = require(kind)
    # It is compiled, so only those cells of the matrix have it that test MariaDB.
    if kind == MARIADB and not this and importlib.util.find_spec("MySQLdb") is None:
        pytest.skip("no mysqlclient")
    name = os.environ.get("DATABASE_NAME", "djcelery") if this else "djcelery"
    return {
        "ENGINE": f"django.db.backends.{_ENGINES[kind]}",
        "NAME": f"{name}_{os.getpid()}_{alias}",
        "USER": os.environ.get("DATABASE_USER", _USERS[kind]) if this else _USERS[kind],
        "PASSWORD": os.environ.get("DATABASE_PASSWORD", "") if this else "",
        "HOST": host,
        "PORT": port,
        "OPTIONS": _OPTIONS[kind],
    }


def left_open() -> list[str]:
    """Connections that are open here and aren't the calling thread's, and those that servers see.

    Call it in a test whose worker has ended, with all databases allowed.
    """
    from django.db import connections
    from django.db.backends.base.base import BaseDatabaseWrapper

    own = connections.all(initialized_only=True)
    found = [
        f"{each.alias} of {each.settings_dict['NAME']} is open in this process"
        for each in gc.get_objects()
        if isinstance(each, BaseDatabaseWrapper)
        and each.connection is not None
        and not any(each is connection for connection in own)
    ]
    for connection in connections.all():
        query = _OTHERS.get(connection.vendor)
        if query is not None:
            found += _seen_by_server(connection, query)
    return found


_OTHERS = {
    "postgresql": """
        SELECT state, query FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()
        """,
    "mysql": """
        SELECT command, info FROM information_schema.processlist
        WHERE db = database() AND id <> connection_id()
        """,
}


def _seen_by_server(connection: Any, query: str) -> list[str]:
    moment = threading.Event()
    with connection.cursor() as cursor:
        for _ in range(_ENDING * 50):
            cursor.execute(query)
            rows = cursor.fetchall()
            if not rows:
                return []
            moment.wait(0.02)  # nothing tells when a server has ended a connection
    return [f"{connection.alias}: the server has {row}" for row in rows]


def left_on_server(kind: str) -> list[str]:
    """The databases that this process's runs have left behind, and the connections to them."""
    settings = _settings(kind, "")
    where = {"host": settings["HOST"], "port": settings["PORT"], "user": settings["USER"]}
    connection: Any
    if kind == POSTGRESQL:
        import psycopg

        connection = psycopg.connect(dbname="postgres", password=settings["PASSWORD"], **where)
    else:
        import MySQLdb

        connection = MySQLdb.connect(password=settings["PASSWORD"], **where)
    names = f"test_{settings['NAME']}%".replace("_", "\\_")
    with contextlib.closing(connection), contextlib.closing(connection.cursor()) as cursor:
        cursor.execute(_LEFT[kind], {"names": names})
        return [str(row) for row in cursor.fetchall()]


_LEFT = {
    POSTGRESQL: """
        SELECT 'database', datname FROM pg_database WHERE datname LIKE %(names)s
        UNION ALL SELECT state, query FROM pg_stat_activity WHERE datname LIKE %(names)s
        """,
    MARIADB: """
        SELECT 'database', schema_name FROM information_schema.schemata
        WHERE schema_name LIKE %(names)s
        UNION ALL SELECT command, info FROM information_schema.processlist
        WHERE db LIKE %(names)s
        """,
}
