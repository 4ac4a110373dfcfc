"""Which tables of a database a statement may write to, found by their names in its text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from pytest_djcelery.transactions.writes import text_of, wrote

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

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
