"""Task failures that nobody looked at."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator
from typing import TYPE_CHECKING

from pytest_djcelery.locations import in_library, is_of_project, relative
from pytest_djcelery.messages.journal import Ended, Event, Journal, Looked, RaisedElsewhere
from pytest_djcelery.recording.result_looks import reached_test

if TYPE_CHECKING:
    from types import TracebackType


# A call in a formatted traceback.
_CALL = re.compile(r'\s*File "(?P<path>.+)", line (?P<line>\d+), in (?P<function>.+)')


def unhandled(journal: Journal, suite: Container[str], since: int = 0) -> list[Ended]:
    """Final failures, in order, whose outcome was not read. ``Task.throws`` are no failures.

    Args:
        journal: what happened.
        suite: the files of the tests.
        since: the position from which on a failure counts.
    """
    reads = [
        event for event in journal.events(Event) if isinstance(event, Looked | RaisedElsewhere)
    ]
    return unseen(journal.events(Ended, since), reads, suite)


def unseen(
    attempts: Iterable[Ended], reads: Iterable[Looked | RaisedElsewhere], suite: Container[str]
) -> list[Ended]:
    """Those of the tasks' attempts that are final failures, and that the test never saw."""
    last: dict[str, Ended] = {}
    for event in attempts:
        # An attempt that leads to another may be told of after that one (`Results._ended`).
        if not event.goes_on or event.task_id not in last:
            last[event.task_id] = event
    looked: set[str] = set()
    for read in reads:
        if isinstance(read, Looked):
            looked.add(read.task_id)
        elif reached_test(read.error, suite):
            looked.update(read.task_ids)
    return [
        event
        for event in last.values()
        if event.state == "FAILURE"
        and not event.expected
        and event.task_id not in looked
        and not (event.eager and reached_test(event.value, suite))  # raised at the call
    ]


def describe(failure: Ended) -> str:
    """Task, id, arguments and attempt in a line."""
    # It loads Celery, which a run that uses no fixture must not.
    from pytest_djcelery.messages.descriptions import call_text

    attempt = f", attempt {failure.retries + 1}" if failure.retries else ""
    call = call_text(failure.task, failure.args or (), failure.kwargs or {})
    return f"{call} [{failure.task_id}]{attempt}"


def own_traceback(error: BaseException) -> TracebackType | None:
    """The part of a task's traceback that begins in the task, without Celery's tracer."""
    traceback = error.__traceback__
    while traceback is not None and in_library(traceback.tb_frame.f_code.co_filename):
        traceback = traceback.tb_next
    return traceback or error.__traceback__


def own_calls(text: str) -> Iterator[str]:
    """The project's own calls in a formatted traceback, in a line each, innermost last."""
    lines = text.splitlines()
    calls = [(number, found) for number, line in enumerate(lines) if (found := _CALL.match(line))]
    own = [each for each in calls if is_of_project(each[1]["path"])]
    for number, call in own or [each for each in calls if not in_library(each[1]["path"])]:
        source = lines[number + 1].strip() if number + 1 < len(lines) else ""
        yield f"at {relative(call['path'])}:{call['line']} in {call['function']}: {source}"


def raised_text(text: str) -> list[str]:
    """The lines of a formatted traceback that tell what was raised: its type and its text."""
    lines = text.splitlines()
    last = max((number for number, line in enumerate(lines) if _CALL.match(line)), default=-1)
    rest = lines[last + 1 :]
    first = next((number for number, line in enumerate(rest) if line[:1].strip()), len(rest))
    return rest[first:]


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
    yield "Where the failure is meant, look at it: with pytest.raises(...): result.get(), or"
    yield "celery_results[result] == Failure(...), or celery_results.of(task)."
    yield "To let failures pass: @pytest.mark.celery_unhandled_failures('ignore'), or"
    yield "djcelery_unhandled_failures = ignore for the whole run."
