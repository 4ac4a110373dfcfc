"""`timeline`: what happened in the test so far, as text."""

from __future__ import annotations

from pytest_djcelery.errors import BadOptionError
from pytest_djcelery.session.session import current_sandbox
from pytest_djcelery.trace import table, terminal_text
from pytest_djcelery.trace.story import Story


def timeline(limit: int = 40) -> str:
    """Show what has happened so far in this test: messages, hooks, transactions, runs of tasks.

    It is the table that a failing test prints; call it anywhere in a test, for example in a
    breakpoint or as the message of an assertion.

    Args:
        limit: How many rows it has at most, greater than zero. The ones around the row that
            matters are kept, and the text says how many were left out.

    Returns:
        The table; an empty text if no fixture or block of this plugin is in use.

    Raises:
        BadOptionError: ``limit`` is not a whole number greater than zero.
    """
    __tracebackhide__ = True
    _check(limit)
    sandbox = current_sandbox()
    if sandbox is None:
        return ""
    return terminal_text.encodable(table.table(Story(sandbox), limit=limit))


def _check(limit: object) -> None:
    __tracebackhide__ = True
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        msg = f"timeline(limit={limit!r}): expected a whole number greater than zero."
        raise BadOptionError(msg)
