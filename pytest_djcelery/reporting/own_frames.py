"""Takes out of the traceback of an error of use what no reader of it can change."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final

import pytest

from pytest_djcelery.errors import DjceleryError

# This plugin's own frames, and those between a test and its fixtures.
_INTERNAL: Final = frozenset({"pytest_djcelery", "_pytest", "pluggy", "contextlib"})


def hidden(item: pytest.Item, call: pytest.CallInfo[None]) -> bool:
    """Take internal frames out, if the error is this plugin's; return whether nothing is left.

    With ``--full-trace`` they stay.
    """
    error = None if call.excinfo is None else call.excinfo.value
    if not isinstance(error, DjceleryError | pytest.UsageError):
        return False
    if item.config.getoption("fulltrace"):
        return False
    entries = list(_entries(error.__traceback__))
    if isinstance(error, pytest.UsageError) and "pytest_djcelery" not in map(_package, entries):
        return False  # another plugin's
    own = [entry for entry in entries if _package(entry) not in _INTERNAL]
    if own:
        # pytest follows the links of the traceback itself.
        linked: TracebackType | None = None
        for entry in reversed(own):
            linked = TracebackType(linked, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
        call.excinfo = pytest.ExceptionInfo.from_exception(error.with_traceback(linked))
    return not own


def text_alone(excinfo: pytest.ExceptionInfo[BaseException], shown: Any) -> Any:
    """What pytest shows of an error, without any frame of it; what led to it keeps its frames.

    Private API (``reprtraceback`` and ``chain``), checked on pytest 8.0 to 9.2.

    Args:
        excinfo: The error.
        shown: What pytest shows with frames.
    """
    alone: Any = excinfo.getrepr(style="value")
    entry = alone.reprtraceback.reprentries[-1]
    entry.style = "long"  # in which lines are marked as the error's
    entry.lines = [f"E   {line}" for line in excinfo.exconly().split("\n")]
    if excinfo.value.__cause__ is None:
        return alone
    shown.chain[-1] = alone.reprtraceback, *shown.chain[-1][1:]
    shown.reprtraceback = alone.reprtraceback
    return shown


def _entries(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def _package(entry: TracebackType) -> str:
    return str(entry.tb_frame.f_globals.get("__name__")).partition(".")[0]
