"""What a test costs that requests nothing of the plugin."""

import os

import pytest
from shop.models import Order

COUNT = int(os.environ["BENCHMARK_COUNT"])


@pytest.mark.parametrize("number", range(COUNT))
def test_nothing(number: int) -> None:
    """Cost nothing."""
    del number


@pytest.mark.django_db
@pytest.mark.parametrize("number", range(COUNT))
def test_writes_a_row(number: int) -> None:
    """Only use the database."""
    Order.objects.create(name=str(number))
