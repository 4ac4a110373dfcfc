"""Texts for outcomes that differ from what a test expected, with the remedy."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from traceback import format_exception_only
from typing import Any

from pytest_djcelery.locations import Location
from pytest_djcelery.messages.descriptions import LONGEST_LIST
from pytest_djcelery.messages.outcomes import (
    Failure,
    History,
    Outcome,
    Outcomes,
    Pending,
    Revoked,
    Success,
)
from pytest_djcelery.messages.wire import same, shown
from pytest_djcelery.recording import failures
from pytest_djcelery.recording.failures import raised_text
from pytest_djcelery.reporting.remedies import MOST, fixes
from pytest_djcelery.session.session import current_sandbox

_LONGEST = 100  # characters of an outcome that a person would copy


def compare(op: str, left: object, right: object) -> list[str] | None:
    """Explain a failed comparison of outcomes, or of histories.

    Returns:
        The lines for ``pytest_assertrepr_compare``, the first of them a summary; ``None`` if
        neither side has outcomes.
    """
    if op == "in" and isinstance(left, Outcome) and isinstance(right, list):
        ours = all(isinstance(outcome, Outcome) for outcome in right)
        return list(_explain_in(left, right)) if ours else None
    if op != "==":
        return None
    if isinstance(left, History):
        return list(_explain_history(left, right))
    if isinstance(right, History):
        return list(_explain_history(right, left))
    outcomes = [*_listed(left), *_listed(right)]
    if not any(isinstance(outcome, Outcome) for outcome in outcomes):
        return None
    # Only an outcome that really happened has a task.
    actual, expected = (left, right)
    if any(_task(outcome) for outcome in _listed(right)):
        actual, expected = right, left
    return [f"{_written(left)} == {_written(right)}", "", *_explain_equal(actual, expected)]


def _task(outcome: object) -> str | None:
    return outcome.task if isinstance(outcome, Outcome) else None


def _listed(side: object) -> list[Any]:
    return list(side) if isinstance(side, list | tuple) else [side]


def _explain_in(expected: object, happened: list[Any]) -> Iterator[str]:
    yield f"{_written(expected)} in {_written(happened)}"
    yield ""
    yield f"expected: {expected!r}"
    yield "happened:" if happened else "happened: nothing"
    found: list[str] = []
    for actual in happened[:LONGEST_LIST]:
        yield f"  {_task(actual) or 'the task'}: {actual!r}"
        yield from (f"    {line}" for line in _reasons(actual, expected))
        found.append(of_difference(actual, expected))
    yield from _rest(len(happened))
    yield from fixes(found[:MOST] or [of_fewer()])


def _explain_equal(actual: object, expected: object) -> Iterator[str]:
    if isinstance(actual, Outcomes) and not isinstance(expected, list | tuple):
        actual = [actual.as_one]
    happened, wanted = _listed(actual), _listed(expected)
    found: list[str] = []
    if len(happened) < len(wanted):
        found.append(of_fewer())
    elif len(happened) > len(wanted):
        found.append(of_more(actual))
    if found:
        yield f"Outcomes: expected {len(wanted)}, happened {len(happened)}"
    pairs = list(enumerate(zip_longest(happened, wanted, fillvalue=_Absent())))
    differing = [(index, mine, theirs) for index, (mine, theirs) in pairs if mine != theirs]
    for index, mine, theirs in differing[:LONGEST_LIST]:
        place = f"[{index}] " if isinstance(expected, list | tuple) else ""
        yield f"{place}{_task(mine) or 'the task'}"
        yield f"  expected: {theirs!r}"
        yield f"  happened: {mine!r}"
        yield from (f"  {line}" for line in _reasons(mine, theirs))
        if not (isinstance(mine, _Absent) or isinstance(theirs, _Absent)):
            found.append(of_difference(mine, theirs))
    yield from _rest(len(differing))
    yield from fixes(found[:MOST])


def _rest(count: int) -> Iterator[str]:
    if count > LONGEST_LIST:
        yield f"… and {count - LONGEST_LIST} more"


def _written(side: object) -> str:
    if not isinstance(side, list | tuple):
        return shown(side)
    more = [f"… {len(side) - LONGEST_LIST} more"] if len(side) > LONGEST_LIST else []
    return f"[{', '.join([*map(shown, side[:LONGEST_LIST]), *more])}]"


def _explain_history(happened: History, expected: object) -> Iterator[str]:
    yield f"{_written(happened)} == {_written(expected)}"
    yield ""
    wanted = _listed(expected)
    if len(happened) != len(wanted):
        yield f"States: expected {len(wanted)}, happened {len(happened)}"
    for index, (mine, theirs) in enumerate(zip_longest(happened, wanted, fillvalue=_Absent())):
        if mine != theirs:
            yield f"[{index}] expected: {theirs!r}"
            yield f"    happened: {mine!r}"
    yield from fixes([of_history(happened, wanted)])


class _Absent:
    def __repr__(self) -> str:
        return "nothing"


def _reasons(actual: Any, expected: Any) -> Iterable[str]:
    """Which property differs, if that isn't obvious, and the task's own traceback."""
    if not isinstance(expected, Outcome):
        expected = None  # a class has the names of its fields, but no values
    wanted, counted = getattr(expected, "retries", None), getattr(actual, "retries", None)
    if None not in (wanted, counted) and wanted != counted:
        yield f"retries: expected {wanted}, happened {counted}"
    match = getattr(expected, "match", None)
    if isinstance(actual, Failure) and match is not None:
        yield f"match: {match!r} was searched in {str(actual.exception)!r}"
    text = getattr(actual, "traceback", None)
    if isinstance(actual, Failure) and (lost := not_restored(actual)):
        yield f"the task raised: {lost[0]}"
        yield from (f"  {line}" for line in lost[1:LONGEST_LIST])
    if text:
        yield from failures.own_calls(text)


def of_difference(actual: Any, expected: Any) -> str:
    """What to do if a task ended in another way, or hasn't ended yet."""
    if isinstance(actual, Outcomes):
        actual = actual.as_one
    if isinstance(expected, type) and issubclass(expected, Outcome):
        return _of_class(actual, expected)
    if not isinstance(expected, Outcome):
        return (
            "celery_results has outcomes: compare with Success(...), Failure(...) or Revoked(); "
            "result.get() returns the value itself."
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
            "A worker finishes what it has begun: call result.revoke(), or let expires pass, "
            "before the message is delivered."
        )
    if isinstance(actual, Revoked):
        return "Nothing ran: find the revoke(), or the expires that passed before the delivery."
    if isinstance(actual, Failure):
        return _of_failure(actual, expected)
    if isinstance(expected, Success) and _as_json_has_it(actual.value, expected.value):
        return (
            "A result goes through the serializer, which for example turns a tuple into a list: "
            "expect what result.get() returns."
        )
    return _of_value(actual)


def of_fewer() -> str:
    """What to do if outcomes are missing."""
    return "Each message that was sent has one outcome: see celery_outbox for what was sent."


def of_more(actual: object) -> str:
    """What to do if there are more outcomes than expected."""
    if isinstance(actual, Outcomes):
        return "A group has an outcome for each of its tasks; Success([...]) stands for the whole."
    return "celery_results.of(task) has every message of this test; celery_results[result] has one."


def of_history(happened: Sequence[Any], wanted: Sequence[Any]) -> str:
    """What to do if a task passed through other states."""
    states = [change.state for change in happened]
    expected = [getattr(change, "state", None) for change in wanted]
    if not happened:
        return "No state was stored: the task has not run yet, or it ignores its result."
    if "STARTED" in expected and "STARTED" not in states:
        return (
            "Celery only stores STARTED with task_track_started: "
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
            f"Celery can't restore {_type_name(lost)} from what is stored, so get() raises "
            f"{kind.__qualname__}. If the failure is meant, expect "
            f"Failure({kind.__qualname__}{match}); if not, start at the line that raised it."
        )
    alike = isinstance(expected, Failure) and type(expected.exception) is kind
    if alike and match is None:
        return f"Where its arguments don't matter, expect the type: Failure({kind.__qualname__})."
    meant = f"Failure({kind.__qualname__}"
    if match is not None and len(text) <= _LONGEST:
        meant += f", match={re.escape(text)!r}"
    return f"If the failure is meant, expect {meant}); if not, start at the line that raised it."


def not_restored(failure: Any) -> list[str]:
    """What a task raised, as text, if it was stored as something else."""
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
