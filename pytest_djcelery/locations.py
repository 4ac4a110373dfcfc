"""Where in the project's own code something happened."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from types import CodeType, FrameType

_LIBRARIES = ("celery", "kombu", "vine", "billiard", "django", "asgiref", "pytest_djcelery")


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
    stdlib = os.path.dirname(os.__file__)
    # ``ContextDecorator`` and friends stand between Django and the code it calls.
    folders += [os.path.join(stdlib, name) for name in ("contextlib.py", "functools.py")]
    return tuple(folders)


@cache
def in_library(filename: str) -> bool:
    """Whether a code object's file belongs to Celery, kombu, Django or this plugin."""
    return filename.startswith(_library_folders())


def of_frame(frame: FrameType) -> Location:
    """The location of a frame."""
    code = frame.f_code
    return _location(code.co_filename, frame.f_lineno, getattr(code, "co_qualname", code.co_name))


@cache  # a loop sends from one line, and every record keeps its location
def _location(path: str, line: int, function: str) -> Location:
    return Location(path=path, line=line, function=function)


def of_caller(*, until: CodeType | None = None) -> Location | None:
    """The first frame outside Celery, kombu, Django and this plugin.

    ``until`` names a code object to stop at: ``None`` is returned when no project frame is
    nearer than that one.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is until:
            return None
        if not in_library(frame.f_code.co_filename):
            return of_frame(frame)
        frame = frame.f_back
    return None
