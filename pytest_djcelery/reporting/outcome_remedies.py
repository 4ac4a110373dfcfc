"""What to do about an outcome that differs, by what differs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import replace
from traceback import format_exception_only
from typing import Any

from pytest_djcelery.locations import Location
from pytest_djcelery.messages.outcomes import Failure, Outcome, Outcomes, Pending, Revoked, Success
from pytest_djcelery.messages.wire import same
from pytest_djcelery.recording.failures import raised_text
from pytest_djcelery.session.session import current_sandbox

_LONGEST = 100  # characters of an outcome that a person would copy


def of_difference(actual: Any, expected: Any) -> str:
    """What to do where a task ended in another way, or is not yet at its end."""
    if isinstance(actual, Outcomes):
        actual = actual.as_one
    if isinstance(expected, type) and issubclass(expected, Outcome):
        return _of_class(actual, expected)
    if not isinstance(expected, Outcome):
        return (
            "celery_results has outcomes: compare with Success(...), Failure(...) or Revoked(); "
            "result.get() has the value alone."
        )
    if not _is_final(actual):
        return _of_unfinished() if _is_final(expected) else _of_value(actual)
    if isinstance(expected, Pending):
        return (
            "It is over: look before a worker runs it. celery_inline delivers when the test says "
            "so."
        )
    if not _is_final(expected):
        return "It is over: celery_results.history(result) has the states that it passed through."
    return _of_ending(actual, expected)


def _of_class(actual: Any, expected: type[Outcome]) -> str:
    name = expected.__qualname__
    example = f"{name}(...)"
    if isinstance(actual, expected):
        written = _expectation(actual)
        example = written if len(written) <= _LONGEST else example
    return f"{name} is a class: compare with an instance, such as {example}."


def _of_ending(actual: Any, expected: Any) -> str:
    if replace(actual, retries=None) == expected:
        return (
            f"If {actual.retries} is right, expect retries={actual.retries}; a number that is not "
            "named is not compared. celery_results.history(result) has the states in between."
        )
    if isinstance(expected, Revoked):
        return (
            "What a worker has begun is run: call result.revoke(), or let expires pass, before the "
            "message is delivered."
        )
    if isinstance(actual, Revoked):
        return "Nothing ran: find the revoke(), or the expires that passed before the delivery."
    if isinstance(actual, Failure):
        return _of_failure(actual, expected)
    if isinstance(expected, Success) and _as_json_has_it(actual.value, expected.value):
        return (
            "A result goes through the serializer, which makes a list of a tuple, for one: expect "
            "what result.get() returns."
        )
    return _of_value(actual)


def of_fewer() -> str:
    """What to do where outcomes are missing."""
    return "Each message that was sent has one outcome: see celery_outbox for what was sent."


def of_more(actual: object) -> str:
    """What to do where there are more outcomes than expected."""
    if isinstance(actual, Outcomes):
        return "A group has an outcome for each of its tasks; Success([...]) stands for the whole."
    return "celery_results.of(task) has every message of this test; celery_results[result] has one."


def of_history(happened: Sequence[Any], wanted: Sequence[Any]) -> str:
    """What to do where a task went through other states."""
    states = [change.state for change in happened]
    expected = [getattr(change, "state", None) for change in wanted]
    if not happened:
        return "No state was stored: the task has not run yet, or it ignores its result."
    if "STARTED" in expected and "STARTED" not in states:
        return (
            "Celery stores STARTED with task_track_started alone: "
            "@pytest.mark.celery(task_track_started=True)."
        )
    if states == expected:
        return "Where what comes with a state doesn't matter, write mock.ANY for it."
    return f"If what happened is right, expect the states {', '.join(states)}."


def _is_final(outcome: object) -> bool:
    return hasattr(outcome, "retries")


def _of_unfinished() -> str:
    current = current_sandbox()
    if current is not None and current.runner is None:
        return current.situation()
    if current is not None and current.runner is not None and current.runner.in_place:
        return (
            "now() delivers nothing: celery_inline.run() does, and celery_results[result], until "
            "the final outcome."
        )
    return "now() does not wait; celery_results[result] waits for the final outcome."


def _of_failure(actual: Any, expected: Any) -> str:
    match = getattr(expected, "match", None)
    text = str(actual.exception)
    if match is not None and match in text and re.search(match, text) is None:
        return f"match is a regular expression: write match=re.escape({match!r})."
    kind = type(actual.exception)
    if lost := not_restored(actual):
        match = "" if _type_name(lost) not in text else f", match={_type_name(lost)!r}"
        return (
            f"Celery can't make {_type_name(lost)} again from what is stored, so get() raises "
            f"{kind.__qualname__}. If the failure is meant, expect "
            f"Failure({kind.__qualname__}{match}); if not, begin at the line that raised it."
        )
    alike = isinstance(expected, Failure) and type(expected.exception) is kind
    if alike and match is None:
        return f"Where its arguments don't matter, expect the type: Failure({kind.__qualname__})."
    meant = f"Failure({kind.__qualname__}"
    if match is not None and len(text) <= _LONGEST:
        meant += f", match={re.escape(text)!r}"
    return f"If the failure is meant, expect {meant}); if not, begin at the line that raised it."


def not_restored(failure: Any) -> list[str]:
    """What a task raised, as text, where what is stored of it has become something else."""
    raised = failure.raised
    lines = (
        raised_text(failure.traceback or "")
        if raised is None
        else "".join(format_exception_only(type(raised), raised)).splitlines()
    )
    return lines if lines and _type_name(lines) != type(failure.exception).__name__ else []


def _type_name(lines: Sequence[str]) -> str:
    return lines[0].partition(":")[0].rpartition(".")[2]


def _as_json_has_it(actual: object, expected: object) -> bool:
    return same(expected, actual, "json")


def _of_value(actual: Any) -> str:
    where = _location(actual)
    written = _expectation(actual)
    right = f"If what happened is right, expect {written if len(written) <= _LONGEST else 'that'}"
    return f"{right}; if not, change the task at {where}." if where else f"{right}."


def _expectation(actual: Any) -> str:
    """What a test would write for an outcome that happened."""
    return repr(replace(actual, retries=None) if _is_final(actual) else actual)


def _location(outcome: Any) -> Location | None:
    """Where the task is defined."""
    current = current_sandbox()
    name = str(outcome.task).partition("(")[0]
    task = current.app.tasks.get(name) if current is not None else None
    code = getattr(inspect.unwrap(task.run), "__code__", None) if task is not None else None
    if code is None:
        return None
    return Location(path=code.co_filename, line=code.co_firstlineno, function=code.co_name)
