"""What a statement did: whether it wrote, whether it set or undid a savepoint."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

_NO_CODE: Final = re.compile(
    r"""--[^\n]*|/\*.*?\*/                    # comments
    |'(?:[^'\\]|\\.|'')*'                     # strings
    |\$(?P<tag>\w*)\$.*?\$(?P=tag)\$          # PostgreSQL's other strings
    |"[^"]*"|`[^`]*`|\[\w+\]                  # names
    """,
    re.DOTALL | re.VERBOSE,
)
_FLAGS: Final = re.IGNORECASE | re.VERBOSE
# Executes the statement that it explains: PostgreSQL's, and MariaDB's ``ANALYZE``.
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
# A procedure may read only; nothing tells. PostgreSQL's DO takes a string, MySQL's an expression.
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


@dataclass(frozen=True, slots=True)
class Savepoint:
    """A savepoint that a statement has set, or has undone everything since."""

    name: str
    set: bool


def savepoint(sql: object) -> Savepoint | None:
    """The savepoint that a statement sets or rolls back to."""
    if not isinstance(sql, str) or sql.lstrip()[:1] not in ("S", "s", "R", "r"):
        return None
    match = _SAVEPOINT.match(sql)
    return None if match is None else Savepoint(match["name"], match["set"] is not None)


def wrote(sql: object, cursor: Any = None) -> bool:
    """Whether a statement that was executed has written.

    Args:
        sql: Text, bytes, or what psycopg composes.
        cursor: The cursor that executed it. A statement that touched no row is no write.
    """
    if isinstance(sql, bytes):
        text = sql.decode(errors="replace")
    elif hasattr(sql, "as_string"):  # a psycopg ``Composable``
        text = sql.as_string(getattr(cursor, "cursor", None))
    else:
        text = str(sql)
    statement = _classified(text)
    if not statement.writes or cursor is None:
        return statement.writes
    if statement.prepared and not _was_change(cursor):
        return False
    return not (statement.counted and getattr(cursor, "rowcount", -1) == 0 and _knows_count(cursor))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Statement:
    writes: bool
    counted: bool  # whether the cursor's ``rowcount`` is that of the rows it changes
    prepared: bool  # whether it runs another, which its text doesn't tell


@lru_cache(maxsize=1024)
def _classified(sql: str) -> _Statement:
    bare = _NO_CODE.sub(lambda match: " " if match[0][:2] in ("--", "/*") else "x", sql)
    statements = [" ".join(each.split()) for each in bare.split(";") if each.strip()]
    run = [_EXPLAINED.sub("", each, count=1) for each in statements]
    alone = len(run) == 1 and run == statements
    return _Statement(
        writes=any(_WRITES.match(each) for each in run),
        counted=alone and _counts(run[0]),
        prepared=alone and _EXECUTE.match(run[0]) is not None,
    )


def _counts(statement: str) -> bool:
    """Whether a statement changes rows by itself, and not by another inside it."""
    if _EXECUTE.match(statement):
        return True
    outside, inside, count = statement.lstrip("( "), [], 1
    while count:
        inside += _IN_PARENTHESES.findall(outside)
        outside, count = _IN_PARENTHESES.subn(" ", outside)
    return _CHANGES_ROWS.search(outside) is not None and not any(
        _CHANGES_INSIDE.search(each) for each in inside
    )


def _was_change(cursor: Any) -> bool:
    """Whether a prepared statement that was executed is one that changes rows."""
    status = getattr(cursor, "statusmessage", None)  # PostgreSQL's, of the statement itself
    if isinstance(status, str):
        return _CHANGES_ROWS.match(status) is not None
    return cursor.description is None


def _knows_count(cursor: Any) -> bool:
    """Whether ``rowcount`` is known yet: SQLite counts only when the last row was fetched."""
    sqlite = getattr(getattr(cursor, "db", None), "vendor", None) == "sqlite"
    return not sqlite or cursor.description is None
