"""How a message compares with a signature."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from functools import partial
from typing import Any
from unittest.mock import ANY
from zoneinfo import ZoneInfo

import pytest
from celery import chain, chord, group, signature
from django.utils.functional import lazystr
from hypothesis import given
from hypothesis import strategies as st
from kombu import Exchange, Queue

from pytest_djcelery.errors import NotASignatureError
from pytest_djcelery.messages.arguments import bound_call
from pytest_djcelery.messages.descriptions import describe_call
from pytest_djcelery.messages.matching import Expected, differences, matches
from pytest_djcelery.messages.option_rules import call_in_signature
from pytest_djcelery.messages.signature_types import check_signature
from pytest_djcelery.messages.wire import can_be_sent, same, shown, when_sent
from tests.unit.sending import Sent, message, new_app

APP = new_app()
ADD, MUL, MAIL = (APP.tasks[f"shop.{name}"] for name in ("add", "mul", "send_email"))


@pytest.fixture
def sent() -> Iterator[Sent]:
    with Sent(APP).recording() as recording:
        yield recording


def reported(written: Any, sent: Any) -> list[tuple[str, str, str]]:
    return [(each.property, each.expected, each.actual) for each in differences(written, sent)]


# -- the call --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written",
    [
        ADD.s(1, 2),
        ADD.s(1, y=2),
        ADD.s(y=2, x=1),
        ADD.s(1, 2, z=0),
        ADD.si(1, 2),
        signature("shop.add", args=(1, 2), app=APP),
    ],
)
def test_the_same_call_matches_however_it_is_written(written: Any, sent: Sent) -> None:
    ADD.delay(1, y=2)
    assert matches(written, sent.last())
    assert differences(written, sent.last()) == []
    assert sent.last() == written
    assert written == sent.last()


def test_another_task_with_the_same_arguments_does_not_match() -> None:
    assert not matches(MUL.s(1, 2), message("shop.add", 1, 2))
    assert reported(MUL.s(1, 2), message("shop.add", 1, 2)) == [("task", "shop.mul", "shop.add")]


def test_a_bound_task_compares_without_self() -> None:
    assert matches(MAIL.s(user_pk=1), message("shop.send_email", 1))
    assert matches(MAIL.s(1), message("shop.send_email", kwargs={"user_pk": 1}))


def test_each_differing_argument_is_reported_by_its_name() -> None:
    assert reported(ADD.s(1, 2, 5, z=3), message("shop.add", 2, 3, 5, kwargs={"z": 4, "w": 1})) == [
        ("argument x", "1", "2"),
        ("argument y", "2", "3"),
        ("argument z", "3", "4"),
        ("argument w", "missing", "1"),
    ]


def test_a_difference_deep_inside_an_argument_is_reported_with_its_place() -> None:
    rows = {"rows": [{"id": 1}, {"id": 2}]}
    assert reported(ADD.s(rows), message("shop.add", {"rows": [{"id": 1}, {"id": 3, "n": 0}]})) == [
        ("argument x['rows'][1]['id']", "2", "3"),
        ("argument x['rows'][1]['n']", "missing", "0"),
    ]


def test_a_call_that_fits_no_signature_compares_as_it_was_written() -> None:
    assert reported(MAIL.s(), message("shop.send_email", 1)) == [("args", "()", "(1,)")]
    assert matches(MAIL.s(1, 2, 3), message("shop.send_email", 1, 2, 3))


def test_a_task_that_is_not_registered_compares_as_it_was_written() -> None:
    written = signature("other.task", args=(1,), kwargs={"y": 2}, app=APP)
    assert matches(written, message("other.task", 1, kwargs={"y": 2}))
    assert reported(written, message("other.task", 1, 2)) == [
        ("args", "(1,)", "(1, 2)"),
        ("kwargs['y']", "2", "missing"),
    ]


NUMBERS = st.integers() | st.booleans() | st.none() | st.text()
VALUES = st.recursive(
    NUMBERS | st.floats() | st.uuids() | st.decimals(allow_nan=False) | st.datetimes() | st.dates(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text().filter(lambda key: not key.startswith("__")), inner)
    ),
    max_leaves=10,
)


@given(values=st.lists(st.integers(), min_size=2, max_size=2), data=st.data())
def test_any_split_of_a_call_into_args_and_kwargs_matches(values: list[int], data: Any) -> None:
    def split() -> tuple[tuple[int, ...], dict[str, int]]:
        at = data.draw(st.integers(0, 2))
        return tuple(values[:at]), dict(list(zip("xy", values, strict=True))[at:])

    (args, kwargs), (args2, kwargs2) = split(), split()
    assert matches(MUL.s(*args, **kwargs), message("shop.mul", *args2, kwargs=kwargs2))


@given(
    values=st.lists(NUMBERS, min_size=1, max_size=5),
    other=NUMBERS,
    data=st.data(),
)
def test_no_call_with_one_argument_changed_matches(
    values: list[Any], other: Any, data: Any
) -> None:
    at = data.draw(st.integers(0, len(values) - 1))
    changed = [*values[:at], other, *values[at + 1 :]]
    expected = values[at] == other or (at == len(values) == 1 and other == 0 == values[at])
    assert matches(ADD.s(*changed), message("shop.add", *values)) is expected


@given(value=VALUES)
def test_a_value_equals_what_arrives_of_it(value: Any) -> None:
    assert same(value, when_sent(value, "json"), "json")
    assert same([{"deep": (value,)}], when_sent([{"deep": (value,)}], "json"), "json")
    assert same(value, when_sent(value, "pickle"), "pickle")


@pytest.mark.parametrize(
    "value",
    [
        uuid.UUID(int=7),
        Decimal("1.50"),
        datetime(2026, 1, 2, tzinfo=timezone.utc),
        lazystr("later"),
        (1, (2, 3)),
        {1: "one"},
        b"bytes",
    ],
)
def test_a_value_that_json_changes_on_the_way_matches(value: Any, sent: Sent) -> None:
    ADD.delay(value, y=[value])
    assert matches(ADD.s(value, [value]), sent.last())
    assert not matches(ADD.s([value], value), sent.last())


def test_pickle_keeps_a_tuple_a_tuple() -> None:
    assert not matches(ADD.s([1]), message("shop.add", (1,), serializer="pickle"))
    assert matches(ADD.s((1,)), message("shop.add", (1,), serializer="pickle"))


def test_what_can_not_be_sent_matches_nothing() -> None:
    assert reported(ADD.s({1}), message("shop.add", [1])) == [("argument x", "{1}", "[1]")]


def test_mock_any_works_at_any_depth() -> None:
    nested = message("shop.add", {"rows": [[1, "two"]]}, 3)
    assert matches(ADD.s({"rows": [(ANY, "two")]}, ANY), nested)
    assert not matches(ADD.s({"rows": [(ANY, "three")]}, ANY), nested)
    assert not matches(ADD.s({"rows": [ANY], "more": ANY}, ANY), nested)


def test_dirty_equals_works_at_any_depth_and_in_options() -> None:
    dirty = pytest.importorskip("dirty_equals")
    nested = message("shop.add", {"rows": [[1, "two"]]}, 3, priority=5)
    assert matches(ADD.s({"rows": [(dirty.IsInt, dirty.IsStr)]}, dirty.IsPositive), nested)
    assert not matches(ADD.s({"rows": [(dirty.IsStr, dirty.IsStr)]}, 3), nested)
    assert matches(ADD.s(ANY, ANY).set(priority=dirty.IsInt(gt=4)), nested)
    assert not matches(ADD.s(ANY, ANY).set(priority=dirty.IsInt(gt=5)), nested)


# -- options ---------------------------------------------------------------------------------

TASMANIA = ZoneInfo("Australia/Tasmania")
LATER = datetime(2040, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
OPTIONS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"queue": "mail"}, {"queue": "other"}),
    ({"queue": Queue("mail", Exchange("post"), "post.mail")}, {"queue": "mail2"}),
    ({"exchange": Exchange("post"), "routing_key": "post.mail"}, {"exchange": "other"}),
    ({"exchange": "post", "routing_key": "post.mail"}, {"routing_key": "post.other"}),
    ({"countdown": 60}, {"countdown": 63}),
    ({"countdown": 60}, {"countdown": None}),
    ({"eta": LATER}, {"eta": LATER + timedelta(seconds=2)}),
    # A worker takes a naive ETA as UTC, whatever the app's time zone is.
    ({"eta": datetime(2040, 1, 2, 3)}, {"eta": datetime(2040, 1, 2, 3, tzinfo=TASMANIA)}),  # noqa: DTZ001 - the case
    ({"eta": datetime(2040, 1, 2, 3, tzinfo=timezone.utc)}, {"eta": datetime(2040, 1, 2, 4)}),  # noqa: DTZ001 - the case
    ({"eta": LATER.isoformat()}, {"eta": "not a time"}),
    ({"expires": 30}, {"expires": 33}),
    ({"expires": LATER}, {"expires": LATER - timedelta(seconds=2)}),
    ({"priority": 3}, {"priority": 4}),
    ({"headers": {"tenant": "a", "n": [1]}}, {"headers": {"tenant": "b"}}),
    ({"headers": {"tenant": "a"}}, {"headers": {"absent": 1}}),
    ({"task_id": "one"}, {"task_id": "two"}),
    ({"link": MUL.s(2)}, {"link": MUL.s(3)}),
    ({"link": MUL.s(2)}, {"link": []}),
    ({"link": [MUL.s(2), MUL.si(1, 1)]}, {"link": [MUL.s(2), MUL.s(1, 1)]}),
    ({"link": chain(MUL.s(2), MUL.s(3))}, {"link": chain(MUL.s(2), MUL.s(4))}),
    ({"link_error": MAIL.s()}, {"link_error": MAIL.s().set(queue="errors")}),
    ({"retries": 2}, {"retries": 1}),
    ({"root_id": "r"}, {"root_id": "s"}),
    ({"parent_id": "p"}, {"parent_id": "q"}),
    ({"group_id": "g"}, {"group_id": "h"}),
    ({"time_limit": 10, "soft_time_limit": 5}, {"time_limit": 5}),
    ({"time_limit": 10, "soft_time_limit": 5}, {"soft_time_limit": None}),
    ({"shadow": "name"}, {"shadow": "other"}),
    ({"ignore_result": True}, {"ignore_result": False}),
    ({"serializer": "pickle"}, {"serializer": "json"}),
    ({"chain": [MUL.s(3), MUL.s(2)]}, {"chain": [MUL.s(2), MUL.s(3)]}),
    ({"chord": MUL.s(3)}, {"chord": MUL.s(2)}),
    ({"compression": "gzip"}, {"compression": "bzip2"}),
    ({"delivery_mode": 1}, {"delivery_mode": 2}),
    ({"reply_to": "here"}, {"reply_to": "there"}),
    ({"correlation_id": "one"}, {"correlation_id": "two"}),
    ({"mandatory": True}, {"mandatory": False}),
    ({"stamped_headers": ["by"], "by": "me"}, {"stamped_headers": ["by"], "by": "you"}),
]


@pytest.mark.parametrize(("same_as_sent", "other"), OPTIONS)
def test_each_option_that_is_set_is_compared(
    same_as_sent: dict[str, Any], other: dict[str, Any], sent: Sent
) -> None:
    ADD.s(1).set(**same_as_sent).apply_async()
    assert reported(ADD.s(1).set(**same_as_sent), sent.last()) == []
    assert matches(ADD.s(1), sent.last())
    [(name, _, _)] = reported(ADD.s(1).set(**other), sent.last())
    assert name.split()[0] in (*other, "header")


@pytest.mark.parametrize("name", ["countdown", "eta", "expires", "priority", "link", "group_id"])
def test_none_asks_for_a_message_without(name: str, sent: Sent) -> None:
    ADD.delay(1)
    assert matches(ADD.s(1).set(**{name: None}), sent.last())


def test_none_leaves_to_celery_what_always_has_a_value(sent: Sent) -> None:
    ADD.delay(1)
    assert matches(ADD.s(1).set(queue=None, serializer=None, task_id=None), sent.last())


def test_the_countdown_counts_where_an_eta_is_set_as_well(sent: Sent) -> None:
    written = ADD.s(1).set(countdown=5, eta=LATER)
    written.apply_async()
    assert matches(written, sent.last())


def test_an_option_that_the_message_does_not_have_is_reported(sent: Sent) -> None:
    ADD.delay(1)
    assert reported(ADD.s(1).set(compression="gzip", mandatory=True), sent.last()) == [
        ("compression", "'gzip'", "None"),
        ("mandatory", "True", "not set"),
    ]


@pytest.mark.parametrize(
    "option",
    [
        {"add_to_parent": False},
        {"retry": False},
        {"retry_policy": {"max_retries": 1}},
        {"producer": None},
        {"timeout": 3},
    ],
)
def test_how_a_call_was_made_is_not_compared(option: dict[str, Any], sent: Sent) -> None:
    ADD.delay(1)
    assert matches(ADD.s(1).set(**option), sent.last())
    ADD.apply_async((1,), **option)
    assert matches(ADD.s(1).set(**option), sent.last())


def test_an_alias_means_the_same(sent: Sent) -> None:
    ADD.apply_async((1,), compression="gzip", delivery_mode=2)
    assert matches(
        ADD.s(1).set(compression="application/x-gzip", delivery_mode="persistent"), sent.last()
    )
    ADD.delay(1)
    assert matches(ADD.s(1).set(delivery_mode="persistent"), sent.last())
    assert not matches(ADD.s(1).set(delivery_mode=1), sent.last())


@pytest.mark.parametrize("name", ["countdown", "expires"])
@pytest.mark.parametrize("seconds", [0.5, 1, 1.5])
def test_a_short_wait_is_still_a_wait(name: str, seconds: float, sent: Sent) -> None:
    ADD.delay(1)
    assert not matches(ADD.s(1).set(**{name: seconds}), sent.last())
    ADD.apply_async((1,), **{name: seconds})
    assert matches(ADD.s(1).set(**{name: seconds}), sent.last())
    assert not matches(ADD.s(1).set(**{name: None}), sent.last())


@pytest.mark.parametrize("name", ["countdown", "expires"])
def test_times_in_what_a_message_carries_compare_to_the_second(name: str, sent: Sent) -> None:
    chain(ADD.s(1), MUL.s(2).set(**{name: 30})).apply_async()
    [step] = sent.last().chain
    assert step == MUL.s(2).set(**{name: 30})
    assert step != MUL.s(2).set(**{name: 31})
    assert step != MUL.s(2).set(**{name: None})


def test_a_routing_key_that_celery_drops_is_explained(sent: Sent) -> None:
    ADD.s(1).set(routing_key="x").apply_async()
    [(name, expected, actual)] = reported(ADD.s(1).set(routing_key="x"), sent.last())
    assert (name, expected) == ("routing_key", "'x'")
    assert actual == (
        "'celery' (Celery publishes straight to the queue unless both exchange and routing_key "
        "are set)"
    )


def test_times_and_signatures_are_shown_as_a_person_writes_them(sent: Sent) -> None:
    ADD.s(1).set(countdown=60, expires=90, link=MUL.s(2)).apply_async()
    assert reported(ADD.s(1).set(countdown=5, expires=9, link=MUL.si(2, 3)), sent.last()) == [
        ("countdown", "5", "60"),
        ("expires", "9", "90"),
        ("link", "shop.mul.si(2, 3)", "[shop.mul.s(2)]"),
    ]


def test_a_frozen_signature_matches_its_own_message(sent: Sent) -> None:
    written = ADD.s(1)
    written.freeze()
    written.apply_async()
    assert matches(written, sent.last())


class Money:
    """Has its own form in JSON, which comes out as something else."""

    def __init__(self, cents: int) -> None:
        self.cents = cents

    def __json__(self) -> dict[str, int]:
        return {"cents": self.cents}


def test_a_value_with_its_own_encoding_equals_what_arrives_of_it(sent: Sent) -> None:
    ADD.delay(Money(5), {"each": [Money(6)]})
    assert matches(ADD.s(Money(5), {"each": [Money(6)]}), sent.last())
    assert not matches(ADD.s(Money(6), {"each": [Money(6)]}), sent.last())
    assert (
        reported(ADD.s(Money(5), {"each": [Money(7)]}), sent.last())[0][0]
        == "argument y['each'][0]"
    )
    pickled = message("shop.add", {"cents": 5}, serializer="pickle")
    assert not matches(ADD.s(Money(5)), pickled)  # there it would arrive as it is


def test_keys_compare_as_they_arrive_and_each_by_itself() -> None:
    arrived = message("shop.add", {"1": "one", "two": 2})
    assert matches(ADD.s({1: "one", "two": 2}), arrived)
    assert reported(ADD.s({1: "one", object: 2}), arrived)[-1][2] == "2"
    assert reported(ADD.s({2: "one", "two": 2}), arrived) == [
        ("argument x['2']", "'one'", "missing"),
        ("argument x['1']", "missing", "'one'"),
    ]


@pytest.mark.parametrize(
    ("value", "sendable"),
    [
        (1, True),
        (ANY, True),
        ({"rows": [1, (2, "x")]}, True),
        (Decimal(1), True),
        ({1, 2}, False),
        ([1, {2}], False),
        ({"rows": ({1},)}, False),
        ([object(), ANY], False),
    ],
)
def test_whether_a_value_can_be_sent(value: Any, sendable: bool) -> None:  # noqa: FBT001 - a case
    assert can_be_sent(value, "json") is sendable


def test_what_can_be_sent_depends_on_the_serializer() -> None:
    for value in ({1}, [{1}], {"in": {1}}):
        assert can_be_sent(value, "pickle")
        assert not can_be_sent(value, "json")


def test_what_a_serializer_can_not_carry_is_named() -> None:
    expected = Expected(ADD.s({1}, [1], z={2}))
    assert expected.unsendable("json") == [("argument 0", {1}), ("argument z", {2})]
    assert expected.unsendable("pickle") == []


def test_an_argument_of_none_is_not_a_missing_argument() -> None:
    assert reported(ADD.s(1, w=None), message("shop.add", 1)) == [("argument w", "None", "missing")]
    assert matches(ADD.s(1, w=None), message("shop.add", 1, kwargs={"w": None}))


def test_keys_compare_as_their_serializer_has_them() -> None:
    number = {1: (1, 2)}
    assert matches(ADD.s(number), message("shop.add", {"1": [1, 2]}))
    assert matches(ADD.s(number), message("shop.add", {1: (1, 2)}, serializer="pickle"))
    assert not matches(ADD.s(number), message("shop.add", {"1": (1, 2)}, serializer="pickle"))
    assert not matches(ADD.s(number), message("shop.add", {1: [1, 2]}, serializer="pickle"))


def test_one_of_more_may_have_the_name_of_a_positional_parameter() -> None:
    def run(x: int, /, **more: int) -> None: ...

    assert bound_call(run, (1,), {"x": 2, "y": 3}) == {"x": 1, "**x": 2, "y": 3}
    assert bound_call(run, (), {}) is None
    assert bound_call(None, (1,), {}) is None


def test_a_limit_that_a_message_does_not_carry_says_so() -> None:
    assert reported(ADD.s(1).set(time_limit=3), message("shop.add", 1)) == [
        ("time_limit", "3", "unknown (the message doesn't say)")
    ]


def test_dirty_equals_works_for_links(sent: Sent) -> None:
    dirty = pytest.importorskip("dirty_equals")
    ADD.apply_async((1,), link=MUL.s(2))
    assert matches(ADD.s(1).set(link=[dirty.IsPartialDict(task="shop.mul")]), sent.last())
    assert not matches(ADD.s(1).set(link=[dirty.IsPartialDict(task="shop.add")]), sent.last())


@pytest.mark.parametrize("name", ["link", "link_error"])
def test_links_compare_one_by_one(name: str, sent: Sent) -> None:
    ADD.apply_async((1,), **{name: [MUL.s((1, 2)), MUL.si(3, 4)]})
    assert matches(ADD.s(1).set(**{name: [MUL.s([1, 2]), ANY]}), sent.last())
    assert matches(ADD.s(1).set(**{name: [ANY, MUL.si(3, 4)]}), sent.last())
    assert not matches(ADD.s(1).set(**{name: [ANY, MUL.si(3, 5)]}), sent.last())
    assert not matches(ADD.s(1).set(**{name: [ANY, ANY, ANY]}), sent.last())
    assert not matches(ADD.s(1).set(**{name: [ANY]}), sent.last())
    assert not matches(ADD.s(1).set(**{name: MUL.s([1, 2])}), sent.last())


@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_a_link_compares_as_its_message_is_serialized(serializer: str, sent: Sent) -> None:
    ADD.apply_async((1,), link=MUL.s((1, 2)), serializer=serializer)
    assert (sent.last().links == [MUL.s([1, 2])]) is (serializer == "json")
    assert sent.last().links == [MUL.s((1, 2))]
    assert matches(ADD.s(1).set(link=MUL.s((1, 2))), sent.last())
    assert matches(ADD.s(1).set(link=MUL.s([1, 2])), sent.last()) is (serializer == "json")


def test_a_step_that_sets_an_option_to_none_equals_one_without(sent: Sent) -> None:
    chain(ADD.s(1), MUL.s(2)).apply_async()
    [step] = sent.last().chain
    assert step == MUL.s(2).set(countdown=None, link=[], link_error=None, priority=None)
    assert step != MUL.s(2).set(countdown=1)
    assert step != MUL.s(2).set(link=[MUL.s(1)])


def test_a_missing_stamp_is_reported_as_a_stamp(sent: Sent) -> None:
    chain(ADD.s(1), MUL.s(2)).apply_async()
    [step] = sent.last().chain
    stamped = MUL.s(2).set(stamped_headers=["by"], by="me")
    found = list(Expected(stamped).differing(call_in_signature(step, "json")))
    assert [(each.property, each.actual, each.option) for each in found] == [
        ("by", "no such stamp", True)
    ]


@pytest.mark.parametrize("countdown", [0, 30])
def test_of_a_countdown_and_an_eta_celery_takes_one(countdown: int, sent: Sent) -> None:
    written = ADD.s(1).set(countdown=countdown, eta=LATER)
    written.apply_async()
    assert matches(written, sent.last())
    assert matches(ADD.s(1).set(countdown=countdown), sent.last()) is bool(countdown)
    assert matches(ADD.s(1).set(eta=LATER), sent.last()) is not bool(countdown)


def test_pydantic_models_go_as_dictionaries() -> None:
    class Typed:
        """Stands for a task with ``pydantic=True``."""

        @staticmethod
        def run(x: Any, y: Any = None) -> None: ...

        @staticmethod
        def _dump_pydantic_arguments(args: Any, kwargs: Any) -> Any:
            return tuple({"n": each} for each in args), {k: {"n": v} for k, v in kwargs.items()}

    written = signature("shop.typed", args=(1,), kwargs={"y": 2}, app=APP)
    written._type = Typed()
    assert matches(written, message("shop.typed", {"n": 1}, kwargs={"y": {"n": 2}}))
    assert matches(written, message("shop.typed", {"n": 1}, {"n": 2}))
    assert not matches(written, message("shop.typed", 1, kwargs={"y": 2}))


@pytest.mark.parametrize("kind", ["map", "starmap"])
def test_what_is_mapped_may_be_lazy(kind: str, sent: Sent) -> None:
    def pairs() -> Iterator[tuple[int, int]]:
        yield from [(1, 2), (3, 4)]

    getattr(ADD, kind)(list(pairs())).apply_async()
    assert matches(getattr(ADD, kind)(pairs()), sent.last())
    assert not matches(getattr(ADD, kind)(iter([(1, 2)])), sent.last())


def test_where_the_clock_stood_times_are_exact() -> None:
    moment = datetime(2040, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    at = message("shop.add", 1, eta=moment, sent_at=moment - timedelta(seconds=30))
    exact = replace(at, exact_times=True)
    for seconds in (30.5, 31, 29):
        assert matches(ADD.s(1).set(countdown=seconds), at)
        assert not matches(ADD.s(1).set(countdown=seconds), exact)
    assert matches(ADD.s(1).set(countdown=30), exact)
    assert not matches(ADD.s(1).set(countdown=31.5), at)
    assert matches(ADD.s(1).set(eta=moment + timedelta(seconds=1)), at)
    assert not matches(ADD.s(1).set(eta=moment + timedelta(seconds=1)), exact)
    odd = replace(exact, eta=moment + timedelta(milliseconds=123))
    assert reported(ADD.s(1).set(countdown=1), odd) == [("countdown", "1", "30.123")]
    assert reported(ADD.s(1).set(countdown=1), replace(odd, exact_times=False)) == [
        ("countdown", "1", "30.1")
    ]
    late = replace(odd, expires=odd.eta)
    assert reported(ADD.s(1).set(expires=1), late) == [("expires", "1", "30.1")]


def test_the_correlation_of_a_message_is_its_id(sent: Sent) -> None:
    ADD.delay(1)
    assert matches(ADD.s(1).set(correlation_id=sent.last().id), sent.last())
    assert not matches(ADD.s(1).set(correlation_id="other"), sent.last())


def test_the_answer_to_nobody_is_not_compared_and_what_follows_it_is(sent: Sent) -> None:
    ADD.delay(1)
    mine = APP.thread_oid
    assert matches(ADD.s(1).set(reply_to=mine), sent.last())
    assert matches(ADD.s(1).set(reply_to=mine), message("shop.add", 1))
    assert not matches(ADD.s(1).set(reply_to=mine, queue="other"), sent.last())
    assert not matches(ADD.s(1).set(reply_to="elsewhere"), sent.last())


def test_each_header_is_reported_by_its_name(sent: Sent) -> None:
    ADD.apply_async((1,), headers={"tenant": "a", "rows": [1, 2]})
    assert reported(
        ADD.s(1).set(headers={"tenant": "b", "rows": (1, 2), "n": None}), sent.last()
    ) == [
        ("header 'tenant'", "'b'", "'a'"),
        ("header 'n'", "None", "missing"),
    ]
    pickled = message("shop.add", 1, headers={"rows": [1, 2]}, serializer="pickle")
    assert not matches(ADD.s(1).set(headers={"rows": (1, 2)}), pickled)
    assert matches(ADD.s(1).set(headers=ANY), sent.last())
    assert not matches(ADD.s(1).set(headers=5), sent.last())
    assert not matches(ADD.s(1).set(origin={"a": 1}), message(headers={"origin": {"a": 1, "b": 2}}))


def test_all_options_are_reported_even_after_one_that_says_nothing(sent: Sent) -> None:
    chain(ADD.s(1), MUL.s(2)).apply_async()
    [step] = sent.last().chain
    written = MUL.s(2).set(countdown=None, priority=3, queue="q")
    found = Expected(written).differing(call_in_signature(step, "json"))
    assert [(each.property, each.actual) for each in found] == [
        ("priority", "not set"),
        ("queue", "not set"),
    ]
    more = Expected(ADD.s(1).set(compression=None, retry=1, chord=MUL.s(1), link=ANY))
    assert [each.property for each in more.differences(sent.last())] == ["chord"]


def test_an_option_is_shown_as_a_person_writes_it(sent: Sent) -> None:
    ADD.apply_async((1,), link=MUL.s(2), priority=1, eta=LATER)
    written = ADD.s(1).set(
        chain=[MUL.s(3), MUL.s(4)], priority="high", chord="no", eta=LATER + timedelta(days=1)
    )
    assert reported(written, sent.last()) == [
        ("chain", "[shop.mul.s(4), shop.mul.s(3)]", "[]"),
        ("priority", "'high'", "1"),
        ("chord", "'no'", "None"),
        ("eta", "2040-01-03 03:04:05+00:00", "2040-01-02 03:04:05+00:00"),
    ]


def test_whether_a_result_is_ignored_is_yes_or_no(sent: Sent) -> None:
    APP.send_task("shop.add", (1,))
    assert matches(ADD.s(1).set(ignore_result=False), sent.last())
    assert not matches(ADD.s(1).set(ignore_result=True), sent.last())


def test_another_task_with_as_many_arguments_shows_them_as_they_are() -> None:
    assert reported(ADD.s(1, 2), message("shop.mul", 1, 3)) == [
        ("task", "shop.add", "shop.mul"),
        ("args[1]", "2", "3"),
    ]


# -- what is no signature --------------------------------------------------------------------


@pytest.mark.parametrize("written", [ADD.s(1), chain(ADD.s(1), ADD.s(2)), ANY, message()])
def test_what_can_be_compared_is_let_through(written: Any) -> None:
    check_signature(written)
    assert not matches(MUL.s(1, 1), message())


@pytest.mark.parametrize(
    ("written", "remedy"),
    [
        (ADD, "This is the task itself: call .s(...) with the arguments: add.s(...)."),
        (
            APP.AsyncResult("1"),
            (
                "This is a result: compare with the signature of the task that was sent, or look "
                "the outcome up with celery_results[result]."
            ),
        ),
        (
            "shop.add",
            (
                "For a task by name write signature('proj.tasks.add', args=(1, 2)) (from celery), "
                "or celery_outbox.of('proj.tasks.add') for all its messages."
            ),
        ),
        (
            {"task": "shop.add"},
            "For a signature that was serialized write celery.signature(the_dictionary).",
        ),
        (
            [ADD.s(1)],
            "Compare a list with the outbox itself: assert celery_outbox == [add.s(1, 2)].",
        ),
        (
            test_a_bound_task_compares_without_self,
            (
                "This is not a task: test_a_bound_task_compares_without_self has no @shared_task "
                "or @app.task, or it was unwrapped. With one, write "
                "test_a_bound_task_compares_without_self.s(...)."
            ),
        ),
        (
            partial(print),
            (
                "This is not a task: function has no @shared_task or @app.task, or it was "
                "unwrapped. With one, write function.s(...)."
            ),
        ),
        (5, "Call .s(...) on the task with the arguments that you expect."),
        (None, "Call .s(...) on the task with the arguments that you expect."),
    ],
)
def test_anything_but_a_signature_is_refused_with_what_to_write(written: Any, remedy: str) -> None:
    with pytest.raises(NotASignatureError) as caught:
        matches(written, message())
    got = f"{shown(written)} ({type(written).__name__})"
    assert str(caught.value) == (
        f"expected a Celery signature such as add.s(1, 2), got {got}.\n{remedy}"
    )


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        (chain(ADD.s(1), ADD.s(2)), "chain"),
        (group(ADD.s(1), ADD.s(2)), "group"),
        (chord([ADD.s(1), ADD.s(2)], ADD.s()), "chord"),
        (ADD.chunks([(1, 2)], 1), "chunks"),
    ],
)
def test_a_canvas_is_pointed_to_the_canvas_of_the_outbox(written: Any, kind: str) -> None:
    with pytest.raises(NotASignatureError, match=r"celery_outbox\.canvas") as caught:
        matches(written, message())
    assert f"A {kind} is sent as" in str(caught.value)
    assert describe_call(written) in str(caught.value)


def test_a_message_equals_itself_alone() -> None:
    one, other = message(), message()
    assert matches(one, one)
    assert [name for name, _, _ in reported(one, other)] == ["id", "sent_at"]


def test_a_message_says_how_it_differs_from_another() -> None:
    one = message("shop.add", id="a")
    other = replace(one, task="shop.mul", id="b", retries=2)
    assert reported(one, other) == [
        ("task", "'shop.add'", "'shop.mul'"),
        ("id", "'a'", "'b'"),
        ("retries", "0", "2"),
    ]
    assert reported(one, one) == []
    dirty = pytest.importorskip("dirty_equals")
    assert reported(dirty.IsInt, one) == [("message", repr(dirty.IsInt), "shop.add")]
    assert reported(ANY, one) == []


def test_a_text_is_shortened_and_survives_a_broken_repr() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    assert len(shown("x" * 1000)) < 170
    assert shown(Broken()) == "<Broken whose repr raises RuntimeError>"
