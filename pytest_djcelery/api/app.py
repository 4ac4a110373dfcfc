"""The project's app in a test."""

from __future__ import annotations

from pytest_djcelery.project import registry
from pytest_djcelery.session.session import current_session


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
