"""What is taken as a shorter way through Celery and kombu gives what they give."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any
from uuid import RFC_4122, UUID

import pytest
from celery.app import amqp, base, trace
from celery.app.task import Context
from celery.utils import saferepr as of_celery
from hypothesis import given
from hypothesis import strategies as st
from kombu import serialization
from kombu.exceptions import DecodeError, EncodeError, SerializerNotInstalled
from kombu.utils import json as of_kombu
from kombu.utils.objects import cached_property

from pytest_djcelery.project.shortcuts.message_path import message_path_shortened

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.sampled_from(["it's", "a\\b", "\n", "é", "x" * 200, "'" * 60])
)
odd = st.sampled_from(
    [
        b"bytes",
        b"\xff",
        Decimal("1.50"),
        datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc),
        date(2026, 1, 2),
        UUID(int=7),
    ]
)
# Celery's representation gives up on a set's order, as Python's own does, so none is among these.
values = st.recursive(
    scalars | odd,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(values, st.none() | st.integers(0, 80) | st.just(1024), st.integers(0, 4))
def test_arguments_are_written_as_celery_writes_them(
    value: Any, maxlen: int | None, maxlevels: int
) -> None:
    expected = of_celery.saferepr(value, maxlen, maxlevels)

    with message_path_shortened():
        assert amqp.saferepr(value, maxlen, maxlevels=maxlevels) == expected
        assert trace.saferepr(value, maxlen, maxlevels) == expected
        assert amqp.saferepr is not of_celery.saferepr


@given(values)
def test_json_is_encoded_and_decoded_as_kombu_does(value: Any) -> None:
    encoded = serialization.dumps(value, "json")
    decoded = [
        serialization.loads(form, *encoded[:2])
        for form in (encoded[2], encoded[2].encode(), bytearray(encoded[2], "utf-8"))
    ]

    with message_path_shortened():
        assert serialization.dumps(value, "json") == encoded
        assert [
            serialization.loads(form, *encoded[:2])
            for form in (encoded[2], encoded[2].encode(), memoryview(encoded[2].encode()))
        ] == decoded


def raised(call: Callable[[], object]) -> tuple[Any, ...]:
    try:
        call()
    except Exception as error:  # noqa: BLE001 - whatever it is
        cause = error.__cause__ or error.__context__
        return type(error), str(error), type(cause), str(cause)
    pytest.fail("nothing was raised")


def loads(text: Any, kind: str = "application/json", **options: Any) -> object:
    return serialization.loads(text, kind, "utf-8", **options)


circular: list[Any] = []
circular.append(circular)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: serialization.dumps({"x": object()}, "json"), EncodeError),
        (lambda: serialization.dumps(circular, "json"), EncodeError),
        (lambda: serialization.dumps({(1, 2): 3}, "json"), EncodeError),
        (lambda: serialization.dumps(1, "none such"), SerializerNotInstalled),
        (lambda: loads("{broken"), DecodeError),
        (lambda: loads("1 2"), DecodeError),
        (lambda: loads("\ufeff1"), DecodeError),
        (lambda: loads(b"\xff"), DecodeError),
        (lambda: loads('{"__type__": "none such", "__value__": 1}'), DecodeError),
        (lambda: loads("1", accept={"application/x-yaml"}), serialization.ContentDisallowed),
    ],
)
def test_what_serializers_raise_is_raised_as_kombu_raises_it(
    call: Callable[[], object], error: type[Exception]
) -> None:
    expected = raised(call)

    with message_path_shortened():
        assert raised(call) == expected
    assert expected[0] is error


def test_an_interrupt_in_a_serializer_is_not_taken_for_its_error() -> None:
    class Interrupting:
        def __json__(self) -> object:
            raise KeyboardInterrupt

    with message_path_shortened(), pytest.raises(KeyboardInterrupt):
        serialization.dumps(Interrupting(), "json")


def test_a_type_that_a_project_registers_later_is_encoded_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(of_kombu, "_encoders", dict(of_kombu._encoders))
    monkeypatch.setattr(of_kombu, "_decoders", dict(of_kombu._decoders))

    with message_path_shortened():
        of_kombu.register_type(complex, "complex", str, complex)

        _, _, text = serialization.dumps([1j], "json")
        assert loads(text) == [1j]


def test_a_serializer_that_a_project_has_registered_as_json_is_its_own() -> None:
    def shouted(value: object) -> str:
        return json.dumps(value).upper()

    registry = serialization.registry
    before = registry._encoders["json"], registry._decoders["application/json"]
    try:
        serialization.register("json", shouted, str, "application/json")
        with message_path_shortened():
            assert serialization.dumps("a", "json")[2] == '"A"'
            assert loads("1") == "1"
        serialization.register_json()
        with message_path_shortened():  # in a test: it stays, as it would without us
            serialization.register("json", shouted, str, "application/json")
        assert serialization.dumps("a", "json")[2] == '"A"'
        assert loads("1") == "1"
    finally:
        registry._encoders["json"], registry._decoders["application/json"] = before


@given(st.datetimes(timezones=st.just(timezone.utc) | st.timezones() | st.none()))
def test_a_time_is_the_one_that_celery_makes_of_it(moment: datetime) -> None:
    expected = base.to_utc(moment)

    with message_path_shortened():
        quick = base.to_utc(moment)
    assert (quick, quick.tzinfo, quick.isoformat()) == (
        expected,
        expected.tzinfo,
        expected.isoformat(),
    )


def test_ids_are_random_uuids_of_the_fourth_version() -> None:
    with message_path_shortened():
        ids = {base.uuid() for _ in range(500)}

    assert len(ids) == 500
    assert all(str(UUID(each)) == each for each in ids)
    assert {(UUID(each).version, UUID(each).variant) for each in ids} == {(4, RFC_4122)}
    differing = [0] * 128
    for each in ids:
        for bit in range(128):
            differing[bit] += UUID(each).int >> bit & 1
    fixed = {bit for bit, ones in enumerate(differing) if ones in (0, 500)}
    assert fixed == {62, 63, 76, 77, 78, 79}


def test_ids_that_a_test_has_patched_stay_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "uuid", lambda: "fixed")

    with message_path_shortened():
        assert base.uuid() == "fixed"


names_of_headers = st.sampled_from([*vars(Context), "task", "lang", "argsrepr", "compression", "x"])


@given(st.dictionaries(names_of_headers | st.text(max_size=3), st.integers()))
def test_the_headers_of_a_request_are_those_that_celery_finds(headers: dict[str, int]) -> None:
    request = Context()
    expected = request._get_custom_headers(headers, args=())

    with message_path_shortened():
        assert request._get_custom_headers(headers, args=()) == expected


def test_an_attribute_is_kept_set_and_deleted_as_kombu_does() -> None:
    class Counted:
        made = 0

        @cached_property
        def number(self) -> int:
            self.made += 1
            return self.made

        @cached_property
        def fails(self) -> int:
            raise KeyError

        @number.setter
        def number(self, value: int) -> int:
            return value * 10

    counted, other = Counted(), Counted()
    with message_path_shortened():
        assert (counted.number, counted.number, counted.made) == (1, 1, 1)
        counted.number = 4
        assert counted.number == 40
        del counted.number
        assert (counted.number, other.number) == (2, 1)
        assert isinstance(Counted.number, cached_property)
        with pytest.raises(KeyError):
            _ = counted.fails
    assert counted.number == 2


def test_all_is_put_back_after_an_error_too() -> None:
    def found() -> list[object]:
        registry = serialization.registry
        return [
            amqp.saferepr,
            trace.saferepr,
            serialization._reraise_errors,
            registry._encoders["json"],
            registry._decoders["application/json"],
            base.to_utc,
            base.uuid,
            vars(Context)["_get_custom_headers"],
            vars(cached_property)["__get__"],
        ]

    before, inside = found(), []

    def fail() -> None:
        with message_path_shortened():
            inside.extend(found())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert found() == before
    assert not any(one is other for one, other in zip(inside, before, strict=True))
