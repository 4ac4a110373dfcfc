"""Differences as they are named, and what compares with a message without being a signature."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import ANY

import pytest
from celery import chain, chord, group
from dirty_equals import IsStr

from pytest_djcelery.errors import NotASignatureError
from pytest_djcelery.messages.canvas import embedded_signature
from pytest_djcelery.messages.matching import PREVIOUS, differences, expectation
from pytest_djcelery.messages.option_rules import call_in_message, call_in_signature
from pytest_djcelery.messages.rehearsal import _Stage
from pytest_djcelery.messages.wire import LONGEST_TEXT, equal, is_wildcard, same, shown
from tests.unit.sending import Sent, message, new_app

APP = new_app()
ADD, MUL, TOTAL = (APP.tasks[f"shop.{name}"] for name in ("add", "mul", "total"))


@pytest.fixture
def sent() -> Iterator[Sent]:
    with Sent(APP).recording() as recording:
        yield recording


def named(sent: Sent, written: Any) -> list[tuple[str, str, str]]:
    [entry] = sent.outbox.canvas
    return [(each.property, each.expected, each.actual) for each in entry.differing(written)]


def test_members_and_bodies_of_one_step_are_named_by_their_place_alone(sent: Sent) -> None:
    chord([ADD.s(1, 1), ADD.s(2, 2)], TOTAL.s()).apply_async()
    other = chord([ADD.s(1, 1), ADD.s(2, 3)], TOTAL.s().set(queue="q"))
    assert named(sent, other) == [
        ("member 2: argument y", "3", "2"),
        ("body: queue", "'q'", "not set"),
    ]


def test_a_group_of_another_size_or_without_the_body_is_another_kind(sent: Sent) -> None:
    group(ADD.s(1), ADD.s(2)).apply_async()
    pair = "group(shop.add.s(1), shop.add.s(2))"
    three = "group(shop.add.s(1), shop.add.s(2), shop.add.s(3))"
    assert named(sent, group(ADD.s(1), ADD.s(2), ADD.s(3))) == [("kind", three, pair)]
    assert named(sent, chord([ADD.s(1), ADD.s(2)], TOTAL.s())) == [
        ("kind", "chord([shop.add.s(1), shop.add.s(2)], shop.total.s())", pair)
    ]
    assert named(sent, ADD.s(1)) == [("kind", "shop.add.s(1)", pair)]


def test_the_body_of_a_chord_takes_the_results_before_it(sent: Sent) -> None:
    chord([ADD.s(1), ADD.s(2)], TOTAL.si([3])).apply_async()
    assert named(sent, chord([ADD.s(1), ADD.s(2)], TOTAL.si([3]))) == []
    kinds = "immutable, .si(...)", "takes the result before it, .s(...)"
    [(name, expected, actual), *_] = named(sent, chord([ADD.s(1), ADD.s(2)], TOTAL.s([3])))
    assert (name, expected, actual) == ("body: kind", kinds[1], kinds[0])


def test_the_result_before_is_shown_as_such(sent: Sent) -> None:
    chain(ADD.s(1), ADD.s(2)).apply_async()
    [difference] = named(sent, chain(ADD.s(1), ADD.s(y=2, x=0)))[:1]
    assert repr(PREVIOUS) == "<the result before>"
    assert difference[0].startswith("step 2: ")


def test_an_embedded_signature_is_compared_with_others_as_celery_does() -> None:
    written = ADD.s(1, 2)
    embedded = embedded_signature(dict(written), APP, "json")
    again = embedded_signature(dict(written), APP, "json")
    assert embedded == written
    assert embedded == again
    assert embedded == dict(written)
    assert embedded != 1
    assert not embedded == "shop.add"  # noqa: SIM201 - that is another method
    assert embedded != dict(ADD.s(2, 2))
    assert embedded != ADD.s(2, 2)


def test_a_link_that_is_a_canvas_equals_one(sent: Sent) -> None:
    ADD.apply_async((1,), link=chain(ADD.s(1), ADD.s(2)), link_error=ADD.si(3).set(task_id="own"))
    assert sent.last().links == (chain(ADD.s(1), ADD.s(2)),)
    assert sent.last().links != (chain(ADD.s(1), ADD.s(3)),)
    assert sent.last().link_errors == (ADD.si(3).set(task_id="own"),)


def test_a_message_has_no_difference_from_itself_or_a_wildcard() -> None:
    one = message(id="a")
    assert differences(one, one) == differences(ANY, one) == []
    [found] = differences(message(id="b", retries=0, sent_at=one.sent_at), one)
    assert (found.property, found.expected, found.actual) == ("id", "'b'", "'a'")
    [found] = differences(IsStr(), one)
    assert (found.property, found.expected, found.actual) == ("message", "IsStr()", "shop.add")


def test_a_task_in_place_of_its_signature_is_pointed_to_it() -> None:
    with pytest.raises(NotASignatureError) as error:
        expectation(ADD)
    assert "This is the task itself: call .s(...) with the arguments: add.s(...)." in str(
        error.value
    )


def test_what_a_canvas_asks_of_its_app_beside_publishing_is_the_apps_own() -> None:
    stage = _Stage(APP, None)
    assert stage.main == APP.main
    assert stage.loader is APP.loader
    with pytest.raises(AttributeError):
        _ = stage.nothing_of_that_name


# Values ------------------------------------------------------------------------------------


class Array:
    """Compares each of its parts, as those of numpy do."""

    def __eq__(self, other: object) -> Any:
        raise ValueError("The truth value of an array is ambiguous")

    __hash__ = None  # type: ignore[assignment]


def test_nan_equals_itself_and_an_array_nothing() -> None:
    assert equal(float("nan"), float("nan"))
    assert not equal(float("nan"), 1.0)
    assert not equal(1.0, float("nan"))
    assert not equal("a", float("nan"))
    assert not equal(Array(), Array())


def test_values_inside_others_compare_as_their_serializer_has_them() -> None:
    assert same([(1, 2)], [[1, 2]], "json")
    assert not same([(1, 2)], [[1, 2]], "pickle")
    assert same([[(1, 2)]], [[(1, 2)]], "pickle")


@pytest.mark.parametrize("length", [LONGEST_TEXT - 2, LONGEST_TEXT - 1, LONGEST_TEXT + 50])
def test_a_text_is_shortened_in_its_middle(length: int) -> None:
    text = repr("a" * (length // 2) + "b" * (length - length // 2))
    if len(text) <= LONGEST_TEXT:
        assert shown(text[1:-1]) == text
    else:
        half = LONGEST_TEXT // 2 - 1
        assert shown(text[1:-1]) == f"{text[:half]}…{text[-half:]}"
        assert len(shown(text[1:-1])) < LONGEST_TEXT


def test_only_wildcards_are_wildcards() -> None:
    assert is_wildcard(ANY)
    assert is_wildcard(IsStr)
    assert is_wildcard(IsStr())
    assert not any(map(is_wildcard, (1, "ANY", None, int, Array())))


def test_waits_of_nothing_are_the_same_and_others_by_what_was_sent() -> None:
    written, sent = call_in_signature(ADD.s(1), "json"), call_in_message(message())
    for call in (written, sent):
        for nothing in (None, 0):
            assert call.same_wait(nothing, 0)
            assert call.same_wait(nothing, None)
            assert not call.same_wait(nothing, 0.5)
            assert not call.same_wait(0.5, nothing)
        assert call.same_wait(5, 5)
        assert not call.same_wait(5, 7)
        assert not call.same_wait(5, "5")
    assert sent.same_wait(5, 5.4)  # the time of day was taken twice
    assert not written.same_wait(5, 5.4)
