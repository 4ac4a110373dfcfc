"""The project's app in a test, and what every way to run its tasks asks of the test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from pytest_djcelery.errors import FixtureConflictError
from pytest_djcelery.project import registry
from pytest_djcelery.session.opening import entered_sandbox
from pytest_djcelery.session.session import current_session

if TYPE_CHECKING:
    from celery import Celery

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


@contextmanager
def app(**conf: Any) -> Iterator[Celery]:
    """The project's own app, with settings of Celery changed in a block.

    Args:
        **conf: any of Celery's settings, in lower case (``task_acks_late=True``).

    Raises:
        AppNotFoundError: when the project has none.
        BadOptionError: for a setting that Celery doesn't have.
    """
    with entered_sandbox() as sandbox, sandbox.project.configuration.insist(**conf):
        yield sandbox.app


@contextmanager
def session_app(
    *, config: Mapping[str, Any] | None = None, parameters: Mapping[str, Any] | None = None
) -> Iterator[Celery]:
    """The project's own app for a session, with settings changed.

    Args:
        config: any of Celery's settings.
        parameters: arguments of `Celery` to apply to the app that exists.

    Raises:
        AppNotFoundError: when the project has none.
        BadOptionError: for a setting or parameter that the app doesn't have.
    """
    from pytest_djcelery.project.isolation import parameters_applied  # needs Celery

    session = current_session()
    project = session.use_project()
    with (
        # An audited run leaves the app alone, except in tests that use a fixture.
        nullcontext() if session.audit else session.app_isolated(project),
        parameters_applied(project.app, dict(parameters or {})) as settings,
        project.configuration.override(**{**settings, **(config or {})}),
    ):
        yield project.app


@contextmanager
def configured_app(*, config: Mapping[str, Any], parameters: Mapping[str, Any]) -> Iterator[Celery]:
    """`session_app` for one test, whose class may have changed some of the settings already."""
    configuration = current_session().use_project().configuration
    with session_app(
        config=configuration.not_in_django_layers(config), parameters=parameters
    ) as app:
        yield app


def check_registry(*, timeout: float = 60.0) -> None:
    """Check that a fresh worker process would know each task that this process knows.

    A task module that only tests or views import is never imported by ``celery worker``, which
    then answers "Received unregistered task". Starts one Python process that imports what a
    worker imports, and connects to nothing.

    Args:
        timeout: seconds that the process may take.

    Raises:
        UnregisteredTaskError: naming the tasks, their modules and the remedy.
        DjceleryError: when the process fails.
    """
    __tracebackhide__ = True
    registry.check(current_session().use_project().app, timeout=timeout)
