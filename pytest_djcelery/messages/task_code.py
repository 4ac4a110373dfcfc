"""How code has a task: by the function that was decorated, which need not be called as the task."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any


def short_code(name: str, task: Any) -> str:
    """What a person writes to call a method of a task: ``send_email``.

    Args:
        name: of the task.
        task: that is registered by it; ``None`` where it is not.
    """
    if task is None:
        return name.rpartition(".")[2]
    variable = _variable(task)
    return f"app.tasks[{name!r}]" if variable is None else variable


def code(name: str, tasks: Mapping[str, Any]) -> str:
    """The same with its module: ``demoapp.tasks.send_email``; the name of one that is not known.

    Args:
        name: of the task.
        tasks: those that are registered, by name.
    """
    task = tasks.get(name)
    variable = None if task is None else _variable(task)
    return name if variable is None else f"{task.__module__}.{variable}"


def _variable(task: Any) -> str | None:
    """The name in its module of a task; ``None`` for one of a class that is kept nowhere.

    ``@app.task`` marks the class that it makes of a function, and calls it as that (private:
    ``_decorated``), checked on Celery 5.4 to 5.7.
    """
    kind = type(task)
    if vars(kind).get("_decorated"):
        return kind.__name__
    module = sys.modules.get(kind.__module__)
    return next((name for name, value in vars(module).items() if value is task), None)
