"""What exploration finds is what can happen, by a model that lists every history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import assume, given, settings

from pytest_djcelery.exploration.steering import Bounds
from pytest_djcelery.session.session import current_session
from tests.unit import inline_project
from tests.unit.exploration.programs import MANY, Job, explored, histories, jobs


@pytest.fixture(scope="module", autouse=True)
def _session() -> Iterator[None]:
    with inline_project.session(__file__):
        current_session().draws_tests = True  # each schedule is a test, and none an example
        yield


def _check(program: tuple[Job, ...], bounds: Bounds) -> None:
    possible = histories(program, bounds)
    assume(len(possible) <= MANY)
    assert Counter(explored(program, bounds)) == Counter(possible)


@given(jobs())
@settings(max_examples=15)
def test_each_order_that_can_happen_is_run_exactly_once(program: tuple[Job, ...]) -> None:
    _check(program, Bounds())


@given(jobs())
@settings(max_examples=8)
def test_each_redelivery_that_can_happen_is_run_exactly_once(program: tuple[Job, ...]) -> None:
    _check(program, Bounds(duplicates=1))


@given(jobs())
@settings(max_examples=8)
def test_each_lost_host_that_can_be_is_run_exactly_once(program: tuple[Job, ...]) -> None:
    _check(program, Bounds(crashes=1))


@pytest.mark.parametrize(
    "job", [Job("1"), Job("1", late=True), Job("1", children=(Job("2", late=True),))]
)
def test_redeliveries_and_lost_hosts_meet(job: Job) -> None:
    bounds = Bounds(duplicates=1, crashes=1)
    possible = histories((job,), bounds)
    assert len(possible) <= MANY
    assert Counter(explored((job,), bounds)) == Counter(possible)
