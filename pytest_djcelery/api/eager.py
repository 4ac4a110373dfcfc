"""Celery's eager mode in a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pytest_djcelery.api.app import runs
from pytest_djcelery.patching import patches, replaced
from pytest_djcelery.session.opening import entered_sandbox
from pytest_djcelery.session.runner import Runner
from pytest_djcelery.workers.database import other_threads_watched

if TYPE_CHECKING:
    from celery import Celery


class EagerRunner(Runner):
    """Each task ends before ``delay()`` returns, so there is nothing to wait for."""

    name = "celery_eager"

    def situation(self) -> str:
        """Why an outcome is missing all the same."""
        return (
            "celery_eager runs each task at the call, so what is not there by now never comes: "
            "send_task() publishes even in eager mode (celery_worker would run it)."
        )


@patches(
    "celery.result:EagerResult.backend",
    why="A ResultSet of eager results asks for the backend, and Celery has given them none.",
    checked_on="Celery 5.4 to 5.7",
)
@contextmanager
def _backend_of_results(app: Celery) -> Iterator[None]:
    from celery.result import EagerResult

    with replaced(EagerResult, backend=property(lambda _: app.backend)):
        yield


@contextmanager
def eager(*, propagates: bool | None = None) -> Iterator[Celery]:
    """Celery's eager mode in a block, with results that can be read back.

    Args:
        propagates: whether a failing task raises at the call (``task_eager_propagates``);
            ``None`` leaves that to the project's settings. Handlers and errbacks come first
            either way.

    Raises:
        FixtureConflictError: while a worker runs.
    """
    values = {"task_always_eager": True, "task_store_eager_result": True}
    if propagates is not None:
        values["task_eager_propagates"] = propagates
    with (
        entered_sandbox() as sandbox,
        runs(sandbox, sandbox.runner if isinstance(sandbox.runner, EagerRunner) else EagerRunner()),
        sandbox.project.configuration.insist(**values),
        _backend_of_results(sandbox.app),
        other_threads_watched(),
    ):
        yield sandbox.app
