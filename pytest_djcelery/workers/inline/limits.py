"""Warns, once for each, of limits that a worker in the test's own thread can't enforce."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import monotonic
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from pytest_djcelery.errors import LimitNotEnforcedWarning

if TYPE_CHECKING:
    from celery import Celery

    from pytest_djcelery.project.isolation import Project

_NOTHING: AbstractContextManager[None] = nullcontext()
_SETTINGS = {
    "rate_limit": "task_default_rate_limit",
    "time_limit": "task_time_limit",
    "soft_time_limit": "task_soft_time_limit",
}


class Limits:
    """Warns of limits, and remembers those that the run has already warned of.

    It warns of a task's or a message's own limit upon delivery. Of one that the project sets for
    all tasks (``CELERY_TASK_TIME_LIMIT`` in Celery's Django tutorial) it only warns when a task
    has taken longer: until then, nothing differs from a worker that enforces it.
    """

    def __init__(self) -> None:
        self._warned_of: set[tuple[str, str]] = set()
        self._of_all: dict[str, Any] = {}

    def follow(self, app: Celery) -> None:
        """Apply the current settings."""
        self._of_all = {name: app.conf[setting] for name, setting in _SETTINGS.items()}

    def warned_of(
        self, tasks: Mapping[str, Any], headers: Mapping[str, Any]
    ) -> AbstractContextManager[None]:
        """Enter around the delivery of a message, to warn of the limits of its task."""
        task = tasks.get(headers.get("task", ""))
        limits = self._limits(headers, task) if task is not None else None
        return self._warned_of_each(task, limits) if limits else _NOTHING

    def _limits(self, headers: Mapping[str, Any], task: Any) -> dict[str, Any]:
        time_limit, soft_time_limit = headers.get("timelimit") or (None, None)
        rate_limit = task.rate_limit
        time_limit = time_limit or task.time_limit or self._of_all["time_limit"]
        soft_time_limit = soft_time_limit or task.soft_time_limit or self._of_all["soft_time_limit"]
        if not (rate_limit or time_limit or soft_time_limit):
            return {}
        limits = {
            "rate_limit": rate_limit,
            "time_limit": time_limit,
            "soft_time_limit": soft_time_limit,
        }
        return {name: value for name, value in limits.items() if value}

    @contextmanager
    def _warned_of_each(self, task: Any, limits: Mapping[str, Any]) -> Iterator[None]:
        for name, value in limits.items():
            if value != self._of_all[name]:
                self._warn(task.name, name, f"{name}={value!r}")
        began = monotonic()
        yield
        took = monotonic() - began
        for name, value in limits.items():
            if name == "rate_limit":
                self._warn(task.name, name, f"{name}={value!r}")
            elif took > value:
                self._warn(task.name, name, f"{name}={value!r}, and it took {took:.1f} s")

    def _warn(self, task: str, name: str, limit: str) -> None:
        if (task, name) in self._warned_of:
            return
        self._warned_of.add((task, name))
        warnings.warn(
            LimitNotEnforcedWarning(
                f"{task} has {limit}: celery_inline runs it to its end in the test's own thread, "
                "where a worker would limit it. To test what happens when a time limit is over: "
                "celery_faults.time_out(task, at=…), and no time passes."
            ),
            stacklevel=2,
        )


_by_project: WeakKeyDictionary[Project, Limits] = WeakKeyDictionary()


def limits_of(project: Project) -> Limits:
    """The limits of a project's tasks that this run has warned of."""
    found = _by_project.get(project)
    if found is None:
        found = _by_project.setdefault(project, Limits())
    return found
