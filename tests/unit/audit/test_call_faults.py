"""What an audit tells of a value without encoding it."""

from __future__ import annotations

import json
from collections import OrderedDict
from datetime import date
from decimal import Decimal
from typing import Any
from unittest.mock import Mock
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu import serialization
from kombu.exceptions import EncodeError, SerializerNotInstalled

from pytest_djcelery.audit.call_faults import culprit
from pytest_djcelery.messages.arguments import FINE


class Thing:
    """What no serializer but pickle can encode."""


THING = Thing()
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.dates() | st.uuids()
    | st.decimals() | st.timedeltas() | st.complex_numbers() | st.just(THING),
    lambda parts: st.lists(parts) | st.dictionaries(st.text() | st.integers(), parts)
    | st.sets(st.integers()) | st.tuples(parts) | st.lists(parts).map(tuple)
    | st.dictionaries(st.text(), parts).map(OrderedDict),
)  # fmt: skip


@given(value=PLAIN)
def test_json_is_judged_as_kombu_encodes_it(value: Any) -> None:
    try:
        serialization.dumps(value, "json")
    except EncodeError:
        assert culprit(value, "json") is not FINE
    else:
        assert culprit(value, "json") is FINE


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Register a serializer for a test."""
    registry = serialization.registry
    for name in (
        "_encoders",
        "_decoders",
        "name_to_type",
        "type_to_name",
        "_disabled_content_types",
    ):
        monkeypatch.setattr(registry, name, getattr(registry, name).copy())

    def register(name: str, module: str, encode: Any) -> None:
        def dumps(value: Any) -> Any:
            return encode(value)

        dumps.__module__ = module
        registry.register(name, dumps, json.loads, f"application/x-{name}")

    return register


@pytest.mark.parametrize(("name", "module"), [("yaml", "yaml"), ("msgpack", "kombu.serialization")])
def test_yaml_and_msgpack_encode_plain_data_themselves(
    register: Any, name: str, module: str
) -> None:
    register(name, module, json.dumps)  # takes text, numbers, lists, tuples and dicts
    for fine in ([1, {"a": (None,)}], Mock(), [Mock(), 2], OrderedDict(a=1), True):
        assert culprit(fine, name) is FINE
    amount = Decimal(1)
    assert culprit([1, {"a": amount}], name) is amount
    assert culprit([1, {"a": [THING]}, amount], name) is THING
    assert culprit({THING: 1}, name) is THING


def test_other_serializers_are_not_judged(register: Any) -> None:
    register("json", "shop.encoders", pytest.fail)
    register("own", "shop.encoders", pytest.fail)
    for serializer in ("json", "own", "pickle", "raw"):
        assert culprit([THING, uuid4()], serializer) is FINE
    with pytest.raises(SerializerNotInstalled, match="No encoder installed for none"):
        culprit(1, "none")


def test_what_contains_itself_is_at_fault_as_a_whole() -> None:
    itself: list[Any] = [date(2026, 1, 1)]
    itself.append({"a": itself})
    assert culprit(itself, "json") is itself[1]
    assert culprit([THING, itself], "json") is THING
