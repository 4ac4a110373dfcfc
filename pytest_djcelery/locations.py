"""Where in the project's own code something happened."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from types import CodeType, FrameType, TracebackType
from typing import Any

_LIBRARIES = (
    "celery", "kombu", "vine", "billiard", "amqp", "redis", "django", "asgiref", "mock",
    "pytest_mock", "pytest_djcelery",
)  # fmt: skip


#: The methods of tasks and of signatures that publish.
PUBLISHES = frozenset({"delay", "apply_async", "delay_on_commit", "apply_async_on_commit"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """A line of the project's code."""

    path: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{relative(self.path)}:{self.line} in {self.function}"


def relative(path: str) -> str:
    """Shorten ``path`` to the working folder where it lies below it."""
    try:
        short = os.path.relpath(path)
    except ValueError:  # another drive, on Windows
        return path
    return path if short.startswith("..") else short


@lru_cache(maxsize=1)
def _library_folders() -> tuple[str, ...]:
    folders: list[str] = []
    for name in _LIBRARIES:
        # Celery and kombu replace their modules by ones without a ``__spec__``.
        module = sys.modules.get(name)
        spec = find_spec(name) if module is None else None
        path = getattr(module, "__path__", None) or (spec and spec.submodule_search_locations)
        folders += [os.path.join(folder, "") for folder in path or ()]
    return tuple(folders)


# Its modules stand between a library and the code that it calls: ``contextlib``, ``threading``.
_STANDARD_LIBRARY = os.path.join(os.path.dirname(os.__file__), "")
_PACKAGES = tuple(
    os.path.join(_STANDARD_LIBRARY, name, "") for name in ("site-packages", "dist-packages")
)


@cache
def in_library(filename: str) -> bool:
    """Whether a code object's file is of Python, Celery, kombu, Django or this plugin, or none."""
    # Code that has none is made at run time, as `unittest.mock` makes a function by a signature;
    # ``<frozen …>`` is of Python.
    return filename.startswith(("<string>", "<frozen ", *_library_folders())) or (
        filename.startswith(_STANDARD_LIBRARY) and not filename.startswith(_PACKAGES)
    )


def of_frame(frame: FrameType) -> Location:
    """The location of a frame."""
    code = frame.f_code
    return _location(code.co_filename, frame.f_lineno, getattr(code, "co_qualname", code.co_name))


def of_traceback(traceback: TracebackType | None) -> Location | None:
    """The innermost line of the project in a traceback."""
    found = None
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if not in_library(code.co_filename):
            name = getattr(code, "co_qualname", code.co_name)
            found = _location(code.co_filename, traceback.tb_lineno, name)
        traceback = traceback.tb_next
    return found


@cache  # a loop sends from one line, and every record keeps its location
def _location(path: str, line: int, function: str) -> Location:
    return Location(path=path, line=line, function=function)


def of_caller(frame: FrameType | None = None, *, until: CodeType | None = None) -> Location | None:
    """The first frame outside Celery, kombu, Django and this plugin.

    ``frame`` is where to begin, instead of the caller's. ``until`` names a code object to stop at:
    ``None`` is returned when no project frame is nearer than that one.
    """
    frame = frame or sys._getframe(1)
    while frame is not None:
        if frame.f_code is until:
            return None
        if not is_between(frame):
            return of_frame(frame)
        frame = frame.f_back
    return None


def is_between(frame: FrameType) -> bool:
    """Whether a frame stands between the project's line and what that line makes happen."""
    return in_library(frame.f_code.co_filename) or _passes_on(frame)


def _passes_on(frame: FrameType) -> bool:
    """Whether a frame publishes what another has asked for.

    A task class of the project's own overrides `Task.apply_async`, or a library wraps it, as Sentry
    does: all messages would be of that one line. It is called by Celery's own ``delay``, or by that
    name with a task; what it defines to be called later counts, too (since Python 3.11).
    """
    caller = frame.f_back
    if caller is not None and caller.f_code.co_name in PUBLISHES and _is_celerys(caller):
        return True
    *outer, _ = getattr(frame.f_code, "co_qualname", "").split(".<locals>.")
    if any("." in each and each.rpartition(".")[2] in PUBLISHES for each in outer):
        return True
    return frame.f_code.co_name in PUBLISHES and hasattr(type(first_argument(frame)), "apply_async")


def _is_celerys(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).startswith("celery.")


def first_argument(frame: FrameType) -> Any:
    """What a function was called with, or the object whose method it is."""
    code = frame.f_code
    if not code.co_varnames:
        return None
    value = frame.f_locals.get(code.co_varnames[0])
    if code.co_argcount == 0 and type(value) is tuple:  # ``*args``
        return value[0] if value else None
    return value


def of_hook(runner: FrameType) -> Location | None:
    """The project's line in a hook that ``runner`` runs, else that which has registered the hook.

    The runner, and what lies in one file with it, are the test's, and none of these.
    """
    above: list[FrameType] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame is not runner.f_back:
        if not is_between(frame):
            above.append(frame)
        frame = frame.f_back
    for each in above:
        if each.f_code.co_filename != above[-1].f_code.co_filename:
            return of_frame(each)
    return None if frame is None else of_caller(frame)


def publishing_frame() -> FrameType | None:
    """The frame in which eager mode has called `Task.apply`; ``None`` for a test's own call.

    Celery has no mark for it, but it tells who has called: what publishes without eager mode, of a
    task or a canvas, with no other task that runs between. What a project's own task class does
    on the way, overriding ``apply`` or decorating it, is passed over. Private names, checked on
    Celery 5.4 to 5.7.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if _is_celerys(frame):
            name = frame.f_code.co_name
            if name in ("apply_async", "on_replace", "_call_task_errbacks"):
                return frame
            if name == "trace_task":
                return None
        frame = frame.f_back
    return None


def passes_by(frame: FrameType, task: Any) -> bool:
    """Whether eager mode passes by a task's own ``apply_async``, which may wait for the commit.

    That is what it does with the tasks of a workflow; a broker would get them by that method.

    Args:
        frame: of `publishing_frame`.
        task: that runs.
    """
    from celery.app.task import Task

    own = type(task).apply_async is not Task.apply_async
    return own and frame.f_globals["__name__"] == "celery.canvas"
