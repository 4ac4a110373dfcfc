"""Outcomes, as values to compare with."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_djcelery.messages.outcomes import (
    Failure,
    Outcome,
    Outcomes,
    Pending,
    Progress,
    Retrying,
    Revoked,
    Started,
    Success,
)

KINDS: list[Outcome] = [
    Success(1),
    Failure(ValueError("boom")),
    Revoked(),
    Pending(),
    Started(),
    Retrying(ValueError("boom")),
    Progress({"done": 1}),
]


@pytest.mark.parametrize(("one", "other"), list(combinations(KINDS, 2)))
def test_outcomes_of_two_kinds_are_never_equal(one: Outcome, other: Outcome) -> None:
    assert one != other
    assert other != one


@pytest.mark.parametrize("outcome", KINDS)
def test_an_outcome_equals_itself_and_nothing_else(outcome: Outcome) -> None:
    assert outcome == outcome  # noqa: PLR0124 - that is the question
    assert outcome != "something else"
    assert outcome != None  # noqa: E711 - that is the question


numbers = st.none() | st.integers(min_value=0, max_value=3)


@given(st.integers(0, 3), st.integers(0, 3), numbers, numbers)
def test_retries_count_where_both_sides_name_them(a: int, b: int, m: int, n: int) -> None:
    named = m is not None and n is not None
    same = a == b and (not named or m == n)
    assert (Success(a, retries=m) == Success(b, retries=n)) is same
    assert (Revoked(retries=m) == Revoked(retries=n)) is (not named or m == n)
    one, other = Failure(KeyError(a), retries=m), Failure(KeyError(b), retries=n)
    assert (one == other) is same


def test_a_failure_is_compared_by_type_by_types_or_by_an_equal_exception() -> None:
    happened = Failure(FileNotFoundError("no such file"))
    assert happened == Failure(FileNotFoundError)
    assert Failure(OSError) == happened
    assert happened == Failure((KeyError, OSError))
    assert happened == Failure(FileNotFoundError("no such file"))
    assert happened != Failure(FileNotFoundError("another"))
    assert happened != Failure(KeyError)
    assert Failure(OSError) == Failure(OSError)
    assert Failure(OSError) != Failure(FileNotFoundError)


def test_a_failures_text_is_searched_for_match() -> None:
    happened = Failure(ValueError("order 12 is lost"))
    assert happened == Failure(ValueError, match=r"order \d+")
    assert Failure(ValueError, match="is lost$") == happened
    assert happened != Failure(ValueError, match="^is lost")


def test_retrying_may_name_its_reason() -> None:
    assert Retrying(OSError("down")) == Retrying()
    assert Retrying(OSError("down")) == Retrying(OSError)
    assert Retrying(OSError("down")) != Retrying(KeyError)


def test_outcomes_of_a_group_compare_one_by_one_or_as_one() -> None:
    good = Outcomes([Success(2), Success(4)])
    assert good == [Success(2), Success(4)]
    assert good == Success([2, 4])
    assert good != [Success(4), Success(2)]
    assert good != Success([2])
    bad = Outcomes([Success(2), Failure(ValueError("boom")), Revoked()])
    assert bad == Failure(ValueError, match="boom")
    assert bad != Success([2])
    assert Outcomes([Success(1), Outcomes([Success(2)])]).as_one == Success([1, [Success(2)]])


@pytest.mark.parametrize("outcome", [Success([1]), Failure(ValueError), Revoked(), Retrying()])
def test_outcomes_hold_values_that_need_not_be_hashable(outcome: Outcome) -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(outcome)
