"""What each test costs that asks for nothing."""

import os

import pytest

COUNT = int(os.environ["BENCHMARK_COUNT"])


@pytest.mark.parametrize("number", range(COUNT))
def test_nothing(number: int) -> None:
    """Cost nothing."""
    del number
