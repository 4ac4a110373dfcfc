"""Recorded shapes against parameters: what binds is what `inspect` binds."""

from __future__ import annotations

import inspect
from dataclasses import replace
from inspect import Parameter
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pytest_djcelery.contract.records import (
    Fault,
    Misfit,
    Parameters,
    Shape,
    TaskParameter,
    TaskRecord,
    misfits,
)
from pytest_djcelery.contract.sent_shapes import named_shape

NAMES = ("a", "b", "c", "d", "e")
POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
PACKED = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


@st.composite
def signatures(draw: st.DrawFn) -> inspect.Signature:
    """Draw the signature of a function."""
    names = draw(st.permutations(NAMES))
    kinds = sorted(draw(st.lists(st.sampled_from(Parameter.KEYWORD_ONLY.__class__), max_size=5)))
    found: list[Parameter] = []
    has_default = False
    for name, kind in zip(names, kinds, strict=False):
        if kind in PACKED:
            if all(each.kind != kind for each in found):
                found.append(Parameter("more" if kind == PACKED[0] else "others", kind))
            continue
        # After a positional one with a default, all others have one.
        has_default = draw(st.booleans()) or (kind in POSITIONAL and has_default)
        default = None if has_default else Parameter.empty
        found.append(Parameter(name, kind, default=default))
    return inspect.Signature(found)


CALLS: Any = st.tuples(
    st.integers(min_value=0, max_value=5), st.sets(st.sampled_from([*NAMES, "z"]), max_size=3)
)


def recorded(signature: inspect.Signature) -> Parameters:
    return tuple(TaskParameter.of(each, None) for each in signature.parameters.values())


def task(parameters: Parameters) -> TaskRecord:
    return TaskRecord(parameters=parameters, queue="celery", serializer="json")


def bound(signature: inspect.Signature, count: int, names: set[str]) -> dict[int, str] | None:
    """Where Python puts each positional argument; ``None`` if it refuses the call.

    By a real call: `inspect.Signature.bind` of Python 3.13.0 lets some pass that Python refuses.
    """
    made: dict[str, Any] = {}
    exec(f"def function{signature}: return locals()", made)
    try:
        found: dict[str, Any] = made["function"](*range(count), **dict.fromkeys(names))
    except TypeError:
        return None
    places: dict[int, str] = {}
    for name, value in found.items():
        if signature.parameters[name].kind == Parameter.VAR_POSITIONAL:
            places.update((each, f"*{name}") for each in value)
        elif isinstance(value, int):
            places[value] = name
    return places


@given(signatures(), CALLS)
def test_a_shape_binds_where_python_binds_the_call(
    signature: inspect.Signature, call: tuple[int, set[str]]
) -> None:
    count, names = call
    parameters = recorded(signature)
    shape = named_shape([int] * count, dict.fromkeys(names, int), parameters)
    places = bound(signature, count, names)

    found = misfits(shape, parameters, task(parameters))

    assert bool(found) == (places is None), found
    if places is not None:  # and the names in the shape are those of the parameters
        assert [name for name, _ in shape.args] == [places[each] for each in range(count)]


@given(signatures(), signatures(), CALLS)
def test_a_change_is_a_break_where_python_refuses_or_a_value_changes_places(
    old: inspect.Signature, new: inspect.Signature, call: tuple[int, set[str]]
) -> None:
    count, names = call
    before, after = bound(old, count, names), bound(new, count, names)
    assume(before is not None)
    assert before is not None
    shape = named_shape([int] * count, dict.fromkeys(names, int), recorded(old))

    found = misfits(shape, recorded(old), task(recorded(new)))

    refused = {"missing", "surplus", "unexpected", "twice"} & {each.fault for each in found}
    assert bool(refused) == (after is None)
    if after is None:
        return
    changed = {
        place + 1
        for place, name in before.items()
        if _means_another(name, after[place], set(old.parameters), new)
    }
    assert {each.position for each in found} == changed


def _means_another(meant: str, found: str, old: set[str], new: inspect.Signature) -> bool:
    """Whether a value that was meant for one parameter is taken by one that means another."""
    if meant == found:
        return False
    if meant.startswith("*"):
        takes_more = any(each.kind == PACKED[0] for each in new.parameters.values())
        return not found.startswith("*") and (takes_more or found in old)
    return meant in new.parameters or found in old


def _parameters(head: str) -> Parameters:
    made: dict[str, Any] = {}
    exec(f"def function({head}): ...", made)
    return recorded(inspect.signature(made["function"]))


def _misfit(fault: Fault, parameter: str, position: int | None, other: str | None = None) -> Misfit:
    return Misfit(fault=fault, parameter=parameter, position=position, other=other)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ("order_id, text, extra=None", []),
        ("pk, text", []),  # renamed, and only passed by position
        ("*args", []),
        ("order_id, *args, **kwargs", []),
        ("order_id, extra, text=None", [_misfit("inserted", "extra", 2, "text")]),
        (
            "text, order_id",
            [_misfit("moved", "text", 1, "order_id"), _misfit("moved", "order_id", 2, "text")],
        ),
        ("order_id", [_misfit("surplus", "text", 2)]),
        ("order_id, text, extra", [_misfit("missing", "extra", None)]),
        (
            "order_id, extra, text",
            [_misfit("inserted", "extra", 2, "text"), _misfit("missing", "text", None)],
        ),
        ("order_id, *, text", [_misfit("surplus", "text", 2), _misfit("missing", "text", None)]),
        ("*args, order_id=None", [_misfit("inserted", "*args", 1, "order_id")]),
    ],
)
def test_a_call_by_position(now: str, expected: list[Misfit]) -> None:
    shape = Shape(args=(("order_id", "int"), ("text", "str")))
    found = misfits(shape, _parameters("order_id, text"), task(_parameters(now)))
    assert found == expected


def test_a_call_by_name_knows_no_order() -> None:
    shape = Shape(kwargs=(("order_id", "int"), ("text", "str")))
    now = task(_parameters("text, extra=None, *, order_id"))
    assert misfits(shape, _parameters("order_id, text"), now) == []


@pytest.mark.parametrize(
    ("now", "fits"),
    [
        ("request, exc, traceback", "of a function"),
        ("task_id", "of any task"),
        ("*args", "of any task"),
        ("request, exc", "of no task"),
        ("", "of no task"),
    ],
)
def test_an_error_link_gets_what_celery_gives_it(now: str, fits: str) -> None:
    function = task(_parameters(now))
    method = replace(function, has_self=True)
    link = Shape(way="error link")
    assert (misfits(link, (), function) == []) == (fits != "of no task")
    assert (misfits(link, (), method) == []) == (fits == "of any task")
