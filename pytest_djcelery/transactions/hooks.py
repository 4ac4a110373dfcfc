"""An on_commit hook that is followed, and how hooks run by Django's own code."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pytest_djcelery.transactions.stand_in import call_of, transparent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pytest_djcelery.locations import Location


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
