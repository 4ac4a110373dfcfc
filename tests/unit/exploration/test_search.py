"""The search over schedules: all with few deviations first, then drawn ones; and their tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_djcelery.exploration.schedules import Course, Decisions, Schedule, Token, draw, follow
from pytest_djcelery.exploration.search import Ran, Search, Seen
from pytest_djcelery.options import parse

Order = tuple[int, ...]


class Orders:
    """A test whose schedules are the orders of some messages.

    Args:
        count: How many messages.
        fails: Whether it fails in an order.
    """

    def __init__(self, count: int, fails: Callable[[Order], bool] = lambda _: False) -> None:
        self._count = count
        self._fails = fails
        self.seen: list[Order] = []
        self.deviations: list[int] = []

    def run(self, decisions: Decisions) -> Ran:
        due, order = list(range(self._count)), []
        while due:
            order.append(due.pop(decisions.decide(f"{len(due)} are due", len(due))))
        self.seen.append(tuple(order))
        course = decisions.over()
        assert decisions.left is None
        self.deviations.append(len(course.schedule))
        return Ran(course, failed=self._fails(tuple(order)))


def search(orders: Orders, examples: int, seed: int = 1) -> Seen:
    return Search(orders.run, examples=examples, draws=partial(draw, seed)).go()


def test_all_orders_are_run_once_those_with_few_deviations_first() -> None:
    orders = Orders(4)
    seen = search(orders, 24)
    assert sorted(orders.seen) == sorted(permutations(range(4)))
    assert orders.seen[0] == (0, 1, 2, 3)
    assert orders.deviations == sorted(orders.deviations)
    assert (seen.complete, seen.schedules, seen.failing) == (True, 24, 0)
    assert seen.text() == "24 schedules, all there are"


def test_what_does_not_fit_is_drawn_up_to_the_bound() -> None:
    orders = Orders(5)
    seen = search(orders, 30)
    assert orders.deviations[:11] == [0, *[1] * 10]
    assert (seen.complete, seen.schedules, seen.depth, seen.drawn) == (False, 30, 1, 19)
    assert len(set(orders.seen)) == 30
    assert seen.text() == "30 schedules: all of up to 1 deviation, and 19 drawn"
    again = Orders(5)
    search(again, 30)
    assert again.seen == orders.seen


def test_a_bound_of_one_leaves_the_undisturbed_schedule() -> None:
    seen = search(Orders(2), 1)
    assert (seen.complete, seen.schedules) == (False, 1)
    assert seen.text() == "1 schedule: the undisturbed one"


def test_the_search_goes_on_after_a_failure_and_keeps_the_least() -> None:
    seen = search(Orders(4, lambda order: order[0] == 3 or order[-1] == 0), 24)
    assert (seen.schedules, seen.failing) == (24, 10)
    assert seen.least is not None
    assert seen.least.schedule == Schedule(((0, 3),))


def test_what_is_drawn_is_made_smaller() -> None:
    orders = Orders(7, lambda order: max(order.index(5), order.index(6)) < order.index(0))
    seen = search(orders, 120)
    assert seen.drawn
    assert seen.least is not None
    assert len(seen.least.schedule) <= 3


def test_a_search_of_nothing_to_decide_is_over_at_once() -> None:
    assert search(Orders(0), 100).text() == "1 schedule, all there are"


# Tokens -----------------------------------------------------------------------------------


def courses() -> st.SearchStrategy[Course]:
    decisions = st.lists(st.tuples(st.text(max_size=5), st.integers(0, 99)), max_size=8)
    return decisions.map(
        lambda made: Course(
            tuple(what for what, _ in made),
            tuple(way + 1 for _, way in made),
            Schedule(tuple((n, way) for n, (_, way) in enumerate(made) if way)),
        )
    )


@given(courses())
def test_a_token_stands_for_its_schedule(course: Course) -> None:
    token = Token.of("tests/test_x.py::test_it", course)
    text = parse({"schedule": str(token)}).schedule
    assert text is not None
    assert Token.read(text) == token
    assert token.schedule == course.schedule
    assert token.test == Token.of("test_x.py::test_it", course).test
    assert token.test != Token.of("test_x.py::test_other", course).test


def replayed(token: Token, whats: list[str]) -> int | None:
    decisions = follow(token.schedule, ())
    for what in whats:
        decisions.decide(what, 2)
    decisions.over()
    return token.left_at(decisions)


@pytest.fixture
def token() -> Iterator[Token]:
    course = Course(("a", "b", "c", "d"), (2, 2, 2, 2), Schedule(((0, 1), (2, 1))))
    return Token.of("test_it", course)


def test_a_token_notices_where_a_run_leaves_it(token: Token) -> None:
    assert replayed(token, ["a", "b", "c", "other"]) is None
    assert replayed(token, ["a", "other", "c"]) == 1
    assert replayed(token, ["a", "b"]) == 2
    decisions = follow(token.schedule, ())
    for what, ways in (("a", 2), ("b", 2), ("c", 1)):
        decisions.decide(what, ways)
    assert token.left_at(decisions) == 2


def test_a_run_that_leaves_its_schedule_goes_on_undisturbed() -> None:
    decisions = follow(Schedule(((1, 1), (2, 1))), ("a", "b", "c"))
    assert [decisions.decide(what, 2) for what in ("a", "x", "c")] == [0, 0, 0]
    decisions.over()
    assert decisions.left == 1
