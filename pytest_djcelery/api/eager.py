"""Celery's eager mode in a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pytest_djcelery.api.app import runner_set
from pytest_djcelery.patching import patches, replaced
from pytest_djcelery.session.opening import entered, entered_sandbox
from pytest_djcelery.session.runner import Runner
from pytest_djcelery.workers.database import other_threads_watched

if TYPE_CHECKING:
    from celery import Celery


class EagerRunner(Runner):
    """Each task ends before ``delay()`` returns, so there is nothing to wait for."""

    name = "celery_eager"

    def situation(self) -> str:
        """Why an outcome is missing nevertheless."""
        return (
            "celery_eager runs each task at the call, so a result that is not there by now never "
            "comes: send_task() publishes even in eager mode (celery_worker would run it)."
        )


@patches(
    "celery.result:EagerResult.backend",
    why="A ResultSet of eager results needs their backend, and Celery gives them none.",
    checked_on="Celery 5.4 to 5.7",
)
@contextmanager
def _eager_results_have_backend(app: Celery) -> Iterator[None]:
    """Within the ``with``, give eager results the app's result backend."""
    from celery.result import EagerResult

    with replaced(EagerResult, backend=property(lambda _: app.backend)):
        yield


@entered
def eager(*, propagates: bool | None = None) -> Iterator[Celery]:
    """Use Celery's eager mode in a part of a test: each task runs inside its ``delay()``.

    Yields the project's app, whose eager mode is on until the end of the ``with``. Results are
    stored, so they can be read back by ``AsyncResult`` and `results`.

    Args:
        propagates: Whether a failing task raises at the call (``task_eager_propagates``).
            ``None`` leaves that to the project's settings. Handlers and errbacks run first in
            either case.

    Raises:
        FixtureConflictError: Another way to run tasks is in use.
        AppNotFoundError: The project has no app.
    """
    values = {"task_always_eager": True, "task_store_eager_result": True}
    if propagates is not None:
        values["task_eager_propagates"] = propagates
    with (
        entered_sandbox() as sandbox,
        runner_set(
            sandbox, sandbox.runner if isinstance(sandbox.runner, EagerRunner) else EagerRunner()
        ),
        sandbox.project.configuration.insist(**values),
        _eager_results_have_backend(sandbox.app),
        other_threads_watched(),
    ):
        yield sandbox.app
