"""Watches Django's transactions: when on_commit hooks run, what is sent before the commit."""

from __future__ import annotations

import threading
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_djcelery.errors import DjceleryError
from pytest_djcelery.messages.events import BlockEntered, BlockLeft
from pytest_djcelery.patching import Current
from pytest_djcelery.transactions.autocommit import (
    Autocommit,
    begin_test,
    innermost,
)
from pytest_djcelery.transactions.blocks import EagerTask, OpenBlocks, serials
from pytest_djcelery.transactions.captures import Captures
from pytest_djcelery.transactions.connections import connection_held_open, opened_connections
from pytest_djcelery.transactions.hook_runner import (
    HOOK_RAISED,
    LOST,
    ROLLED_BACK,
    SAVEPOINT,
    HookRunner,
    unwrap,
)
from pytest_djcelery.transactions.sent_in_transaction import RaceDetector, RacePolicy, warn
from pytest_djcelery.transactions.watched_methods import Watch, methods_watched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager
    from types import FrameType

    from django.db.backends.base.base import BaseDatabaseWrapper
    from typing_extensions import Self

    from pytest_djcelery.locations import Location
    from pytest_djcelery.messages.events import Note
    from pytest_djcelery.messages.journal import Journal
    from pytest_djcelery.messages.task_message import Message, Transaction
    from pytest_djcelery.options import Policy

_only_one = threading.Lock()
_NOTHING: AbstractContextManager[None] = nullcontext()


@dataclass(frozen=True, slots=True, kw_only=True)
class Publishing:
    """The situation a message is published in."""

    transaction: Transaction
    hook: int | None  # the on_commit hook now running in this thread, if that is innermost
    hook_location: Location | None


_ALONE = Publishing(transaction="autocommit", hook=None, hook_location=None)


class TransactionWatch(Watch):
    """Runs hooks when production would commit, and finds the messages sent before that.

    The code's *own* blocks are the atomic blocks it opened since the watch began, except those
    of ``django.test.TestCase``. Where other blocks enclose them nothing is ever committed: there
    the exit of the outermost own block takes the place of the commit. Elsewhere Django runs the
    hooks and the watch only looks on.
    """

    _note: Callable[[Note], None] | None = None  # where blocks are recorded, if they are
    _current: Current[TransactionWatch] | None = None
    _passive = False

    def __init__(
        self,
        journal: Journal,
        *,
        policy: Callable[[], Policy],
        captures: Captures | None = None,
        warn: Callable[[str, Location | None], None] = warn,
        current: Current[TransactionWatch] | None = None,
    ) -> None:
        """Make a watch that is on once it is entered.

        Args:
            journal: Where hooks and races are recorded.
            policy: What a message does that is published inside an open transaction.
            captures: The blocks in which Django's own test tools capture hooks.
            warn: Called with a race's text, and its place.
            current: Makes this the current watch of a `methods_watched` that is entered already.
        """
        blocks = OpenBlocks()
        races = RaceDetector(RacePolicy(journal, policy, warn))
        hooks = HookRunner(journal, blocks, captures or Captures())
        self._set_up(blocks, hooks, races)
        self._note = journal.note
        self._current = current

    def _set_up(self, blocks: OpenBlocks, hooks: HookRunner, races: RaceDetector) -> None:
        self.after_blocks = lambda: None
        self.before_procedure: Callable[[BaseDatabaseWrapper], None] = lambda _: None
        self._blocks = blocks
        self._hooks = hooks
        self._races = races
        self._patches = ExitStack()
        self._tests: list[Autocommit] = []

    def __enter__(self) -> Self:
        if not _only_one.acquire(blocking=False):
            raise DjceleryError(
                "Only one TransactionWatch can be on at a time, but one is on already: "
                "use that one, or leave its `with` first."
            )
        self._hooks.on = True
        try:
            self._begin()
            self._emulate_autocommit()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            while self._tests:
                self._tests.pop().__exit__()
            if self._current is not None:
                self._current.now = None
            self._patches.close()
            self._hooks.on = False
            for connection, known in self._blocks.connections():
                self._hooks.settle(connection, known, LOST)
                unwrap(connection)
                self._blocks.forget(connection, known)
            self._blocks.clear()
        finally:
            _only_one.release()

    def _begin(self) -> None:
        if self._current is None:
            self._patches.enter_context(methods_watched(Current(self), passive=self._passive))
        else:
            self._current.now = self

    @property
    def around_hook(self) -> Callable[[], AbstractContextManager[None]]:
        """Makes the context manager that is entered around each hook; at first one of no effect."""
        return self._hooks.around

    @around_hook.setter
    def around_hook(self, around: Callable[[], AbstractContextManager[None]]) -> None:
        self._hooks.around = around

    @property
    def in_blocks(self) -> bool:
        """Whether this thread is in an atomic block that the code under test opened."""
        return bool(self._blocks.thread.blocks)

    def publishing(self) -> Publishing:
        """Say in which situation a message is that this thread publishes now."""
        thread = self._blocks.thread
        if not (thread.scopes or thread.blocks):
            return _ALONE
        scope = thread.scopes[-1] if thread.scopes else None
        hook = scope.hook if scope else None
        began = scope.serial if scope else 0
        transaction: Transaction = "on_commit" if hook else "autocommit"
        if any(block.serial > began for block in thread.blocks):
            transaction = "atomic"
        return Publishing(
            transaction=transaction,
            hook=hook.id if hook else None,
            hook_location=hook.location if hook else None,
        )

    def check_race(self, message: Message) -> None:
        """Warn or raise if ``message``, about to be published, may overtake a commit.

        Blocks that are open around an on_commit hook count: the hook waited for the commit of
        another database.

        Raises:
            SentInTransactionError: The policy is ``"error"``.
        """
        __tracebackhide__ = True
        self._races.sent(message, self._blocks.thread.transactions)

    def written(self, model: type[Any], keys: Iterable[Any], using: str) -> None:
        """Note the primary keys of rows that this thread has written."""
        transactions = [
            transaction
            for transaction in self._blocks.thread.transactions
            if transaction.using == using
        ]
        if transactions:
            for key in keys:
                for transaction in transactions:
                    transaction.rows.add(model, key)

    def eager_task(self) -> AbstractContextManager[None]:
        """Enter this around an eager task: the blocks that are open now are not the task's."""
        return EagerTask(self._blocks.thread)

    def autocommit(self) -> AbstractContextManager[None]:
        """Enter this to run tasks as a worker does: with none of this thread's blocks open."""
        inside = [connection for connection in opened_connections() if connection.in_atomic_block]
        return self._autocommit(inside) if inside else _NOTHING

    @contextmanager
    def _autocommit(self, connections: list[BaseDatabaseWrapper]) -> Iterator[None]:
        with ExitStack() as stack:
            for connection in connections:
                # A block that has failed, and isn't over yet, is left as it is.
                sound = innermost(connection) is not None or not connection.needs_rollback
                if sound and connection.features.uses_savepoints:
                    stack.enter_context(self._blocks.set_aside(connection))
                    stack.enter_context(Autocommit(connection))
                    stack.enter_context(connection_held_open(connection))
            yield

    def hold(self) -> AbstractContextManager[None]:
        """Keep hooks back, in every thread, until the outermost ``hold()`` ends."""
        return self._hooks.hold()

    def hooks_restored(self) -> AbstractContextManager[None]:
        """Within the ``with``, forget at the end which hooks were registered and have not run."""
        return self._hooks.restored()

    def settle(self) -> None:
        """Note which hooks of this thread's connections Django has dropped meanwhile."""
        if self._hooks.on:
            for connection in opened_connections():
                if (known := self._blocks.find(connection)) is not None:
                    self._hooks.settle(connection, known, LOST)

    def _emulate_autocommit(self) -> None:
        """Have code with no block open find autocommit on, in the test's transaction too."""
        for connection in opened_connections():
            self.testcase_begins(connection)

    def testcase_begins(self, connection: BaseDatabaseWrapper) -> None:
        """Emulate autocommit on a connection that is in the transaction of a test alone."""
        autocommit = begin_test(connection)
        if autocommit is not None:
            self._tests.append(autocommit)

    def testcase_ends(self, connection: BaseDatabaseWrapper) -> None:
        """Emulate it no longer: `django.test.TestCase` leaves its block."""
        autocommit = innermost(connection)
        if autocommit in self._tests:
            self._tests.remove(autocommit)
            autocommit.remove()

    def hook_registered(
        self,
        connection: BaseDatabaseWrapper,
        hook: Callable[[], object],
        robust: bool,
        register: Callable[..., None],
    ) -> None:
        """Keep a hook until its block ends, or run it at once, as in production."""
        __tracebackhide__ = True
        self._hooks.register(connection, hook, robust, register)

    def procedure_called(self, connection: BaseDatabaseWrapper) -> None:
        """Note that a procedure may have written."""
        known = self._blocks.find(connection)
        if known is not None and known.writes is not None:
            known.writes.procedure_called()

    def block_entered(self, connection: BaseDatabaseWrapper, using: str, frame: FrameType) -> None:
        """Note a block, and where it was opened."""
        block = self._blocks.entered(connection, using, frame, self._races.wrote)
        if block is not None and block.begins and self._note is not None:
            self._note(BlockEntered(block=block.serial, opener=block.transaction.opener))

    def leave_block(
        self,
        connection: BaseDatabaseWrapper,
        leave: Callable[[], None],
        *,
        failed: bool,
        of_testcase: bool,
    ) -> None:
        """Leave the innermost block, and run the hooks that are due where that is a commit."""
        __tracebackhide__ = True
        known = self._blocks.of(connection)
        failed = failed or connection.needs_rollback or connection.closed_in_transaction
        if not known.own or known.own[-1].depth != len(connection.atomic_blocks):
            # The test's own block, or one that was opened before the watch was entered.
            rolled_back = failed and not of_testcase
            try:
                leave()
            finally:
                self._hooks.settle(connection, known, ROLLED_BACK)
                self._hooks.foreign_block_left(connection, known, rolled_back=rolled_back)
            return
        # Before Django leaves the block: in a real commit it runs the hooks while doing so.
        block = self._blocks.leave_innermost(connection, known)
        outermost = not known.own
        simulated = outermost and len(connection.atomic_blocks) > 1
        if block.begins:
            self._races.ended(block.transaction)
        known.running.append(next(serials))
        committed = False
        try:
            leave()
            committed = not failed
        finally:
            known.running.pop()
            if block.begins and self._note is not None:
                self._note(BlockLeft(block=block.serial, committed=committed))
            if simulated and not committed:
                # A block without a savepoint leaves them to the test's rollback.
                self._hooks.discard(connection, known, block)
            if not simulated or not committed:
                undone = ROLLED_BACK if outermost else SAVEPOINT
                self._hooks.settle(connection, known, undone if failed else HOOK_RAISED)
        if simulated and committed:
            self._hooks.commit(connection, known)
