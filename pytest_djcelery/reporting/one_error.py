"""Sums up, in one line at the end of a run, many tests that failed by one error of a task.

Tests also fail in a run that uses no fixture, so this module loads neither Django nor Celery.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from pytest_djcelery.locations import in_library, relative
from pytest_djcelery.messages.journal import Ended
from pytest_djcelery.recording import failures

if TYPE_CHECKING:
    import pytest

    from pytest_djcelery.session.sandbox import Sandbox

_NOTED = "_djcelery_task_errors"
_LONGEST = 160  # characters of an error


def note(report: pytest.TestReport, sandbox: Sandbox, error: BaseException | None) -> None:
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


def lines(reports: Iterable[pytest.TestReport]) -> Iterator[str]:
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
