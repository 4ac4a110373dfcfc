"""What pytest itself costs: one test that asks for nothing."""


def test_nothing() -> None:
    """Cost nothing."""
