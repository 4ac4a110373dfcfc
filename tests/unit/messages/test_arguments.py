"""Arguments that can't be sent, and a part of a call by the names of its arguments."""

# ruff: noqa: E402 - Django is configured before anything asks for a setting

from __future__ import annotations

import sys
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from kombu.exceptions import EncodeError

from tests.unit import django_in_process

assert django_in_process.is_ours

from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.utils.functional import SimpleLazyObject

from pytest_djcelery.errors import BadOptionError
from pytest_djcelery.messages.arguments import (
    FINE,
    SomeArguments,
    add_note,
    bound_call,
    culprit,
    explain_unserializable,
    parameters_of,
    remedy,
    unwrapped,
)
from tests.unit.sending import message


class Opaque:
    """Nothing encodes it."""

    def __init__(self, text: str = "<opaque>") -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def made_lazy(value: object) -> Any:
    lazy = SimpleLazyObject(lambda: value)
    bool(lazy)  # it is made now
    return lazy


# What is at fault --------------------------------------------------------------------------


def test_the_innermost_part_at_fault_is_found() -> None:
    wrong = Opaque()
    for value in (wrong, [1, wrong], (1, [wrong]), {"a": 1, "b": {"c": wrong}}, [[], {}, wrong]):
        assert culprit(value, "json") is wrong
    for fine in (1, "a", None, [1, {"a": [2]}], {"a": datetime.now(timezone.utc)}):
        assert culprit(fine, "json") is FINE
    assert culprit([wrong], "pickle") is FINE


def test_what_contains_itself_is_at_fault_as_a_whole() -> None:
    endless: list[Any] = [1]
    endless.append(endless)
    assert culprit(endless, "json") is endless
    wrong = Opaque()
    assert culprit([endless, wrong], "json") is endless
    endless.append(wrong)
    assert culprit(endless, "json") is wrong


@pytest.mark.parametrize(
    ("value", "remedied"),
    [
        (User(), "send its primary key (user.pk) and fetch the User in the task"),
        (made_lazy(User()), "send its primary key (user.pk) and fetch the User in the task"),
        ({1}, "send a list"),
        (frozenset({1}), "send a list"),
        (b"x", "send text, or set serializer='pickle' and accept it"),
        (QuerySet(User), "send a list of primary keys"),
        (Opaque(), "send plain data (numbers, text, lists, dicts, dates)"),
        (SimpleNamespace(_meta=1, pk=2, query=3, as_manager=4),
         "send plain data (numbers, text, lists, dicts, dates)"),
        (type("HalfAModel", (), {"_meta": 1})(),
         "send plain data (numbers, text, lists, dicts, dates)"),
        (type("HalfAQuerySet", (), {"query": 1})(),
         "send plain data (numbers, text, lists, dicts, dates)"),
    ],
)  # fmt: skip
def test_the_remedy_fits_the_type(value: object, remedied: str) -> None:
    assert remedy(value) == remedied


def test_a_lazy_object_is_not_made_to_find_out() -> None:
    lazy: Any = SimpleLazyObject(lambda: pytest.fail("it was made"))
    assert unwrapped(lazy) is lazy
    assert remedy(lazy) == "send plain data instead, such as its primary key"
    user = User()
    assert unwrapped(made_lazy(user)) is user
    assert unwrapped(user) is user


def test_without_django_nothing_is_lazy(monkeypatch: pytest.MonkeyPatch) -> None:
    lazy = made_lazy({1})
    monkeypatch.delitem(sys.modules, "django.utils.functional")
    assert unwrapped(lazy) is lazy
    assert remedy({1}) == "send a list"


def explained(*args: Any, **kwargs: Any) -> list[str]:
    error = EncodeError("can't")
    explain_unserializable(error, "shop.add", (args, kwargs, {}), "json")
    notes: list[str] = error.__notes__
    return notes


def test_the_arguments_at_fault_are_named_with_their_remedies() -> None:
    assert explained(1, {2}, ok=3, user=[User(username="ada")]) == [
        (
            "shop.add was not sent: the 'json' serializer can't encode its arguments.\n"
            "  argument 2: {2} (of type set); send a list\n"
            "  argument 'user': <User: ada> (of type User); send its primary key (user.pk) and "
            "fetch the User in the task"
        )
    ]


def test_what_another_serializer_could_not_encode_is_not_at_fault() -> None:
    error: Any = EncodeError("can't")
    explain_unserializable(error, "shop.add", (({1}, lambda: None), {}, {}), "pickle")
    [note] = error.__notes__
    assert "argument 1" not in note
    assert "argument 2: <function" in note


@pytest.mark.parametrize("length", [59, 60, 61, 200])
def test_a_long_value_is_shortened(length: int) -> None:
    text = "x" * length
    shown = text if length <= 60 else "x" * 57 + "..."
    [note] = explained(Opaque(text))
    assert f"  argument 1: {shown} (of type Opaque); send plain data" in note


def test_what_was_explained_already_is_not_explained_again() -> None:
    error: Any = EncodeError("can't")
    add_note(error, "of the project")
    for _ in range(2):
        explain_unserializable(error, "shop.add", (({1},), {}, {}), "json")
    assert len(error.__notes__) == 2
    assert error.__notes__[0] == "of the project"
    explain_unserializable(error, "shop.other", (({1},), {}, {}), "json")
    assert len(error.__notes__) == 3
    assert error.args == ("can't",)


# Calls by the names of their arguments -------------------------------------------------------


def function(a: int, b: int = 2, /, *rest: int, c: int = 3, **more: int) -> None:
    """Of every kind of parameter."""


def plain(user_pk: int, subject: str = "Welcome") -> None:
    """Of the usual ones."""


def test_a_call_is_bound_with_its_defaults() -> None:
    assert bound_call(plain, [7], {}) == {"user_pk": 7, "subject": "Welcome"}
    assert bound_call(plain, (), {"user_pk": 7, "subject": "x"}) == {"user_pk": 7, "subject": "x"}
    assert bound_call(function, (1,), {}) == {"a": 1, "b": 2, "rest": (), "c": 3}
    assert bound_call(function, (1, 5, 6, 7), {"c": 8, "d": 9}) == {
        "a": 1, "b": 5, "rest": (6, 7), "c": 8, "d": 9,
    }  # fmt: skip
    assert bound_call(function, (1,), {"a": 4}) == {
        "a": 1, "b": 2, "rest": (), "c": 3, "**a": 4,
    }  # fmt: skip
    assert bound_call(plain, (), {}) is None
    assert bound_call(plain, (1, 2, 3), {}) is None
    assert bound_call(None, (1,), {}) is None


def test_parameters_are_shown_without_annotations() -> None:
    assert str(parameters_of(plain)) == "(user_pk, subject='Welcome')"


def some(run: Any = plain, **arguments: Any) -> SomeArguments:
    return SomeArguments("shop.send_email", run, arguments)


def test_a_call_includes_what_it_says_or_has_by_default() -> None:
    sent = message("shop.send_email", 7)
    assert some().are_in(sent)
    assert some(user_pk=7).are_in(sent)
    assert some(user_pk=7, subject="Welcome").are_in(sent)
    assert not some(user_pk=8).are_in(sent)
    assert not some(user_pk=7, subject="x").are_in(sent)
    assert not some(run=function, d=1).are_in(message("shop.x", 1))
    assert some(run=function, d=1).are_in(message("shop.x", 1, kwargs={"d": 1}))
    assert not some(user_pk=None, subject=None).are_in(message("shop.send_email"))


def test_a_name_that_the_task_does_not_take_is_refused_with_those_that_it_does() -> None:
    with pytest.raises(BadOptionError) as error:
        some(user_pk=7, subjekt="x")
    assert str(error.value) == (
        "of('shop.send_email', subjekt=...): the task takes no argument 'subjekt', it is "
        "shop.send_email(user_pk, subject='Welcome'). Did you mean subject?"
    )
    with pytest.raises(BadOptionError) as error:
        some(zzz=1)
    assert str(error.value).endswith("shop.send_email(user_pk, subject='Welcome').")
    some(run=function, anything=1)


def test_of_a_task_that_is_not_registered_only_the_named_arguments_are_known() -> None:
    sent = message("shop.send_email", 7, kwargs={"subject": "x"})
    assert some(run=None, subject="x").are_in(sent)
    assert not some(run=None, subject="y").are_in(sent)
    with pytest.raises(BadOptionError) as error:
        some(run=None, user_pk=7, subject="x").are_in(sent)
    assert str(error.value) == (
        "of('shop.send_email', user_pk=..., subject=...): shop.send_email isn't registered here, "
        "so the names of the arguments (7,) are unknown. Import the module that defines it, or "
        "look at the args of each message."
    )
    assert not some(run=None, user_pk=7).are_in(message("shop.x", kwargs={"subject": "x"}))
