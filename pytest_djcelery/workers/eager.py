"""Eager mode as one of the ways to run a test's tasks."""

from __future__ import annotations

from pytest_djcelery.session.runner import Runner


class EagerRunner(Runner):
    """Tasks are over before ``delay()`` returns, so there is nothing to wait for."""

    name = "celery_eager"

    def situation(self) -> str:
        """Why an outcome is missing all the same."""
        return (
            "celery_eager runs each task at the call, so what is not there by now never comes: "
            "send_task() publishes even in eager mode (celery_worker would run it)."
        )
