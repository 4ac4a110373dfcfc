"""What a test of the benchmark says of itself is kept in the report."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", "says(text): what the test checks, and what it doesn't")


@pytest.fixture(autouse=True)
def _said(request: pytest.FixtureRequest, record_property) -> None:
    record_property("says", request.node.get_closest_marker("says").args[0])
