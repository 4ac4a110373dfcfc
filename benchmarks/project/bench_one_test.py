"""What pytest itself costs: one test that requests nothing."""


def test_nothing() -> None:
    """Cost nothing."""
