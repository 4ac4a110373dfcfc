"""What a run leaves in the databases: the tables that it writes to, read before and after it.

A table is read for the first time just before the first statement that may write to it. So only
what is written to is read, whatever the database is, in the test's transaction or in real ones,
and a statement that changes nothing is no change.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from pytest_djcelery.redelivery.contents import Contents, Table, emptied_by_database
from pytest_djcelery.transactions.captures import underlying
from pytest_djcelery.transactions.connections import all_connections
from pytest_djcelery.transactions.writes import text_of, wrote

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from typing_extensions import Self


_SAVEPOINT: Final = "djcelery_second_run"
#: Apps whose rows are results, which the plugin keeps as they were.
_OF_RESULTS: Final = frozenset({"django_celery_results"})

_tables: WeakKeyDictionary[Any, Tables] = WeakKeyDictionary()


class WrittenRows:
    """Notices within its ``with`` what is written to the databases of this thread.

    Where a connection is in a transaction, as in a test that is rolled back, that is undone at the
    end of the ``with``.
    """

    def __init__(self) -> None:
        self._connections: list[_Watched] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        distinct = {id(underlying(found)): found for found in all_connections()}
        with ExitStack() as stack:
            for connection in distinct.values():
                stack.enter_context(_undone(connection))
                watched = _Watched(connection)
                stack.enter_context(watched.watching())
                self._connections.append(watched)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def changes(self) -> list[str]:
        """What is different now, in words; to be called within the ``with``."""
        return [change for watched in self._connections for change in watched.changes()]

    def procedure_called(self, connection: BaseDatabaseWrapper) -> None:
        """Note that a procedure is about to be called, which may write to any table."""
        for watched in self._connections:
            watched.procedure_called(connection)


class _Watched:
    """A connection, and the tables that are written to, as they were before."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._connection = connection
        self._before: dict[str, tuple[Table, Contents]] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        wrappers = self._connection.execute_wrappers
        own = self._execute
        # In front: ``connection.execute_wrapper()`` removes the last one when it ends.
        wrappers.insert(0, own)
        try:
            yield
        finally:
            wrappers[:] = [wrapper for wrapper in wrappers if wrapper is not own]

    def _execute(
        self,
        execute: Callable[[str, Any, bool, dict[str, Any]], Any],
        sql: str,
        params: Any,
        many: bool,  # noqa: FBT001 - as Django calls it
        context: dict[str, Any],
    ) -> Any:
        __tracebackhide__ = True
        self._read(lambda tables: tables.written_by(sql, self._connection))
        return execute(sql, params, many, context)

    def procedure_called(self, connection: BaseDatabaseWrapper) -> None:
        if underlying(connection) is underlying(self._connection):
            self._read(lambda tables: tables.all_of(self._connection))

    def _read(self, written: Callable[[Tables], Iterable[str]]) -> None:
        """Read the tables that are about to be written to, unless the statement will be refused."""
        from django.db import DatabaseError

        connection: Any = self._connection
        if connection.needs_rollback:
            return
        known = _tables.setdefault(underlying(connection), Tables())
        with suppress(DatabaseError), connection.wrap_database_errors:
            pending = [*written(known)][::-1]
            while pending:
                name = pending.pop()
                if name not in self._before and name not in _tables_of_caches():
                    table = Table(connection, name)
                    if table.app not in _OF_RESULTS:
                        self._before[name] = table, table.read()
                        pending += emptied_by_database(name)

    def changes(self) -> Iterator[str]:
        from django.db import DEFAULT_DB_ALIAS, DatabaseError

        connection: Any = self._connection
        where = "" if connection.alias == DEFAULT_DB_ALIAS else f" (database {connection.alias})"
        if self._before:
            connection.ensure_connection()
        for table, before in self._before.values():
            try:
                with connection.wrap_database_errors:
                    found = list(table.changes(before))
            except DatabaseError as error:
                yield f"{table.name}{where} can't be read any more: {error}"
                return
            yield from (f"{change}{where}" for change in found)


@contextmanager
def _undone(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Undo at the end what was written within the ``with``, in a transaction that is open."""
    from django.db import Error

    known: Any = connection
    if not (known.in_atomic_block and known.features.uses_savepoints) or known.needs_rollback:
        yield
        return
    _run(known, known.ops.savepoint_create_sql(_SAVEPOINT))
    try:
        yield
    finally:
        with suppress(Error):  # the connection is lost, and so is what was written
            _run(known, known.ops.savepoint_rollback_sql(_SAVEPOINT))
            _run(known, known.ops.savepoint_commit_sql(_SAVEPOINT))
        known.needs_rollback = False


def _tables_of_caches() -> set[str]:
    """The tables that Django's database cache uses: a cache is not what a task leaves."""
    module = sys.modules.get("django.core.cache.backends.db")
    if module is None:  # importing it would connect a receiver of Django's
        return set()
    from django.core.cache import caches

    used: list[Any] = caches.all(initialized_only=True)
    return {vars(cache)["_table"] for cache in used if isinstance(cache, module.BaseDatabaseCache)}


def _run(connection: Any, sql: str) -> None:
    with connection.wrap_database_errors, closing(connection.create_cursor()) as cursor:
        cursor.execute(sql)


# Which tables of a database a statement may write to, found by their names in its text ----

_IDENTIFIER: Final = re.compile(r"\"([^\"]+)\"|`([^`]+)`|\[(\w+)\]|\b([^\W\d][\w$]*)")
# What comes after these is the name of a table, with a schema before it or without.
_TARGET: Final = re.compile(
    r"\b(?:INTO|UPDATE|FROM|TABLE|JOIN|COPY)\s+(?:ONLY\s+)?((?:[\w$]+|\"[^\"]+\"|`[^`]+`)"
    r"(?:\s*\.\s*(?:[\w$]+|\"[^\"]+\"|`[^`]+`))*)",
    re.IGNORECASE,
)
# Their text doesn't show what they write.
_HIDDEN: Final = re.compile(r"\s*(?:CALL|EXECUTE|DO)\b", re.IGNORECASE)


class Tables:
    """The tables of one database, by the names with which statements call them."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}  # as the database has them, by their lower case

    def written_by(self, sql: object, connection: BaseDatabaseWrapper) -> Iterable[str]:
        """The tables that a statement which is about to be executed may write to.

        A statement that writes may write to each table that it names: finding out which of them it
        only reads would take a parser for each database, and comparing one table too many costs
        little.

        Args:
            sql: Text, bytes, or a psycopg ``Composable``.
            connection: Where it is executed.
        """
        if not wrote(sql):
            return ()
        text = text_of(sql)
        if _HIDDEN.match(text):
            return self.all_of(connection)
        if not _targets(text) <= self._names.keys():  # one that was made since
            self._read(connection)
        return [self._names[name] for name in _identifiers(text) if name in self._names]

    def all_of(self, connection: BaseDatabaseWrapper) -> Iterable[str]:
        """All of them, for what writes to any of them."""
        self._read(connection)
        return list(self._names.values())

    def _read(self, connection: BaseDatabaseWrapper) -> None:
        cursor: Any = connection.create_cursor()
        try:
            names = connection.introspection.table_names(cursor)
        finally:
            cursor.close()
        self._names = {name.lower(): name for name in names}


@lru_cache(maxsize=1024)
def _identifiers(text: str) -> tuple[str, ...]:
    """All names in a statement, once each, in lower case, in their order."""
    found = ("".join(filter(None, match.groups())).lower() for match in _IDENTIFIER.finditer(text))
    return tuple(dict.fromkeys(found))


@lru_cache(maxsize=1024)
def _targets(text: str) -> frozenset[str]:
    return frozenset(_identifiers(match[1])[-1] for match in _TARGET.finditer(text))
