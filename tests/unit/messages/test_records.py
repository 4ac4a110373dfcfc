"""Records that are filled through their slots are those that `dataclass` makes."""

from __future__ import annotations

import inspect
from dataclasses import FrozenInstanceError, dataclass, fields, replace
from typing import Any

import pytest

from pytest_djcelery.messages.events import Ended, Published, StateStored, Storing
from pytest_djcelery.messages.sent_task import SentTask
from pytest_djcelery.messages.task_message import quickly_made
from pytest_djcelery.workers.inline.executions import Execution


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Quick:
    """A record."""

    one: int
    other: tuple[int, ...] = (1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """The same without the decorator."""

    one: int
    other: tuple[int, ...] = (1, 2)


def test_it_has_the_same_fields_and_is_as_frozen() -> None:
    record = Quick(one=3)

    assert (record.one, record.other) == (3, (1, 2))
    assert repr(record) == repr(Plain(one=3)).replace("Plain", "Quick")
    assert record == Quick(one=3, other=(1, 2))
    assert replace(record, one=4) == Quick(one=4)
    assert inspect.signature(Quick) == inspect.signature(Plain)
    with pytest.raises(FrozenInstanceError):
        record.one = 5  # type: ignore[misc]  # the point


@pytest.mark.parametrize(
    "arguments", [{}, {"one": 1, "another": 2}, {"other": ()}], ids=["none", "unknown", "missing"]
)
def test_wrong_arguments_are_refused_as_by_a_dataclass(arguments: dict[str, Any]) -> None:
    with pytest.raises(TypeError) as of_dataclass:
        Plain(**arguments)
    with pytest.raises(TypeError) as ours:
        Quick(**arguments)

    assert str(ours.value).partition("()")[2] == str(of_dataclass.value).partition("()")[2]


@pytest.mark.parametrize("kind", [Ended, Execution, Published, SentTask, StateStored, Storing])
def test_each_field_of_those_that_every_message_has_is_filled(kind: type[Any]) -> None:
    names = [field.name for field in fields(kind)]

    record = kind(**{name: number for number, name in enumerate(names)})

    assert [getattr(record, name) for name in names] == list(range(len(names)))
