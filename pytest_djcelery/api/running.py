"""What every way to run tasks asks of a test: to be the only one, and to see its rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pytest_djcelery.errors import FixtureConflictError

if TYPE_CHECKING:
    from pytest_djcelery.session.runner import Runner
    from pytest_djcelery.session.sandbox import Sandbox


@contextmanager
def runs(sandbox: Sandbox, runner: Runner) -> Iterator[None]:
    """Have ``runner`` run this test's messages in a block; there can be only one."""
    __tracebackhide__ = True
    before = sandbox.runner
    if before is not None and before is not runner and not before.implicit:
        what, remedy = (
            ("with other options than the one that", "give both the same options, or drop one")
            if runner.name == before.name
            else (f"while {before.name}", "keep the one you mean and drop the other")
        )
        msg = (
            f"{runner.name} was asked for {what} is in use.\n"
            f"A test has one way to run its tasks: {remedy}."
        )
        raise FixtureConflictError(msg)
    sandbox.check_queues()
    sandbox.runner = runner
    try:
        yield
    finally:
        sandbox.runner = before


@contextmanager
def not_eager(sandbox: Sandbox) -> Iterator[None]:
    """Turn eager mode off in a block: a test that asks for a worker means the worker."""
    with sandbox.project.configuration.insist(task_always_eager=False):
        yield


def check_visible_to_workers(name: str) -> None:
    """Check that the rows of a test are not in a transaction that is never committed.

    Raises:
        FixtureConflictError: when they are.
    """
    from django.db import connections

    for connection in connections.all(initialized_only=True):
        if any(getattr(block, "_from_testcase", False) for block in connection.atomic_blocks):
            msg = (
                f"{name} in a test that is wrapped in a transaction (TestCase, or django_db "
                f"without transaction=True; database {connection.alias!r}): its rows are never "
                "committed, so the worker's own connection can't see them.\n"
                f"Use TransactionTestCase, or ask for {name} itself in a pytest test: then "
                "the plugin makes the test transactional."
            )
            raise FixtureConflictError(msg)
