"""What a test says of itself: its markers, and the fixtures it needs because of others."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from pytest_djcelery.errors import BadOptionError
from pytest_djcelery.options import policy

if TYPE_CHECKING:
    import pytest

DECLARED = (
    (
        "celery(**settings): change settings of the project's Celery app for this test, "
        "such as task_acks_late=True"
    ),
    (
        "celery_sent_in_transaction(policy): what a message published inside an open transaction "
        "does in this test: 'warn', 'error' or 'ignore'"
    ),
    (
        "celery_unhandled_failures(policy): what a task failure that the test never looked at "
        "does: 'error', 'warn' or 'ignore'"
    ),
)
_POLICIES = {
    "celery_sent_in_transaction": "sent_in_transaction",
    "celery_unhandled_failures": "unhandled_failures",
}
_WORKERS = ("celery_worker", "celery_session_worker")
_DATABASE = ("db", "transactional_db", "django_db_reset_sequences", "django_db_serialized_rollback")


def options(node: pytest.Item) -> dict[str, Any]:
    """Options of the run that markers change for one test.

    Raises `BadOptionError` for a marker used the wrong way.
    """
    changes = {}
    for name, option in _POLICIES.items():
        marker = node.get_closest_marker(name)
        if marker is not None:
            changes[option] = policy(f"@pytest.mark.{name}", _only_argument(marker))
    return changes


def _only_argument(marker: pytest.Mark) -> object:
    def signature(policy: object) -> object:
        return policy

    try:
        bound = inspect.signature(signature).bind(*marker.args, **marker.kwargs)
    except TypeError as error:
        msg = (
            f"@pytest.mark.{marker.name}{_call(marker)}: {error}. "
            f"Expected one policy, such as @pytest.mark.{marker.name}('error')."
        )
        raise BadOptionError(msg) from None
    return bound.arguments["policy"]


def configuration(node: pytest.Item) -> dict[str, Any]:
    """The settings that ``@pytest.mark.celery(…)`` changes; the closest marker wins.

    Raises `BadOptionError` for a marker used the wrong way.
    """
    settings: dict[str, Any] = {}
    for marker in reversed(list(node.iter_markers("celery"))):
        if marker.args:
            msg = (
                f"@pytest.mark.celery{_call(marker)}: expected settings of Celery as keyword "
                "arguments only, such as @pytest.mark.celery(task_acks_late=True)."
            )
            raise BadOptionError(msg)
        settings.update(marker.kwargs)
    return settings


def _call(marker: pytest.Mark) -> str:
    shown = [
        *map(repr, marker.args),
        *(f"{name}={value!r}" for name, value in marker.kwargs.items()),
    ]
    return f"({', '.join(shown)})"


def complete_fixtures(item: pytest.Function) -> None:
    """Add the fixtures that a test needs because of those it asks for, and of its markers."""
    names = item.fixturenames
    if "celery_session_worker" in names and "_celery_session_worker_here" not in names:
        names.append("_celery_session_worker_here")
    marked = {marker.name for marker in item.iter_markers()}
    if "celery_app" not in names and not marked.isdisjoint(("celery", *_POLICIES)):
        names.append("celery_app")
    if (
        any(worker in names for worker in _WORKERS)
        and "transactional_db" not in names
        and _uses_database(item, marked)
    ):
        # First: the worker is to be gone before the database is.
        names.insert(0, "transactional_db")


def _uses_database(item: pytest.Function, marked: Collection[str]) -> bool:
    if item.cls is not None and hasattr(item.cls, "databases"):
        return False  # Django's own test cases set the database up by themselves
    return "django_db" in marked or any(name in item.fixturenames for name in _DATABASE)


def before_database_cleanup(request: pytest.FixtureRequest, settle: Callable[[], None]) -> None:
    """Call ``settle`` before a ``unittest`` test case empties its database.

    A pytest fixture is torn down after that, and a task that still runs would write again.
    """
    add_cleanup = getattr(request.instance, "addCleanup", None)
    if add_cleanup is not None:
        add_cleanup(settle)
