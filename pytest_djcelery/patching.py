"""Replaces attributes of other packages within a ``with``, and registers which and why."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import update_wrapper
from types import FunctionType
from typing import Any, Final, Generic, TypeVar

_INHERITED: Final = object()
_F = TypeVar("_F", bound=Callable[..., Any])
_T = TypeVar("_T")


class Current(Generic[_T]):
    """What a patch serves now. While that is nothing, the patch passes everything on."""

    __slots__ = ("now",)

    def __init__(self, now: _T | None = None) -> None:
        self.now = now


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
    standing = StandingChanges.being_made
    if standing is not None:
        standing.note(owner, attributes)
    try:
        yield
    finally:
        for name, value in before.items():
            if standing is not None and standing.is_covered(owner, name, attributes[name], value):
                continue
            _put(owner, name, value)


def _put(owner: Any, name: str, value: Any) -> None:
    if value is _INHERITED:
        delattr(owner, name)
    else:
        setattr(owner, name, value)


class StandingChanges:
    """Changes to the process that stay from test to test, as long as nothing else touches them.

    They are context managers, entered once, within `made`.
    """

    #: Those that are being made now, which notes what is replaced.
    being_made: StandingChanges | None = None
    # Replaced attributes under something that others have put there since: owner, name, what
    # replaced it, and what was there before.
    _covered: Final[list[tuple[Any, str, Any, Any]]] = []

    def __init__(self) -> None:
        self._stack = ExitStack()
        # By owner and name: the outermost of ours, and where it is.
        self._attributes: dict[tuple[int, str], tuple[Any, Any]] = {}
        self._checks: list[Callable[[], bool]] = []

    @contextmanager
    def made(self) -> Iterator[ExitStack]:
        """Enter the context managers into what this yields."""
        self.uncover()
        before, StandingChanges.being_made = StandingChanges.being_made, self
        try:
            with ExitStack() as stack:
                yield stack
                self._stack = stack.pop_all()
        finally:
            StandingChanges.being_made = before

    def note(self, owner: Any, attributes: dict[str, Any]) -> None:
        """Note that attributes were replaced."""
        names = vars(owner)
        for name, value in attributes.items():
            self._attributes[id(owner), name] = names, value

    @property
    def intact(self) -> bool:
        """Whether making them anew would change nothing."""
        try:
            for (_, name), (names, value) in self._attributes.items():
                if names[name] is not value:
                    return False
        except KeyError:
            return False
        return all(check() for check in self._checks)

    def is_covered(self, owner: Any, name: str, ours: Any, before: Any) -> bool:
        """Whether an attribute can't be put back, since something else was put on top.

        A mock of a class's or module's fixture, for example, would then put ours back for good.
        """
        if vars(owner).get(name) is ours:
            return False
        self._covered.append((owner, name, ours, before))
        return True

    @classmethod
    def uncover(cls) -> None:
        """Put back what is no longer covered."""
        for entry in list(cls._covered):
            owner, name, ours, before = entry
            if vars(owner).get(name) is ours:
                _put(owner, name, before)
                cls._covered.remove(entry)

    def undo(self) -> None:
        """Put back what was found, in reverse order."""
        self._stack.close()
        self.uncover()


def last_receivers(signals: Iterable[Any]) -> Callable[[], bool]:
    """Whether these signals have got no other receivers since: they would come before new ones."""
    ends = [(signal, signal.receivers[-1]) for signal in signals]
    return lambda: all(
        bool(signal.receivers) and signal.receivers[-1] is last for signal, last in ends
    )


def standing_while(intact: Callable[[], bool]) -> None:
    """Say when a change that is being made is still as it was made, if it is one that stays."""
    if StandingChanges.being_made is not None:
        StandingChanges.being_made._checks.append(intact)


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
