"""Runs on_commit hooks when production would, and records in the journal what becomes of them."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager, nullcontext
from itertools import groupby
from typing import TYPE_CHECKING, Any

from pytest_djcelery import locations
from pytest_djcelery.messages.django_tasks import enqueued_by, enqueueing
from pytest_djcelery.messages.events import HookDiscarded, HookFinished, HookRegistered, HookStarted
from pytest_djcelery.transactions.blocks import Running, serials
from pytest_djcelery.transactions.connections import opened_connections
from pytest_djcelery.transactions.hooks import (
    WatchedHook,
    hook_of,
    owning_package,
    run_as_committed,
    run_in_autocommit,
)
from pytest_djcelery.transactions.openers import function_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from types import FrameType

    from django.db.backends.base.base import BaseDatabaseWrapper

    from pytest_djcelery.messages.journal import Journal
    from pytest_djcelery.transactions.blocks import Block, OpenBlocks, WatchedConnection
    from pytest_djcelery.transactions.captures import Captures

# Why a hook was discarded.
HOOK_RAISED = "an earlier hook of the same transaction raised"
ROLLED_BACK = "the transaction was rolled back"
SAVEPOINT = "a savepoint was rolled back"
LOST = "its savepoint or transaction was rolled back, or the connection was closed"


class HookRunner:
    """Wraps each hook given to ``on_commit``, and follows it until it has run or never will.

    Hooks that wait are kept with what is known of their connection.
    """

    on: bool  # while it is off, hooks run as if they had never been wrapped
    around: Callable[[], AbstractContextManager[None]]  # entered around each hook

    def __init__(self, journal: Journal, blocks: OpenBlocks, captures: Captures) -> None:
        self.on = False
        self.around = nullcontext
        self.journal = journal
        self._blocks = blocks
        self._captures = captures
        self._lock = threading.RLock()
        self._holds = 0
        self._held: list[WatchedHook] = []

    def register(
        self,
        connection: BaseDatabaseWrapper,
        function: Any,  # whatever was passed: Django refuses what can't be called
        robust: bool,
        on_commit: Callable[..., None],
    ) -> None:
        """Do what Django's own ``on_commit`` does, with a hook that is followed."""
        __tracebackhide__ = True
        known = self._blocks.of(connection)
        if not callable(function) or not (
            connection.in_atomic_block or connection.get_autocommit()
        ):
            on_commit(connection, function, robust)  # raises
            return
        number = next(serials)
        through, task = _sender(sys._getframe(1))
        enqueued = enqueueing()
        if enqueued is not None:
            enqueued.hooks.append(number)
        hook = WatchedHook(
            function=function,
            id=number,
            location=enqueued.call.location if enqueued else locations.of_caller(),
            robust=robust,
            transaction=known.own[0].serial if known.own else number,
            run=self._run,
            captured=self._captures.open_on(connection),
            enqueueing=enqueued,
        )
        self.journal.append(
            HookRegistered(
                hook=number,
                location=hook.location,
                using=connection.alias,
                robust=robust,
                function=function_text(function),
                through=through,
                test_line=locations.of_test(hook.location),
                task=task,
                package=None if through else owning_package(function),
            )
        )
        if connection.atomic_blocks and not known.own and not hook.captured:
            self.run_at_once(connection, hook, on_commit)
        else:
            if connection.in_atomic_block:
                known.pending[number] = hook
            on_commit(connection, hook.stand_in, robust)

    def run_at_once(
        self,
        connection: BaseDatabaseWrapper,
        hook: WatchedHook,
        on_commit: Callable[..., None],
    ) -> None:
        """Run a hook that was registered where only the test's own blocks are open."""
        __tracebackhide__ = True
        run_in_autocommit(hook, on_commit)

    def commit(self, connection: BaseDatabaseWrapper, known: WatchedConnection) -> None:
        """Run the hooks of a transaction that committed inside the test's own."""
        __tracebackhide__ = True
        hooks = self._take(connection, known, lambda hook: not hook.captured)
        known.running.append(next(serials))
        try:
            run_as_committed(hooks)
        finally:
            known.running.pop()
            self.settle(connection, known, HOOK_RAISED)

    def discard(
        self, connection: BaseDatabaseWrapper, known: WatchedConnection, block: Block
    ) -> None:
        """Drop the hooks of a transaction that was rolled back inside the test's own."""
        self._take(connection, known, lambda hook: hook.id > block.serial)

    def _take(
        self,
        connection: BaseDatabaseWrapper,
        known: WatchedConnection,
        chosen: Callable[[WatchedHook], bool],
    ) -> list[WatchedHook]:
        """Take the chosen pending hooks out of Django's list."""
        entries: list[Any] = connection.run_on_commit
        left: list[Any] = []
        taken: list[WatchedHook] = []
        for entry in entries:
            hook = hook_of(entry[1])
            if hook is not None and hook.id in known.pending and chosen(hook):
                taken.append(hook)
            else:
                left.append(entry)
        entries[:] = left
        return taken

    def foreign_block_left(
        self, connection: BaseDatabaseWrapper, known: WatchedConnection, *, rolled_back: bool
    ) -> None:
        """React to the end of a block that is not the code's own: here nothing depends on it."""

    def settle(
        self, connection: BaseDatabaseWrapper, known: WatchedConnection, reason: str
    ) -> None:
        """Record as discarded each hook that has left Django's list without having run."""
        entries: list[Any] = connection.run_on_commit
        kept = {hook.id for entry in entries if (hook := hook_of(entry[1]))}
        # While hooks run, Django keeps the remaining ones in a list that can't be reached.
        began = max(known.running[-1:] + self._blocks.thread.hooks_running, default=0)
        for number, hook in list(known.pending.items()):
            if hook.started:
                del known.pending[number]
            elif number > began and number not in kept:
                del known.pending[number]
                self.journal.append(HookDiscarded(hook=number, reason=reason))

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Forget at the end the hooks that were registered within the ``with`` and have not run."""
        waiting = [
            (connection, list(connection.run_on_commit), dict(self._blocks.of(connection).pending))
            for connection in opened_connections()
        ]
        held = len(self._held)
        try:
            yield
        finally:
            del self._held[held:]
            for connection, entries, pending in waiting:
                connection.run_on_commit[:] = entries
                known = self._blocks.of(connection)
                known.pending.clear()
                known.pending.update(pending)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep hooks back, in every thread, until the outermost ``hold()`` ends."""
        with self._lock:
            self._holds += 1
        try:
            yield
        finally:
            with self._lock:
                self._holds -= 1
                released: list[WatchedHook] = []
                if not self._holds:
                    released, self._held = self._held, []
            self._release(released)

    def _run(self, hook: WatchedHook, function: Callable[[], object]) -> object:
        __tracebackhide__ = True
        if not self.on:
            return function()
        with self._lock:
            if self._holds and not hook.captured:
                for _, known in self._blocks.connections():
                    known.pending.pop(hook.id, None)
                self._held.append(hook)
                return None
        hook.started = True
        thread, scope = self._blocks.thread, Running(hook=hook)
        thread.scopes.append(scope)
        error: BaseException | None = None
        self.journal.append(HookStarted(hook=hook.id))
        try:
            with self.around(), enqueued_by(hook.enqueueing):
                return function()
        except BaseException as raised:
            error = raised
            raise
        finally:
            thread.scopes.remove(scope)
            self.journal.append(HookFinished(hook=hook.id, error=error))

    def _release(self, held: list[WatchedHook]) -> None:
        __tracebackhide__ = True
        first: Exception | None = None
        for _, hooks in groupby(held, key=lambda hook: hook.transaction):
            batch = list(hooks)
            try:
                run_as_committed(batch)
            except Exception as error:  # noqa: BLE001 - raised below
                first = first or error
            for hook in batch:
                if not hook.started:
                    self.journal.append(HookDiscarded(hook=hook.id, reason=HOOK_RAISED))
        if first is not None:
            raise first


def unwrap(connection: BaseDatabaseWrapper) -> None:
    """Replace the hooks that are still in Django's list by the functions they stand for."""
    entries: list[Any] = connection.run_on_commit
    entries[:] = [
        (entry[0], hook.function, *entry[2:]) if (hook := hook_of(entry[1])) else entry
        for entry in entries
    ]


def _sender(frame: FrameType | None) -> tuple[str, str] | tuple[None, None]:
    """The method of a task that registers a hook to publish later, and the task's name.

    That is Celery's `DjangoTask.delay_on_commit`, or the project's own ``apply_async``; ``None``
    twice if the hook was registered by anything else.
    """
    while frame is not None and locations.is_between(frame):
        method = frame.f_code.co_name
        if method in locations.PUBLISHES:
            name = getattr(locations.first_argument(frame), "name", None)
            if isinstance(name, str):
                return method, name
        frame = frame.f_back
    return None, None
