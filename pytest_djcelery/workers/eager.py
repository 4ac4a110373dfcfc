"""Eager mode as one of the ways to run a test's tasks."""

from __future__ import annotations


class EagerRunner:
    """Tasks are over before ``delay()`` returns, so there is nothing to wait for."""

    name = "celery_eager"
    will_run = True

    def settle(self) -> None:
        """Nothing is ever left."""

    def situation(self) -> str:
        """Why an outcome is missing all the same."""
        return (
            "celery_eager runs each task at the call, so what is not there by now never comes: "
            "send_task() publishes even in eager mode (celery_worker would run it)."
        )
