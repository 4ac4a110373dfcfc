"""What pytest shows of failed tests beside our sections: one error of many, shorter tracebacks.

Tests also fail in a run that uses no fixture, so this module loads neither Django nor Celery.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_djcelery.errors import DjceleryError
from pytest_djcelery.locations import in_library, relative
from pytest_djcelery.messages.events import Ended
from pytest_djcelery.recording import failures

if TYPE_CHECKING:
    from pytest_djcelery.session.sandbox import Sandbox


_NOTED = "_djcelery_task_errors"
_LONGEST = 160  # characters of an error


def note_errors(report: pytest.TestReport, sandbox: Sandbox, error: BaseException | None) -> None:
    """Note in a failed test's report by which errors of tasks it failed.

    The note is plain data, which xdist sends to the controlling process.
    """
    failed = failures.unhandled(sandbox.journal, sandbox.suite, sandbox.began)
    unseen = {id(failure) for failure in failed}
    found = {
        _error_of(attempt): None
        for attempt in sandbox.journal.events(Ended, sandbox.began)
        if attempt.state == "FAILURE"
        and not attempt.expected
        and (
            id(attempt) in unseen
            or failures.led_to(attempt.value, error)
            or failures.is_copy(error, attempt.value)
        )
    }
    if found:
        vars(report)[_NOTED] = list(map(list, found))


def _error_of(failure: Ended) -> tuple[str, str, str, str]:
    """Task, place and type, by which errors count as one, and the text, which may differ."""
    error = failure.value
    place = ""
    traceback = failures.own_traceback(error) if isinstance(error, BaseException) else None
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if not in_library(code.co_filename):
            place = f"{relative(code.co_filename)}:{traceback.tb_lineno} in {code.co_name}"
        traceback = traceback.tb_next
    text = (str(error).splitlines() or [""])[0][:_LONGEST]
    return failure.task, place, type(error).__name__, text


def one_error(reports: Iterable[pytest.TestReport]) -> Iterator[str]:
    """A line for each error by which several tests failed, the most tests first."""
    tests: dict[tuple[str, ...], set[str]] = defaultdict(set)
    texts: dict[tuple[str, ...], str] = {}
    for report in reports:
        for *error, text in getattr(report, _NOTED, ()):
            tests[tuple(error)].add(report.nodeid)
            texts.setdefault(tuple(error), text)
    for error, failed in sorted(tests.items(), key=lambda found: -len(found[1])):
        if len(failed) > 1:
            task, place, kind = error
            where = f" ({place})" if place else ""
            raised = f"{kind}: {texts[error]}" if texts[error] else kind
            yield f"{len(failed)} tests failed by one error of {task}: {raised}{where}"


# The traceback of an error of use, without what no reader of it can change ----------------

# This plugin's own frames, and those between a test and its fixtures.
_INTERNAL: Final = frozenset({"pytest_djcelery", "_pytest", "pluggy", "contextlib"})


def internals_hidden(item: pytest.Item, call: pytest.CallInfo[None]) -> bool:
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
