"""A task under Hypothesis.

A fixture is set up once for all examples of a test; a context manager, once for each.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest_djcelery import eager, outbox

from demoapp.tasks import xsum


@pytest.mark.django_db
@settings(deadline=None)
@given(numbers=st.lists(st.integers() | st.floats(allow_nan=False, allow_infinity=False)))
def test_any_numbers_survive_the_message(numbers):
    with eager(), outbox() as sent:
        assert xsum.delay(numbers).get() == sum(numbers)
    assert sent == [xsum.s(numbers)]
