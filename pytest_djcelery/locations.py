"""Finds out where in the project's own code something happened."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import PurePath
from types import CodeType, FrameType, TracebackType
from typing import Any, TypeAlias

_LIBRARIES = (
    "celery", "kombu", "vine", "billiard", "amqp", "redis", "django", "asgiref", "mock",
    "pytest_mock", "pytest_djcelery",
)  # fmt: skip

# Installed packages, in any environment, and the name by which each is imported.
_INSTALLED = re.compile(r".*[/\\](?:site|dist)-packages[/\\](?P<name>[^/\\.]+)", re.DOTALL)
#: The methods of tasks and of signatures that publish.
PUBLISHES = frozenset({"delay", "apply_async", "delay_on_commit", "apply_async_on_commit"})


#: What may be ``None``, though seldom where a test asks: a checker lets it use the value at once.
MaybeNone: TypeAlias = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """A line of the project's code: where a message was sent or a hook registered.

    ``str()`` of it reads ``shop/views.py:12 in checkout``.
    """

    path: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{relative(self.path)}:{self.line} in {self.function}"


def relative(path: str) -> str:
    """Make ``path`` relative to the working folder if it lies inside it."""
    try:
        short = os.path.relpath(path)
    except ValueError:  # another drive, on Windows
        return path
    return path if short.startswith("..") else short


def from_root(path: str, root: str) -> str:
    """A path relative to the root of a project, with slashes.

    The path of an installed package's file starts at its site-packages, so that it is the same on
    every machine.
    """
    installed = _INSTALLED.match(path)
    if installed is not None:
        return f"site-packages/{path[installed.start('name') :]}".replace(os.sep, "/")
    try:
        return os.path.relpath(path, root).replace(os.sep, "/")
    except ValueError:  # another drive, on Windows
        return path


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


# Its modules may come between a library and the code that it calls: ``contextlib``, ``threading``.
_STANDARD_LIBRARY = os.path.join(os.path.dirname(os.__file__), "")
_WORKING_FOLDER = os.getcwd()


@cache
def in_library(filename: str) -> bool:
    """Whether code is of Python, Celery, kombu, Django or this plugin, or has no file."""
    # Code without a file is made at run time: `unittest.mock` makes functions by a signature.
    # ``<frozen …>`` is Python's own.
    return filename.startswith(("<string>", "<frozen ", *_library_folders())) or (
        filename.startswith(_STANDARD_LIBRARY) and not _INSTALLED.match(filename)
    )


@cache
def installed_package(filename: str) -> str | None:
    """The name of the installed package that a file belongs to; ``None`` if it is the project's.

    A project that is itself installed, as by tox, is recognized by its settings, or by its sources
    in the working folder.
    """
    found = _INSTALLED.match(filename)
    if found is None:
        return None
    name = found["name"]
    if os.environ.get("DJANGO_SETTINGS_MODULE", "").partition(".")[0] == name:
        return None
    sources = ((name,), ("src", name))
    if any(
        os.path.isfile(os.path.join(_WORKING_FOLDER, *source, "__init__.py")) for source in sources
    ):
        return None
    return name


def is_of_project(filename: str) -> bool:
    """Whether a file is neither a library's nor an installed package's."""
    return not in_library(filename) and installed_package(filename) is None


_SUITE: set[str] = set()  # files in which pytest has found tests


def note_suite_file(path: str) -> None:
    """Note that a file has tests, whatever its name."""
    _SUITE.add(path)


def in_suite(path: str) -> bool:
    """Whether a file belongs to the tests rather than to the code under test."""
    return path in _SUITE or _named_as_tests(path)


@cache
def _named_as_tests(path: str) -> bool:
    *folders, name = PurePath(below_packages(path) or relative(path)).parts
    return not {"tests", "test"}.isdisjoint(folders) or any(
        fnmatch(name, pattern) for pattern in ("conftest.py", "tests.py", "test_*.py", "*_test.py")
    )


def below_packages(path: str) -> str | None:
    """The path of a library's file below the folder of packages, which may lie in any folder.

    ``None`` for a file of the project.
    """
    installed = _INSTALLED.match(path)
    if installed is not None:
        return path[installed.start("name") :]
    for folder in (*_library_folders(), _STANDARD_LIBRARY):
        if path.startswith(folder):
            return path[len(folder) :]
    return None


# Packages between a test and its caller, which raise again what they catch.
_RUNNERS = frozenset(
    {
        "_pytest", "asyncio", "concurrent", "contextlib", "functools", "hypothesis", "pluggy",
        "threading", "unittest",
    }
)  # fmt: skip


def in_runner(frame: FrameType) -> bool:
    """Whether a frame belongs to what runs the tests, rather than to code under test."""
    name = str(frame.f_globals.get("__name__"))
    return name.partition(".")[0] in _RUNNERS


def tests_running() -> frozenset[CodeType]:
    """The tests and fixtures that are on the stack, without the helper functions they call."""
    frames: list[FrameType] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    found: set[CodeType] = set()
    from_suite = False
    for frame in reversed(frames):
        in_it = in_suite(frame.f_code.co_filename)
        if in_it and not from_suite:
            found.add(frame.f_code)
        elif found and not in_it and not in_runner(frame):
            break  # the code under test, which may call a function of the test
        from_suite = in_it
    return frozenset(found)


def of_frame(frame: FrameType) -> Location:
    """The location of a frame."""
    code = frame.f_code
    return _location(code.co_filename, frame.f_lineno, getattr(code, "co_qualname", code.co_name))


def of_traceback(traceback: TracebackType | None) -> Location | None:
    """The project's innermost line in a traceback, or that of an installed package."""
    found, in_project = None, False
    while traceback is not None:
        code = traceback.tb_frame.f_code
        of_project = is_of_project(code.co_filename)
        if of_project or not (in_project or in_library(code.co_filename)):
            name = getattr(code, "co_qualname", code.co_name)
            found = _location(code.co_filename, traceback.tb_lineno, name)
            in_project = of_project
        traceback = traceback.tb_next
    return found


@cache  # a loop sends many times from one line, and every record keeps its location
def _location(path: str, line: int, function: str) -> Location:
    return Location(path=path, line=line, function=function)


def of_caller(frame: FrameType | None = None, *, until: CodeType | None = None) -> Location | None:
    """The project's nearest line, or an installed package's if none is the project's.

    Args:
        frame: Where to begin, instead of the caller's frame.
        until: A code object to stop at: ``None`` is returned if no frame of the project is nearer.
    """
    found = frame_of_project(frame or sys._getframe(1), is_between, until=until)
    return None if found is None else of_frame(found)


def of_test(nearest: Location | None) -> Location | None:
    """The nearest line of the tests that led to this call; ``None`` inside a task.

    Args:
        nearest: The project's nearest line, which may be a line of the tests.
    """
    if nearest is not None and in_suite(nearest.path):
        return nearest
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not _begins(frame):
        path = frame.f_code.co_filename
        if not in_library(path) and in_suite(path):
            return of_frame(frame)
        frame = frame.f_back
    return None


def frame_of_project(
    frame: FrameType | None,
    between: Callable[[FrameType], bool],
    *,
    until: CodeType | None = None,
) -> FrameType | None:
    """The project's nearest frame, or an installed package's if none is the project's.

    The search stops at a task: what runs in it was not caused by the line that had it delivered.

    Args:
        frame: Where to begin.
        between: Whether a frame is skipped, as those of libraries are.
        until: A code object to stop at: ``None`` is returned if no frame of the project is nearer.
    """
    installed: FrameType | None = None
    while frame is not None and not (installed and _begins(frame)):
        code = frame.f_code
        if code is until:
            return None
        # A message is sent from below a dozen library frames, for which this check is enough.
        if not in_library(code.co_filename) and not between(frame):
            if installed_package(code.co_filename) is None:
                return frame
            installed = installed or frame
        frame = frame.f_back
    return installed


def _begins(frame: FrameType) -> bool:
    """Whether a frame starts something that its callers did not cause: a task or a test."""
    name = str(frame.f_globals.get("__name__"))
    if name == "celery.app.trace":
        return frame.f_code.co_name == "trace_task"
    return name.startswith(("_pytest.", "pluggy.")) or name in ("unittest.case", "unittest.suite")


def of_library(frame: FrameType) -> bool:
    """Whether a frame is of Python, Celery, kombu, Django or this plugin."""
    return in_library(frame.f_code.co_filename)


def is_between(frame: FrameType) -> bool:
    """Whether a frame is between the project's line and what that line makes happen."""
    return of_library(frame) or _publishes_for_caller(frame)


def _publishes_for_caller(frame: FrameType) -> bool:
    """Whether a frame publishes on behalf of another.

    If the project's own task class overrides `Task.apply_async`, or a library such as Sentry wraps
    it, all messages would seem to be sent from that one line. Such a method is called by Celery's
    own ``delay``, or has that name and a task as its argument; functions that it defines, to be
    called later, count too (since Python 3.11).
    """
    caller = frame.f_back
    if caller is not None and caller.f_code.co_name in PUBLISHES and _is_celerys(caller):
        return True
    name = getattr(frame.f_code, "co_qualname", "")
    if ".<locals>." in name:
        *outer, _ = name.split(".<locals>.")
        if any("." in function and function.rpartition(".")[2] in PUBLISHES for function in outer):
            return True
    return frame.f_code.co_name in PUBLISHES and hasattr(type(first_argument(frame)), "apply_async")


def _is_celerys(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).startswith("celery.")


def first_argument(frame: FrameType) -> Any:
    """The first argument of a function, which for a method is its object."""
    code = frame.f_code
    if not code.co_varnames:
        return None
    value = frame.f_locals.get(code.co_varnames[0])
    if code.co_argcount == 0 and type(value) is tuple:  # ``*args``
        return value[0] if value else None
    return value


def of_hook(runner: FrameType) -> Location | None:
    """The project's line in a hook that ``runner`` runs, or else the one that registered the hook.

    The runner and its file belong to the test, and don't count.
    """
    above: list[FrameType] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame is not runner.f_back:
        if not is_between(frame):
            above.append(frame)
        frame = frame.f_back
    others = [frame for frame in above if frame.f_code.co_filename != above[-1].f_code.co_filename]
    if others:
        return of_frame(min(others, key=lambda frame: not is_of_project(frame.f_code.co_filename)))
    return None if frame is None else of_caller(frame)


def publishing_frame() -> FrameType | None:
    """The frame in which eager mode has called `Task.apply`; ``None`` if the test itself did so.

    Celery does not mark such a call, but the stack shows it: a method of a task or a canvas that
    would publish without eager mode, with no other running task in between. Frames of a project's
    own task class that overrides or decorates ``apply`` are skipped. Private names, checked on
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


def skips_own_apply_async(frame: FrameType, task: Any) -> bool:
    """Whether eager mode skips a task's own ``apply_async``, which may wait for the commit.

    It does so with the tasks of a workflow; without eager mode, that method would publish them.

    Args:
        frame: The frame that `publishing_frame` has found.
        task: The task that runs.
    """
    from celery.app.task import Task

    own = type(task).apply_async is not Task.apply_async
    return own and frame.f_globals["__name__"] == "celery.canvas"
