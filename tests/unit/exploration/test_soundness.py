"""What exploration finds is what can happen, by a model that lists every history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given, settings

from pytest_djcelery.exploration.bounds import Bounds
from pytest_djcelery.session.session import current_session
from tests.unit import inline_project
from tests.unit.exploration.programs import Job, explored, histories, jobs


@pytest.fixture(scope="module", autouse=True)
def _session() -> Iterator[None]:
    with inline_project.session(__file__):
        current_session().draws_tests = True  # each schedule is a test, and none an example
        yield


def _check(program: tuple[Job, ...], bounds: Bounds) -> None:
    possible = histories(program, bounds)
    assert Counter(explored(program, bounds)) == Counter(possible)


@given(jobs(varied=True))
@settings(max_examples=20)
def test_each_order_that_can_happen_is_run_exactly_once(program: tuple[Job, ...]) -> None:
    _check(program, Bounds())


@given(jobs(varied=True))
@settings(max_examples=8)
def test_each_redelivery_that_can_happen_is_run_exactly_once(program: tuple[Job, ...]) -> None:
    _check(program, Bounds(duplicates=1))


@given(jobs(varied=True))
@settings(max_examples=8)
def test_each_lost_host_that_can_be_is_run_exactly_once(program: tuple[Job, ...]) -> None:
    _check(program, Bounds(crashes=1))
