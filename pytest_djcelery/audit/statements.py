"""The code of a statement, where one line of it says little."""

from __future__ import annotations

import ast
import linecache
from functools import lru_cache

_LONGEST = 200  # characters


@lru_cache(maxsize=256)
def statement_at(path: str, line: int) -> str:
    """The innermost statement of a line in one line, or that line alone where it can't be told."""
    own = linecache.getline(path, line).strip()
    found = [each for each in _statements(path) if each.lineno <= line <= (each.end_lineno or 0)]
    if not found or found[-1].lineno == found[-1].end_lineno or hasattr(found[-1], "body"):
        return own
    # Python 3.10 writes a space behind a lambda without arguments.
    written = ast.unparse(found[-1]).replace("lambda :", "lambda:")
    return " ".join(written.split()) if len(written) <= _LONGEST else f"{written[:_LONGEST]}…"


@lru_cache(maxsize=32)
def _statements(path: str) -> list[ast.stmt]:
    """In the order of the text, the outer before those in it."""
    try:
        tree = ast.parse("".join(linecache.getlines(path)))
    except (SyntaxError, ValueError):  # what is there now is not what runs
        return []
    statements = [each for each in ast.walk(tree) if isinstance(each, ast.stmt)]
    return sorted(statements, key=lambda each: (each.lineno, -(each.end_lineno or 0)))
