"""What ``celery_on_commit`` is in a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_djcelery.messages.journal import (
    Event,
    HookDiscarded,
    HookFinished,
    HookRegistered,
    HookStarted,
    Published,
)
from pytest_djcelery.messages.task_message import Items
from pytest_djcelery.session.opening import entered_sandbox

if TYPE_CHECKING:
    from collections.abc import Iterable
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
    # A hook stays equal to itself, whatever becomes of it.
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
        """Hooks that ran, in the order in which they began; one that is running is the last."""
        return self._read()[1]

    @property
    def discarded(self) -> list[Hook]:
        """Hooks that will never run, in the order in which that was decided."""
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


@contextmanager
def on_commit(*, whole_test: bool = False) -> Iterator[OnCommit]:
    """The on_commit hooks registered in the block; they run when production would run them.

    Args:
        whole_test: show those that the test registered before the block, too.
    """
    with entered_sandbox() as sandbox:
        yield OnCommit(
            sandbox.journal,
            sandbox.watch,
            since=sandbox.began if whole_test else len(sandbox.journal),
        )
