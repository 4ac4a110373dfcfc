"""Errors on messages inside a transaction that the project's own ``except`` has caught."""

from __future__ import annotations

import ast
import linecache
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pytest_djcelery import locations
from pytest_djcelery.messages.journal import RaceRaised

if TYPE_CHECKING:
    from types import FrameType, TracebackType

    from pytest_djcelery.messages.journal import Journal

_TASKS: Final = "celery.app."  # where Celery makes of an error the failure of a task, or a retry
_NAMED: Final = re.compile("SentInTransaction|Djcelery(?:Error|Warning)")


def swallowed(journal: Journal, since: int = 0) -> list[Exception]:
    """The errors that have reached neither the test nor a task's result, in order.

    Args:
        journal: what happened.
        since: the position from which on an error counts.
    """
    raised = {id(event.error): event for event in journal.events(RaceRaised, since)}
    return [event.error for event in raised.values() if not _surfaced(event)]


def text(errors: list[Exception]) -> str:
    """What is raised at the end of the test."""
    return "\n".join(_lines(errors))


def _lines(errors: list[Exception]) -> Iterator[str]:
    for error in errors:
        name = type(error).__name__
        yield f"{name} was raised, but the code under test caught it, so the test did not see it."
        yield f"  caught at: {_place(error.__traceback__)}"
        yield str(error)
        yield ""
    yield "To let such messages pass: @pytest.mark.celery_sent_in_transaction('ignore'), or"
    yield "djcelery_sent_in_transaction = ignore for the whole run."


def _surfaced(event: RaceRaised) -> bool:
    """Whether an error was caught by the test, for a task's result, or by its own name.

    A traceback grows with each frame that the error leaves: the outermost is that which caught it.
    """
    traceback = event.error.__traceback__
    if traceback is None:
        return False
    frame = traceback.tb_frame
    return (
        frame.f_code in event.tests
        or locations.in_runner(frame)
        or _module(frame).startswith(_TASKS)
        or _caught_by_name(frame.f_code.co_filename, traceback.tb_lineno)
    )


def _caught_by_name(path: str, line: int) -> bool:
    """Whether an ``except`` or a ``with pytest.raises(…)`` around a line means these errors."""
    try:
        tree = ast.parse("".join(linecache.getlines(path)))
    except SyntaxError:
        return False
    return any(
        _NAMED.search(ast.unparse(each))
        for node in ast.walk(tree)
        if isinstance(node, ast.Try | ast.With | ast.AsyncWith) and _around(node.body, line)
        for each in _catching(node)
    )


def _catching(node: ast.Try | ast.With | ast.AsyncWith) -> list[ast.expr]:
    if isinstance(node, ast.Try):
        return [handler.type for handler in node.handlers if handler.type is not None]
    return [item.context_expr for item in node.items]


def _around(body: list[ast.stmt], line: int) -> bool:
    return body[0].lineno <= line <= (body[-1].end_lineno or line)


def _place(traceback: TracebackType | None) -> str:
    if traceback is None:
        return "an unknown line"
    frame = traceback.tb_frame
    code = frame.f_code
    if locations.in_library(code.co_filename):
        return f"{_module(frame)}.{getattr(code, 'co_qualname', code.co_name)}"
    return f"{locations.relative(code.co_filename)}:{traceback.tb_lineno} in {code.co_name}"


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__"))
