"""The tasks that an app knows: those of a fresh worker process, and those of one test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytest_djcelery.errors import DjceleryError, UnregisteredTaskError

if TYPE_CHECKING:
    from celery import Celery

# What ``celery -A proj worker`` does before it consumes: find the app, import its modules.
_FRESH_WORKER = """
import importlib, json, sys
sys.path[:] = json.loads(sys.argv[2])
module, _, name = sys.argv[1].partition(":")
app = importlib.import_module(module)
for part in name.split("."):
    app = getattr(app, part)
app.loader.import_default_modules()
app.finalize()
print("\\n" + json.dumps(sorted(app.tasks)))
"""


def check(app: Celery, *, timeout: float) -> None:
    """Check that a fresh worker process would know each task that this process knows.

    Args:
        app: The project's app.
        timeout: Seconds that the process may take.

    Raises:
        UnregisteredTaskError: It lacks some; the text has the tasks, their modules and the remedy.
        DjceleryError: The process fails.
    """
    __tracebackhide__ = True
    fresh = _fresh_tasks(app, timeout)
    lost = {
        name: task for name, task in app.tasks.items() if name not in fresh and not is_of_test(task)
    }
    if not lost:
        return
    lines = [f"  {name}  (module {_module(task)})" for name, task in sorted(lost.items())]
    msg = (
        "A fresh worker would answer 'Received unregistered task' to:\n"
        + "\n".join(lines)
        + "\nTheir modules are imported in this process, but by nothing that a worker imports. Put "
        "them in a module named tasks of an installed app, or name their modules in "
        "app.autodiscover_tasks() or in CELERY_IMPORTS."
    )
    raise UnregisteredTaskError(msg)


@contextmanager
def tasks_restored(app: Celery) -> Iterator[None]:
    """Forget the tasks that a test defines in its body, so that the next test can use their names.

    Celery keeps the first task of each name, so a second test would run the first test's task.
    What a test has imported stays, since a module is imported only once.
    """
    found = dict(app.tasks)
    try:
        yield
    finally:
        tasks = app.tasks
        for name, task in () if tasks == found else list(tasks.items()):
            before = found.get(name)
            if task is before or not _in_a_body(task):
                continue
            if before is None:
                del app.tasks[name]
            else:
                app.tasks[name] = before


def _fresh_tasks(app: Any, timeout: float) -> set[str]:
    module, name = _place(app)
    try:
        done = subprocess.run(  # noqa: S603 - this interpreter, our own program
            [sys.executable, "-c", _FRESH_WORKER, f"{module}:{name}", json.dumps(sys.path)],
            capture_output=True, text=True, timeout=timeout, check=False, env=os.environ.copy(),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        msg = f"A fresh Python process did not import {module} within {timeout:g} s."
        raise DjceleryError(msg) from None
    if done.returncode:
        msg = f"A fresh Python process can't import what a worker imports:\n{done.stderr}"
        raise DjceleryError(msg)
    return set(json.loads(done.stdout.splitlines()[-1]))


def _place(app: Any) -> tuple[str, str]:
    """The module and the name in it through which the app can be reached."""
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("celery.") or _for_tests(module_name):
            continue  # Celery's own references, and modules that a worker doesn't import
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is app:
                return module_name, name
    msg = f"{app!r} is not an attribute of any module, so a fresh worker can't find it."
    raise DjceleryError(msg)


def _module(task: Any) -> str:
    return str(getattr(task, "__module__", type(task).__module__))


def is_of_test(task: Any) -> bool:
    """Whether a task is defined in a test module, so that no worker is meant to know it."""
    return _for_tests(_module(task))


def _in_a_body(task: Any) -> bool:
    """Whether a task is defined in a function of a test module."""
    names = type(task).__qualname__, getattr(task.run, "__qualname__", "")
    return is_of_test(task) and any("<locals>" in name for name in names)


def _for_tests(module: str) -> bool:
    if module.startswith("pytest_"):  # pytest-celery defines tasks too
        return True
    last = module.rpartition(".")[2]
    return (
        last.startswith("test_")
        or last.endswith("_test")
        or last in ("conftest", "tests", "__main__")
    )
