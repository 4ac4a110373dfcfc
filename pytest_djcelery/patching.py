"""Replaces attributes of other packages within a ``with``, and registers which and why."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import update_wrapper
from types import FunctionType
from typing import Any, Final, TypeVar

_INHERITED: Final = object()
_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """An attribute of another package that is replaced while a test, or a run, needs it.

    ``target`` is written as ``celery.app.task:Task.apply``; ``owner`` is the function that replaces
    it, in the same form.
    """

    target: str
    owner: str
    why: str
    checked_on: str


#: All patches, by target: modules add theirs as they are imported.
PATCHES: dict[str, Patch] = {}


def patches(*targets: str, why: str, checked_on: str) -> Callable[[_F], _F]:
    """Register the attributes that a function replaces. Each of them has one owner.

    Args:
        *targets: The attributes, such as ``celery.app.task:Task.apply``.
        why: Why no public extension point would do.
        checked_on: The versions on which the attributes were looked up.

    Raises:
        ValueError: Another function already replaces one of them.
    """

    def registered(function: _F) -> _F:
        owner = f"{function.__module__}:{function.__qualname__}"
        for target in targets:
            patch = Patch(target=target, owner=owner, why=why, checked_on=checked_on)
            if PATCHES.setdefault(target, patch) != patch:
                message = f"{target} is replaced by {PATCHES[target].owner} already, not by {owner}"
                raise ValueError(message)
        return function

    return registered


@contextmanager
def replaced(owner: Any, **attributes: Any) -> Iterator[None]:
    """Set ``attributes`` on ``owner``, and put back exactly what was there, after an error too.

    A function gets the name, the docstring and the signature of the one that it replaces, for
    `inspect` and for mocks with ``autospec``.
    """
    before = {name: vars(owner).get(name, _INHERITED) for name in attributes}
    for name, value in attributes.items():
        if isinstance(value, FunctionType) and callable(original := getattr(owner, name, None)):
            update_wrapper(value, original)
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is _INHERITED:
                delattr(owner, name)
            else:
                setattr(owner, name, value)


class SharedChange:
    """A change to the process with several users: the first makes it, the last undoes it."""

    def __init__(self) -> None:
        self._changing = threading.RLock()
        self._users = 0
        self._change = ExitStack()

    @contextmanager
    def used(self, change: AbstractContextManager[None]) -> Iterator[None]:
        with self._changing:
            if not self._users:
                self._change.enter_context(change)
            self._users += 1
        try:
            yield
        finally:
            with self._changing:
                self._users -= 1
                if not self._users:
                    self._change.close()
