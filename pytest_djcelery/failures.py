"""Task failures that nobody looked at."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pytest_djcelery.errors import UnhandledTaskFailureError, UnhandledTaskFailureWarning
from pytest_djcelery.journal import Ended, Journal, Looked

if TYPE_CHECKING:
    from types import TracebackType

    from pytest_djcelery.scope import Scope


def unhandled(journal: Journal) -> list[Ended]:
    """Final failures, in order, whose outcome was not read. ``Task.throws`` are no failures."""
    last: dict[str, Ended] = {}
    for event in journal.events(Ended):
        last[event.task_id] = event
    looked = {event.task_id for event in journal.events(Looked)}
    return [
        event
        for event in last.values()
        if event.state == "FAILURE" and not event.expected and event.task_id not in looked
    ]


def describe(failure: Ended) -> str:
    """Task, id, arguments and attempt in a line."""
    args = ", ".join(
        [
            *map(repr, failure.args or ()),
            *(f"{name}={value!r}" for name, value in (failure.kwargs or {}).items()),
        ]
    )
    attempt = f", attempt {failure.retries + 1}" if failure.retries else ""
    return f"{failure.task}({args}) [{failure.task_id}]{attempt}"


def own_traceback(error: BaseException) -> TracebackType | None:
    """The part of a task's traceback that begins in the task, without Celery's tracer."""
    from pytest_djcelery.locations import in_library

    traceback = error.__traceback__
    while traceback is not None and in_library(traceback.tb_frame.f_code.co_filename):
        traceback = traceback.tb_next
    return traceback or error.__traceback__


def judge(scope: Scope) -> None:
    """Raise or warn, as the options say, if tasks failed unseen.

    Raises:
        UnhandledTaskFailureError: from the first task's own exception.
    """
    scope.settle()
    found = unhandled(scope.journal)
    policy = scope.options.unhandled_failures
    if not found or policy == "ignore":
        return
    if policy == "warn":
        warnings.warn(text(found), UnhandledTaskFailureWarning, stacklevel=2)
        return
    error = found[0].value
    raise UnhandledTaskFailureError(text(found)) from error.with_traceback(own_traceback(error))


def text(failures: list[Ended]) -> str:
    """What is raised or warned at the end of the test."""
    return "\n".join(_lines(failures))


def _lines(failures: list[Ended]) -> Iterator[str]:
    count = len(failures)
    tasks = "A task failed" if count == 1 else f"{count} tasks failed"
    yield f"{tasks} and the test never looked at {'it' if count == 1 else 'them'}:"
    for failure in failures:
        error = failure.value
        yield f"  {describe(failure)}: {type(error).__name__}: {error}"
    yield "Where the failure is meant, look at it: with pytest.raises(…): result.get(), or"
    yield "celery_results[result] == Failure(…), or celery_results.of(task)."
    yield "To let failures pass: @pytest.mark.celery_unhandled_failures('ignore') or djcelery_unhandled_failures."
