"""The colours and the characters of a terminal, for the sections of a failing test.

Reports have plain text, so that xdist can send them and other plugins can show them; pytest's
terminal gets what it can show. A run in which tests fail that use nothing of ours loads only this.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pytest

TITLE: Final = "celery: timeline"
MARK: Final = ">"  # what the line of the row that matters begins with
_ONE: Final = ord("①")
#: What to print where a terminal lacks a character.
_PLAIN: Final = {**{_ONE + number: f"#{number + 1}" for number in range(20)}, ord("…"): "..."}


@contextmanager
def adapted(writer: Any, reports: Iterable[pytest.TestReport]) -> Iterator[None]:
    """Within the ``with``, the sections of ours have what the terminal can show.

    Args:
        writer: pytest's `TerminalWriter`, which knows of ``--color``, ``NO_COLOR`` and ``TERM``.
        reports: Of the tests that failed.
    """
    encoding = getattr(getattr(writer, "_file", None), "encoding", None)
    before = [(report, list(report.sections)) for report in reports]
    for report, sections in before:
        report.sections[:] = [
            (name, _shown(writer, name, encodable(text, encoding)))
            if name.startswith("celery:")
            else (name, text)
            for name, text in sections
        ]
    try:
        yield
    finally:
        for report, sections in before:
            report.sections[:] = sections


def _shown(writer: Any, name: str, text: str) -> str:
    if name != TITLE or not writer.hasmarkup:
        return text
    heading, *lines = text.split("\n")
    shown = [writer.markup(heading, bold=True)] if lines else [heading]
    shown += [
        writer.markup(line, red=True, bold=True) if line.startswith(MARK) else line
        for line in lines
    ]
    return "\n".join(shown)


def encodable(text: str, encoding: str | None = None) -> str:
    """The text in characters that a terminal has: ``#1`` in place of ``①``, if it must be.

    Args:
        text: The text.
        encoding: Of the terminal; by default that of standard output.
    """
    encoding = encoding or getattr(sys.__stdout__, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        plain = text.translate(_PLAIN)
        return plain.encode("ascii", "backslashreplace").decode("ascii")
    return text
