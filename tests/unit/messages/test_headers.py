"""Headers on the other side of a broker."""

from __future__ import annotations

from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.utils.json import dumps, loads

from pytest_djcelery.messages.headers import received

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.dates()
    | st.datetimes(timezones=st.just(timezone.utc))
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.binary()
)
VALUES = st.recursive(
    LEAVES,
    lambda inside: (
        st.lists(inside)
        | st.lists(inside).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inside)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text() | st.integers(), VALUES))
def test_headers_are_what_kombu_makes_of_them(headers: dict[Any, Any]) -> None:
    got = received(headers)
    assert got == loads(dumps(headers))
    assert [type(each) for each in got.values()] == [
        type(each) for each in loads(dumps(headers)).values()
    ]


@given(st.dictionaries(st.text(), VALUES))
def test_delivered_headers_share_nothing_with_those_that_were_sent(headers: dict[str, Any]) -> None:
    def containers(value: Any) -> set[int]:
        inside = value.values() if isinstance(value, dict) else value
        own = {id(value)} if isinstance(value, dict | list) else set()
        return own.union(
            *(containers(each) for each in inside if isinstance(each, dict | list | tuple))
        )

    assert containers(headers).isdisjoint(containers(received(headers)))


class Shouted(str):
    __slots__ = ()


def test_what_is_more_than_plain_arrives_as_json_has_it() -> None:
    number = UUID(int=7)
    day = date(2024, 5, 17)
    assert received({"a": (1, 2), "b": number, "c": day, "d": Decimal("1.5"), 5: 6}) == {
        "a": [1, 2], "b": number, "c": day, "d": Decimal("1.5"), "5": 6,
    }  # fmt: skip
    assert received({"at": datetime(2024, 5, 17, tzinfo=timezone.utc)}) == {
        "at": datetime(2024, 5, 17, tzinfo=timezone.utc)
    }
    assert type(received({"safe": Shouted("yes")})["safe"]) is str


@pytest.mark.parametrize(
    ("value", "note"),
    [
        ({1}, "'tags' can't be a header of a message: no broker carries {1} (of type set); send a"),
        ({"in": [{"deep": object}]}, "carries <class 'object'> (of type type); send plain"),
    ],
)  # fmt: skip
def test_a_header_that_can_not_be_sent_is_named(value: Any, note: str) -> None:
    with pytest.raises(TypeError, match="is not JSON serializable") as raised:
        received({"id": "7", "plain": (1, 2), "tags": value})
    [text] = [each for each in raised.value.__notes__ if "header" in each]
    assert note in text
    assert text.endswith(
        "It comes from the call (headers=…), or from a receiver of before_task_publish."
    )
