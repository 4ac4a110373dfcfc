"""What a test uses directly: each object beside the context manager that makes it."""

from __future__ import annotations

from pytest_djcelery.messages import unittest_failures


def _explained(op: str, left: object, right: object) -> list[str] | None:
    from pytest_djcelery.reporting import comparisons  # this loads Celery, and is seldom needed

    return comparisons.explain(op, left, right)


unittest_failures.explain_with(_explained)
