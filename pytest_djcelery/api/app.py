"""The project's app in a test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from pytest_djcelery.project import registry
from pytest_djcelery.session.opening import entered_sandbox
from pytest_djcelery.session.session import current_session

if TYPE_CHECKING:
    from celery import Celery


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
    with session_app(config=configuration.beneath_settings(config), parameters=parameters) as app:
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
