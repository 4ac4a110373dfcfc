"""A task under Hypothesis.

A fixture is set up once for all examples of a test; a context manager, once for each.
"""

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest_djcelery import Failure, Success, eager, inline, outbox, results

from demoapp.tasks import flaky, xsum


@pytest.mark.django_db
@settings(deadline=None)
@given(numbers=st.lists(st.integers() | st.floats(allow_nan=False, allow_infinity=False)))
def test_any_numbers_survive_the_message(numbers):
    with eager(), outbox() as sent:
        assert xsum.delay(numbers).get() == sum(numbers)
    assert sent == [xsum.s(numbers)]


@pytest.mark.django_db
@settings(deadline=None)
@given(failures=st.integers(0, 20))
def test_five_retries_and_no_more(failures):
    # Queues, clock and transaction are new for each example: minutes of back-off take no time.
    with inline() as worker, results() as outcomes:
        result = flaky.delay(failures=failures)
        worker.run(until=timedelta(minutes=5), raise_failures=False)
        if failures <= 5:
            assert outcomes[result] == Success("ok", retries=failures)
        else:
            assert outcomes[result] == Failure(ConnectionError, retries=5)
