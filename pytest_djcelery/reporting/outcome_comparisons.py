"""Texts for comparisons of outcomes that fail: expected, what happened, the remedy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Any

from pytest_djcelery.messages.descriptions import LONGEST_LIST
from pytest_djcelery.messages.outcomes import Failure, History, Outcome, Outcomes
from pytest_djcelery.messages.wire import shown
from pytest_djcelery.recording import failures
from pytest_djcelery.reporting import outcome_remedies
from pytest_djcelery.reporting.remedies import MOST, fixes


def compare(op: str, left: object, right: object) -> list[str] | None:
    """Explain a failed comparison of outcomes, or of histories; ``None`` where neither side is.

    Returns the lines for ``pytest_assertrepr_compare``, the first of them a summary.
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
    # What Results made knows its task; what a test wrote does not.
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
        found.append(outcome_remedies.of_difference(actual, expected))
    yield from _rest(len(happened))
    yield from fixes(found[:MOST] or [outcome_remedies.of_fewer()])


def _explain_equal(actual: object, expected: object) -> Iterator[str]:
    if isinstance(actual, Outcomes) and not isinstance(expected, list | tuple):
        actual = [actual.as_one]
    happened, wanted = _listed(actual), _listed(expected)
    found: list[str] = []
    if len(happened) < len(wanted):
        found.append(outcome_remedies.of_fewer())
    elif len(happened) > len(wanted):
        found.append(outcome_remedies.of_more(actual))
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
            found.append(outcome_remedies.of_difference(mine, theirs))
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
    yield from fixes([outcome_remedies.of_history(happened, wanted)])


class _Absent:
    def __repr__(self) -> str:
        return "nothing"


def _reasons(actual: Any, expected: Any) -> Iterable[str]:
    """Which property differs, where it can't be seen at once; the task's own traceback."""
    if not isinstance(expected, Outcome):
        expected = None  # a class has the names of its fields, but no values
    wanted, counted = getattr(expected, "retries", None), getattr(actual, "retries", None)
    if None not in (wanted, counted) and wanted != counted:
        yield f"retries: expected {wanted}, happened {counted}"
    match = getattr(expected, "match", None)
    if isinstance(actual, Failure) and match is not None:
        yield f"match: {match!r} was searched in {str(actual.exception)!r}"
    text = getattr(actual, "traceback", None)
    if isinstance(actual, Failure) and (lost := outcome_remedies.not_restored(actual)):
        yield f"the task raised: {lost[0]}"
        yield from (f"  {line}" for line in lost[1:LONGEST_LIST])
    if text:
        yield from failures.own_calls(text)
