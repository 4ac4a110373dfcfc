"""The on_commit hooks: how one runs under the watch, and the view of what became of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pytest_djcelery.messages.journal import (
    Event,
    HookDiscarded,
    HookFinished,
    HookRegistered,
    HookStarted,
    Published,
)
from pytest_djcelery.messages.sent_task import Items
from pytest_djcelery.transactions.stand_in import call_of, transparent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

    from pytest_djcelery.locations import Location
    from pytest_djcelery.messages.journal import Journal
    from pytest_djcelery.messages.sent_task import SentTask
    from pytest_djcelery.transactions.watch import TransactionWatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """A function that ``transaction.on_commit`` was given.

    ``error`` is what it raised, where it ran; ``reason`` says why, where it was discarded.
    """

    location: Location | None
    using: str
    robust: bool
    function: str
    # What becomes of a hook does not make it another one.
    sent: tuple[SentTask, ...] = field(default=Items(), compare=False)
    error: BaseException | None = field(default=None, compare=False)
    reason: str | None = field(default=None, compare=False)


class OnCommit:
    """The on_commit hooks of a test: those that wait, those that ran, those that never will.

    A view of the journal: each list is read afresh.
    """

    def __init__(self, journal: Journal, watch: TransactionWatch, since: int = 0) -> None:
        self._journal = journal
        self._watch = watch
        self._since = since

    @property
    def pending(self) -> list[Hook]:
        """Hooks whose transaction is open or that ``hold()`` keeps back, oldest first."""
        return self._read()[0]

    @property
    def ran(self) -> list[Hook]:
        """Hooks that ran, in the order they began; one that runs now is the last."""
        return self._read()[1]

    @property
    def discarded(self) -> list[Hook]:
        """Hooks that will never run, in the order that was decided."""
        return self._read()[2]

    def hold(self) -> AbstractContextManager[None]:
        """Keep the hooks of committed transactions back until the ``with`` ends.

        Then they run in order, in the thread that ends it. Where it is nested, the outermost
        releases them. A hook that raises loses the rest of its own transaction, as in Django;
        those of the others run before the error is raised.
        """
        return self._watch.hold()

    def __repr__(self) -> str:
        pending, ran, discarded = self._read()
        return f"<OnCommit pending={pending!r} ran={ran!r} discarded={discarded!r}>"

    def _read(self) -> tuple[list[Hook], list[Hook], list[Hook]]:
        self._watch.settle()
        registered: dict[int, HookRegistered] = {}
        started: dict[int, None] = {}
        reasons: dict[int, str] = {}
        errors: dict[int, BaseException | None] = {}
        sent: dict[int | None, list[SentTask]] = {}
        for event in self._journal.events(Event, self._since):
            if isinstance(event, HookRegistered):
                registered[event.hook] = event
            elif isinstance(event, HookStarted):
                started[event.hook] = None
            elif isinstance(event, HookFinished):
                errors[event.hook] = event.error
            elif isinstance(event, HookDiscarded):
                reasons[event.hook] = event.reason
            elif isinstance(event, Published):
                sent.setdefault(event.hook, []).append(event.message)

        def listed(hooks: Iterable[int]) -> list[Hook]:
            return [
                Hook(
                    location=event.location,
                    using=event.using,
                    robust=event.robust,
                    function=event.function,
                    sent=Items(sent.get(hook, ())),
                    error=errors.get(hook),
                    reason=reasons.get(hook),
                )
                for hook in hooks
                if (event := registered.get(hook)) is not None
            ]

        waiting = [hook for hook in registered if hook not in started and hook not in reasons]
        return listed(waiting), listed(started), listed(reasons)


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
