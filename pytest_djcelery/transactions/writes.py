"""What a transaction has written: which statements write, and the keys of the written rows."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

_NOT_CODE: Final = re.compile(
    r"""--[^\n]*|/\*.*?\*/                    # comments
    |'(?:[^'\\]|\\.|'')*'                     # strings
    |\$(?P<tag>\w*)\$.*?\$(?P=tag)\$          # dollar-quoted strings of PostgreSQL
    |"[^"]*"|`[^`]*`|\[\w+\]                  # names
    """,
    re.DOTALL | re.VERBOSE,
)
_FLAGS: Final = re.IGNORECASE | re.VERBOSE
# Forms that execute the statement they explain: PostgreSQL's, and MariaDB's ``ANALYZE``.
_EXPLAINED: Final = re.compile(
    r"""EXPLAIN\s?(?:
        ANALY[SZ]E\b(?:\sVERBOSE\b)?
        |\((?=[^)]*\bANALY[SZ]E\b(?!\s(?:FALSE|OFF|0)\b))[^)]*\)
    )\s?
    |ANALYZE\s(?:FORMAT\s?=\s?\w+\s)?(?=\(?(?:INSERT|UPDATE|DELETE|REPLACE|WITH)\b)
    """,
    _FLAGS,
)
_TEMPORARY: Final = r"(?:(?:LOCAL|GLOBAL)\s)?TEMP(?:ORARY)?\b"
# Nothing shows whether a procedure only reads, so it counts as a write. PostgreSQL's DO takes a
# string, MySQL's an expression.
_WRITES: Final = re.compile(
    rf"""[\s(]*(?:
    (?:INSERT|UPDATE|DELETE|MERGE|REPLACE|TRUNCATE|ALTER|DROP|RENAME|LOAD|CALL|EXECUTE)\b
    |REFRESH\sMATERIALIZED\b
    |DO\s(?:LANGUAGE\s\w+\s)?x(?:\sLANGUAGE\s\w+)?$
    |CREATE\s(?!{_TEMPORARY})
    |COPY\s[^\s(]+\s?(?:\([^)]*\)\s?)?FROM\b
    |(?:SELECT|WITH)\b.*?\bINTO\s(?!@|OUTFILE\b|DUMPFILE\b|{_TEMPORARY})
    |WITH\b.*?(?<!FOR\s)(?<!FOR\sNO\sKEY\s)\b(?:UPDATE|DELETE|MERGE)\b
    )""",
    _FLAGS,
)
_CHANGES_ROWS: Final = re.compile(r"\b(?:INSERT|UPDATE|DELETE|MERGE|REPLACE)\b", re.IGNORECASE)
_CHANGES_INSIDE: Final = re.compile(
    r"\b(?:INSERT\sINTO|UPDATE|DELETE\sFROM|MERGE\sINTO)\b", re.IGNORECASE
)
_EXECUTE: Final = re.compile(r"EXECUTE\b", re.IGNORECASE)
_IN_PARENTHESES: Final = re.compile(r"\([^()]*\)")
_SAVEPOINT: Final = re.compile(
    r"""\s*(?:(?P<set>SAVEPOINT)
    |ROLLBACK\s+(?:(?:WORK|TRANSACTION)\s+)?TO(?:\s+SAVEPOINT)?)\s+(?P<name>[^\s;]+)""",
    _FLAGS,
)
#: Types of primary keys. Other values are left alone: asking one for its text, or for its class,
#: could run the project's code, and queries.
_KEYS: Final = (int, str, Decimal, UUID)


@dataclass(frozen=True, slots=True)
class Savepoint:
    """A savepoint that a statement set (``set``) or rolled back to."""

    name: str
    set: bool


def savepoint_of(sql: object) -> Savepoint | None:
    """The savepoint that a statement sets or rolls back to."""
    if not isinstance(sql, str) or sql.lstrip()[:1] not in ("S", "s", "R", "r"):
        return None
    match = _SAVEPOINT.match(sql)
    return None if match is None else Savepoint(match["name"], match["set"] is not None)


def wrote(sql: object, cursor: Any = None) -> bool:
    """Whether a statement that was executed has written.

    Args:
        sql: Text, bytes, or a psycopg ``Composable``.
        cursor: The cursor that executed it. A statement that touched no row did not write.
    """
    statement = _classified(text_of(sql, cursor))
    if not statement.writes or cursor is None:
        return statement.writes
    if statement.prepared and not _was_change(cursor):
        return False
    return not (statement.counted and getattr(cursor, "rowcount", -1) == 0 and _knows_count(cursor))


def text_of(sql: object, cursor: Any = None) -> str:
    """A statement, given as text, as bytes or as a psycopg ``Composable``, as text."""
    if isinstance(sql, bytes):
        return sql.decode(errors="replace")
    if hasattr(sql, "as_string"):  # a psycopg ``Composable``
        return str(sql.as_string(getattr(cursor, "cursor", None)))
    return str(sql)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Statement:
    writes: bool
    counted: bool  # whether the cursor's ``rowcount`` counts the rows that it changes
    prepared: bool  # whether it runs another statement, which its text doesn't show


@lru_cache(maxsize=1024)
def _classified(sql: str) -> _Statement:
    bare = _NOT_CODE.sub(lambda match: " " if match[0][:2] in ("--", "/*") else "x", sql)
    statements = [" ".join(text.split()) for text in bare.split(";") if text.strip()]
    run = [_EXPLAINED.sub("", statement, count=1) for statement in statements]
    alone = len(run) == 1 and run == statements
    return _Statement(
        writes=any(_WRITES.match(statement) for statement in run),
        counted=alone and _counts(run[0]),
        prepared=alone and _EXECUTE.match(run[0]) is not None,
    )


def _counts(statement: str) -> bool:
    """Whether a statement changes rows itself, rather than through another one inside it."""
    if _EXECUTE.match(statement):
        return True
    outside, inside, count = statement.lstrip("( "), [], 1
    while count:
        inside += _IN_PARENTHESES.findall(outside)
        outside, count = _IN_PARENTHESES.subn(" ", outside)
    return _CHANGES_ROWS.search(outside) is not None and not any(
        _CHANGES_INSIDE.search(part) for part in inside
    )


def _was_change(cursor: Any) -> bool:
    """Whether the prepared statement that was executed is one that changes rows."""
    status = getattr(cursor, "statusmessage", None)  # on PostgreSQL: of the prepared statement
    if isinstance(status, str):
        return _CHANGES_ROWS.match(status) is not None
    return cursor.description is None


def _knows_count(cursor: Any) -> bool:
    """Whether ``rowcount`` is known yet: SQLite counts only once the last row was fetched."""
    sqlite = getattr(getattr(cursor, "db", None), "vendor", None) == "sqlite"
    return not sqlite or cursor.description is None


class Rows:
    """The rows written, known by their primary keys: as values, or as text in a message."""

    def __init__(self) -> None:
        self._models: dict[str, dict[str, None]] = {}  # by key: the models that have such a row

    def add(self, model: Any, key: Any) -> None:
        """Note a row that was written."""
        for text in _texts(key):
            self._models.setdefault(text, {}).update(dict.fromkeys(_labels(model)))

    def named_by(self, value: Any) -> list[str]:
        """The models of the written rows that a value in a message names, or is."""
        if not _is_row(value):
            return [model for key in _texts(value)[:1] for model in self._models.get(key, ())]
        model = value._meta.label
        return [model for key in _texts(value.pk)[:1] if model in self._models.get(key, ())]


def _labels(model: Any) -> Iterator[str]:
    """A model, and those whose rows have the same key: a proxy's model, and parent models."""
    while True:
        yield model._meta.label
        if model._meta.proxy:
            model = model._meta.concrete_model
        elif getattr(model._meta.pk.remote_field, "parent_link", False):
            model = model._meta.pk.remote_field.model
        else:
            return


def _texts(key: Any) -> list[str]:
    if type(key) not in _KEYS:
        return []
    return [str(key), key.hex] if type(key) is UUID else [str(key)]


def _is_row(value: Any) -> bool:
    models = sys.modules.get("django.db.models")
    return models is not None and issubclass(type(value), models.Model)
