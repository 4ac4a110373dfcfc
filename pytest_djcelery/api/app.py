"""The project's app in a test, and what every way to run its tasks requires of the test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from pytest_djcelery.errors import FixtureConflictError
from pytest_djcelery.project import registry
from pytest_djcelery.session.opening import entered, entered_sandbox
from pytest_djcelery.session.session import current_session
from pytest_djcelery.transactions.connections import in_testcase, opened_connections

if TYPE_CHECKING:
    from celery import Celery

    from pytest_djcelery.session.runner import Runner
    from pytest_djcelery.session.sandbox import Sandbox


@contextmanager
def runner_set(sandbox: Sandbox, runner: Runner) -> Iterator[None]:
    """Within the ``with``, have ``runner`` run this test's messages; there can be only one.

    Raises:
        FixtureConflictError: Another runner is in use.
        BadOptionError: ``djcelery_queues`` names a queue that the app doesn't declare.
    """
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


def eager_mode_off(sandbox: Sandbox) -> AbstractContextManager[None]:
    """Within the ``with``, turn eager mode off: a test that asks for a worker wants the worker."""
    return sandbox.project.configuration.insist(task_always_eager=False)


def check_visible_to_workers(name: str) -> None:
    """Check that the rows of a test are not in a transaction that is never committed.

    Args:
        name: The fixture whose worker has to see them.

    Raises:
        FixtureConflictError: They are.
    """
    for connection in opened_connections():
        if in_testcase(connection):
            msg = (
                f"{name} in a test that is wrapped in a transaction (TestCase, or django_db "
                f"without transaction=True; database {connection.alias!r}): its rows are never "
                "committed, so the worker's own connection can't see them.\n"
                f"Use TransactionTestCase, or ask for {name} itself in a pytest test: then "
                "the plugin makes the test transactional."
            )
            raise FixtureConflictError(msg)


@entered
def app(**conf: Any) -> Iterator[Celery]:
    """Change Celery's settings for a part of a test.

    ``with pytest_djcelery.app(task_acks_late=True) as app:`` yields the project's own app. The
    settings, and whatever Celery has derived from them, are as before at the end of the ``with``.
    The fixture ``celery_app`` does this with the settings of ``@pytest.mark.celery(…)``.

    Args:
        **conf: Any of Celery's settings, in lower case.

    Raises:
        AppNotFoundError: The project has no app.
        BadOptionError: Celery doesn't have one of the settings.
    """
    with entered_sandbox() as sandbox, sandbox.project.configuration.insist(**conf):
        yield sandbox.app


@entered
def session_app(
    *, config: Mapping[str, Any] | None = None, parameters: Mapping[str, Any] | None = None
) -> Iterator[Celery]:
    """Use the project's own app outside a single test, for example in a session fixture.

    Yields the app, with these settings until the end of the ``with``. The fixture
    ``celery_session_app`` does this with ``celery_config`` and ``celery_parameters``.

    Args:
        config: Any of Celery's settings.
        parameters: Arguments of `Celery` to apply to the existing app.

    Raises:
        AppNotFoundError: The project has no app.
        BadOptionError: The app doesn't have one of the settings or parameters.
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
    """Do as `session_app` for one test, whose class may already have changed some settings."""
    configuration = current_session().use_project().configuration
    with session_app(
        config=configuration.not_in_django_layers(config), parameters=parameters
    ) as app:
        yield app


def check_registry(*, timeout: float = 60.0) -> None:
    """Check, in a test, that production's workers will know all of the project's tasks.

    ``celery worker`` never imports a task module that only tests or views import, and then answers
    "Received unregistered task". This starts a Python process that imports what a worker imports
    and connects to nothing, and compares its tasks with those of this process.

    Args:
        timeout: Seconds that the process may take.

    Raises:
        UnregisteredTaskError: Tasks are missing there; the text has their modules and the remedy.
        DjceleryError: The process fails.
    """
    __tracebackhide__ = True
    registry.check(current_session().use_project().app, timeout=timeout)
