"""On_commit hooks: who owns them, and how they run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from types import CellType, FunctionType, MethodType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from pytest_djcelery import locations
from pytest_djcelery.transactions.openers import task_of
from pytest_djcelery.transactions.stand_in import call_of, stand_in_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pytest_djcelery.locations import Location
    from pytest_djcelery.messages.django_tasks import Enqueueing


@dataclass(slots=True, kw_only=True, eq=False)
class WatchedHook:
    """A hook that is followed: Django is given a stand-in, which reports when it is called.

    The stand-in passes for the function, so that neither what Django logs (its ``__qualname__``,
    which a partial doesn't have) nor what a test finds in the list of
    ``captureOnCommitCallbacks`` changes.
    """

    function: Callable[..., object]
    id: int
    location: Location | None
    robust: bool
    transaction: int  # hooks with the same number were registered in the same one
    run: Callable[[WatchedHook, Callable[[], object]], object]
    captured: bool = False  # by ``captureOnCommitCallbacks``: only Django may run it
    started: bool = False
    enqueueing: Enqueueing | None = None  # the call of a Django task's ``enqueue()`` that set it

    def __call__(self, *args: Any, **kwargs: Any) -> object:
        __tracebackhide__ = True
        return self.run(self, partial(self.function, *args, **kwargs))

    @property
    def stand_in(self) -> Any:
        """What Django is given in place of the function."""
        return stand_in_for(self.function, self)


def hook_of(function: object) -> WatchedHook | None:
    """The hook that a function in Django's list stands for."""
    hook = call_of(function)
    return hook if isinstance(hook, WatchedHook) else None


def run_as_committed(hooks: Iterable[WatchedHook]) -> None:
    """Run hooks as Django does after a commit, through Django's own code: same order, same log.

    ``BaseDatabaseWrapper.run_and_clear_commit_hooks`` uses no more of its connection than what
    the substitute here provides. Checked on Django 4.2, 5.2, 6.0 and 6.1.
    """
    __tracebackhide__ = True
    from django.db.backends.base.base import BaseDatabaseWrapper

    committed: Any = SimpleNamespace(
        validate_no_atomic_block=lambda: None,
        run_on_commit=[(set(), hook.stand_in, hook.robust) for hook in hooks],
    )
    BaseDatabaseWrapper.run_and_clear_commit_hooks(committed)


def run_in_autocommit(hook: WatchedHook, on_commit: Callable[..., None]) -> None:
    """Run a hook as Django does where no transaction is open, through its own ``on_commit``.

    Checked on Django 4.2, 5.2, 6.0 and 6.1.
    """
    __tracebackhide__ = True
    connection = SimpleNamespace(in_atomic_block=False, get_autocommit=lambda: True)
    on_commit(connection, hook.stand_in, hook.robust)


def owning_package(function: Any) -> str | None:
    """The installed package that a hook belongs to, which the project can't change.

    That is where the function is the package's own and calls no function of the project. A package
    may wrap a project's function in one of its own: its closure or its partial then holds it.
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
    return None if any(map(_is_of_project, held)) else locations.installed_package(path)


def _is_of_project(value: Any) -> bool:
    """Whether a value is a function of the project, or would send a task."""
    if type(value) is MethodType:
        if task_of(value) is not None:
            return True
        value = value.__func__
    path = _path_of(value)
    return path is not None and locations.is_of_project(path)


def _path_of(function: Any) -> str | None:
    # By its type: asking a lazy object for its class would evaluate it.
    return function.__code__.co_filename if type(function) is FunctionType else None


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is still empty
        return None
