"""``celery_on_commit``: the on_commit hooks of a test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_djcelery.errors import DjangoNotConfiguredError, django_is_configured
from pytest_djcelery.messages.events import (
    Event,
    HookDiscarded,
    HookFinished,
    HookRegistered,
    HookStarted,
    Published,
)
from pytest_djcelery.messages.task_message import Items
from pytest_djcelery.session.opening import entered, entered_sandbox

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager

    from pytest_djcelery.locations import Location, MaybeNone
    from pytest_djcelery.messages.journal import Journal
    from pytest_djcelery.messages.sent_task import SentTask
    from pytest_djcelery.transactions.watch import TransactionWatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """A function that was passed to ``transaction.on_commit``, and what became of it.

    ``location`` is the line that registered it, ``using`` the alias of the database, ``robust`` the
    argument of ``on_commit``, ``function`` the name of the function. ``sent`` are the messages
    that it published. ``error`` is what it raised if it ran, and ``reason`` says why it was
    discarded if it was.
    """

    location: Location | MaybeNone
    using: str
    robust: bool
    function: str
    # A hook stays equal to itself, whatever happens to it.
    sent: tuple[SentTask, ...] = field(default=Items(), compare=False)
    error: BaseException | None = field(default=None, compare=False)
    reason: str | None = field(default=None, compare=False)


class OnCommit:
    """The on_commit hooks of a test, to check what waits for a commit and what a rollback drops.

    The fixture ``celery_on_commit`` and the context manager `on_commit` give one. Each hook is in
    one of the lists ``pending``, ``ran`` and ``discarded``, which are up to date whenever they are
    read. ``with celery_on_commit.hold():`` keeps hooks back.

    Hooks run when production would run them, also in a test that is rolled back: when the code's
    own outermost ``atomic()`` block exits, or at once where there is none.
    """

    def __init__(self, journal: Journal, watch: TransactionWatch, since: int = 0) -> None:
        self._journal = journal
        self._watch = watch
        self._since = since

    @property
    def pending(self) -> list[Hook]:
        """The hooks whose transaction is open or that ``hold()`` keeps back, oldest first."""
        return self._read()[0]

    @property
    def ran(self) -> list[Hook]:
        """The hooks that ran, in the order in which they began; a running one is the last."""
        return self._read()[1]

    @property
    def discarded(self) -> list[Hook]:
        """The hooks that will never run, in the order in which they were discarded."""
        return self._read()[2]

    def hold(self) -> AbstractContextManager[None]:
        """Keep the hooks of committed transactions back until the ``with`` ends.

        They then run in order, in the thread that ends it. If several are nested, the outermost
        one releases the hooks. If a hook raises, the remaining hooks of its transaction are
        discarded, as in Django; those of other transactions run before the error is raised.
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


@entered
def on_commit(*, whole_test: bool = False) -> Iterator[OnCommit]:
    """Look at the on_commit hooks of a part of a test; see `OnCommit`.

    It shows the hooks registered within the ``with``, which run when production would run them.

    Args:
        whole_test: Whether it also shows those that the test registered earlier.

    Raises:
        AppNotFoundError: The project has no app.
        DjangoNotConfiguredError: This is no Django project.
    """
    __tracebackhide__ = True
    if not django_is_configured():
        raise DjangoNotConfiguredError(
            "celery_on_commit shows the hooks of Django's transactions, and Django is not "
            "configured in this run.\n"
            "In a Django project, name its settings in pytest's configuration: "
            "DJANGO_SETTINGS_MODULE = proj.settings. Without Django leave this fixture out: to "
            "see what another library's transaction sends, and when, compare celery_outbox before "
            "and after its commit."
        )
    with entered_sandbox() as sandbox:
        yield OnCommit(
            sandbox.journal,
            sandbox.watch,
            since=sandbox.began if whole_test else len(sandbox.journal),
        )
