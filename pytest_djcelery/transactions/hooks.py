"""On_commit hooks: whose they are, how they run, and those that Django's own capture keeps."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, update_wrapper
from types import CellType, FunctionType, MethodType, SimpleNamespace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from pytest_djcelery import locations
from pytest_djcelery.patching import patches, replaced
from pytest_djcelery.transactions.openers import task_of
from pytest_djcelery.transactions.stand_in import call_of, transparent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from django.db.backends.base.base import BaseDatabaseWrapper

    from pytest_djcelery.locations import Location


class Captures:
    """Knows the connections on which a block of ``captureOnCommitCallbacks`` is open.

    The block takes the hooks out of ``connection.run_on_commit`` when it ends, by their places in
    that list: until then they have to stay there.
    """

    def __init__(self) -> None:
        self._open: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        self._noted = False

    def open_on(self, connection: BaseDatabaseWrapper) -> bool:
        """Whether hooks of a connection are being captured."""
        return bool(self._open) and underlying(connection) in self._open

    @patches(
        "django.test.testcases:TestCase.captureOnCommitCallbacks",
        why="Hooks inside such a block are Django's to keep, list and execute.",
        checked_on="Django 4.2, 5.2, 6.0 and 6.1",
    )
    @contextmanager
    def blocks_noted(self) -> Iterator[None]:
        """Note each such block that is opened from now on, in this process."""
        if self._noted:
            yield
            return
        from django.test.testcases import TestCase

        capture = vars(TestCase)["captureOnCommitCallbacks"]
        self._noted = True
        try:
            with replaced(TestCase, captureOnCommitCallbacks=self._of(capture)):
                yield
        finally:
            self._noted = False

    def _of(self, capture: Any) -> Any:
        """What stands in for the class method, which is public in Django."""

        @contextmanager
        def noting(cls: type, *, using: str = "default", **options: Any) -> Iterator[Any]:
            __tracebackhide__ = True
            with self._opened(using), capture.__get__(None, cls)(using=using, **options) as hooks:
                yield hooks

        method: Any = update_wrapper(noting, capture.__func__)
        return classmethod(method)

    @contextmanager
    def _opened(self, using: str) -> Iterator[None]:
        from django.db import connections

        connection = underlying(connections[using])
        self._open[connection] = self._open.get(connection, 0) + 1
        try:
            yield
        finally:
            self._open[connection] -= 1
            if not self._open[connection]:
                del self._open[connection]


def underlying(connection: BaseDatabaseWrapper) -> Any:
    """The connection that a proxy in ``connections`` stands for: its methods are bound to it."""
    return getattr(connection.validate_thread_sharing, "__self__", connection)


@dataclass(slots=True, kw_only=True, eq=False)
class WatchedHook:
    """A hook that is followed: Django has a stand-in that tells the watch when it is called.

    So that what Django logs (``__qualname__``, which a partial has not) and what a test finds in
    the list of ``captureOnCommitCallbacks`` is the same, that is transparent.
    """

    function: Callable[..., object]
    id: int
    location: Location | None
    robust: bool
    transaction: int  # hooks with the same number were registered in one
    run: Callable[[WatchedHook, Callable[[], object]], object]
    captured: bool = False  # by ``captureOnCommitCallbacks``: Django runs it, or nobody
    started: bool = False

    def __call__(self, *args: Any, **kwargs: Any) -> object:
        __tracebackhide__ = True
        return self.run(self, partial(self.function, *args, **kwargs))

    @property
    def stand_in(self) -> Any:
        """What Django is given in place of the function."""
        return transparent(self.function, self)


def hook_of(function: object) -> WatchedHook | None:
    """The hook that a function in Django's list stands for."""
    hook = call_of(function)
    return hook if isinstance(hook, WatchedHook) else None


def run_as_committed(hooks: Iterable[WatchedHook]) -> None:
    """Run hooks as Django does after a commit, by Django's own code: its order, its log.

    ``BaseDatabaseWrapper.run_and_clear_commit_hooks`` asks of its connection no more than what
    stands in for it here. Checked on Django 4.2, 5.2, 6.0 and 6.1.
    """
    __tracebackhide__ = True
    from django.db.backends.base.base import BaseDatabaseWrapper

    committed: Any = SimpleNamespace(
        validate_no_atomic_block=lambda: None,
        run_on_commit=[(set(), hook.stand_in, hook.robust) for hook in hooks],
    )
    BaseDatabaseWrapper.run_and_clear_commit_hooks(committed)


def run_in_autocommit(hook: WatchedHook, on_commit: Callable[..., None]) -> None:
    """Run a hook as Django does where no transaction is open, by Django's own ``on_commit``.

    Checked on Django 4.2, 5.2, 6.0 and 6.1.
    """
    __tracebackhide__ = True
    connection = SimpleNamespace(in_atomic_block=False, get_autocommit=lambda: True)
    on_commit(connection, hook.stand_in, hook.robust)


def owning_package(function: Any) -> str | None:
    """The installed package whose own business a hook is: the project can't change it.

    The function is the package's own, and calls none of the project's.
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
