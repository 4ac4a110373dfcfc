"""On_commit hooks that are an installed package's own business: the project can't change them."""

from __future__ import annotations

from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any

from pytest_djcelery import locations
from pytest_djcelery.transactions.openers import task_of


def owning_package(function: Any) -> str | None:
    """The installed package whose own function a hook is, and which calls none of the project's.

    A package may put a function of the project's into one of its own: it holds it then.
    """
    held: list[Any] = []
    while isinstance(function, partial) or hasattr(function, "__wrapped__"):
        if isinstance(function, partial):
            held += [*function.args, *function.keywords.values()]
            function = function.func
        else:
            function = function.__wrapped__
    function = getattr(function, "__func__", function)
    path = _path_of(function)
    if path is None or locations.in_library(path):
        return None
    held += [_content(cell) for cell in getattr(function, "__closure__", None) or ()]
    return None if any(map(_is_the_projects, held)) else locations.installed_package(path)


def _is_the_projects(value: Any) -> bool:
    """Whether a value is a function of the project's, or would send a task."""
    if type(value) is MethodType:
        if task_of(value) is not None:
            return True
        value = value.__func__
    path = _path_of(value)
    return path is not None and locations.is_of_project(path)


def _path_of(function: Any) -> str | None:
    # By its type: to ask a lazy object for its class would have it made.
    return function.__code__.co_filename if type(function) is FunctionType else None


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # nothing is in it yet
        return None
