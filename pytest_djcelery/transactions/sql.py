"""Whether a statement wrote."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

_NO_CODE = re.compile(
    r"""--[^\n]*|/\*.*?\*/                    # comments
    |'(?:[^'\\]|\\.|'')*'                     # strings
    |\$(?P<tag>\w*)\$.*?\$(?P=tag)\$          # PostgreSQL's other strings
    |"[^"]*"|`[^`]*`|\[\w+\]                  # names
    """,
    re.DOTALL | re.VERBOSE,
)
_WRITES = re.compile(
    r"""[\s(]*(?:
    (?:INSERT|UPDATE|DELETE|MERGE|REPLACE|TRUNCATE|ALTER|DROP|RENAME|LOAD)\b
    |CREATE\s+(?!(?:LOCAL\s+|GLOBAL\s+)?TEMP(?:ORARY)?\b)
    |COPY\s+[^\s(]+\s*(?:\([^)]*\)\s*)?FROM\b
    |WITH\b.*?(?<!FOR\s)(?<!FOR\sNO\sKEY\s)\b(?:INSERT|UPDATE|DELETE|MERGE)\b
    )""",
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
_MAY_MATCH_NOTHING = re.compile(
    r"[\s(]*(?:UPDATE|DELETE)\b(?!.*\bRETURNING\b)", re.IGNORECASE | re.DOTALL
)


def wrote(sql: object, cursor: Any = None) -> bool:
    """Whether a statement that was executed has written.

    Args:
        sql: Text, bytes, or what psycopg composes.
        cursor: The cursor that executed it. An UPDATE or DELETE that matched no row is no write.
    """
    if isinstance(sql, bytes):
        text = sql.decode(errors="replace")
    elif hasattr(sql, "as_string"):  # a psycopg ``Composable``
        text = sql.as_string(getattr(cursor, "cursor", None))
    else:
        text = str(sql)
    writes, may_match_nothing = _classified(text)
    return writes and not (may_match_nothing and getattr(cursor, "rowcount", -1) == 0)


@lru_cache(maxsize=1024)
def _classified(sql: str) -> tuple[bool, bool]:
    bare = _NO_CODE.sub(lambda match: " " if match[0][:2] in ("--", "/*") else "x", sql)
    statements = [" ".join(each.split()) for each in bare.split(";") if each.strip()]
    return (
        any(_WRITES.match(each) for each in statements),
        len(statements) == 1 and _MAY_MATCH_NOTHING.match(statements[0]) is not None,
    )
