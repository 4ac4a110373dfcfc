"""Watch Django's transactions and change nothing: for tests that use no fixture of the plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_djcelery.messages.journal import HookDiscarded, HookDue
from pytest_djcelery.transactions.blocks import OpenBlocks
from pytest_djcelery.transactions.hook_runner import ROLLED_BACK, HookRunner
from pytest_djcelery.transactions.hooks import Captures, hook_of
from pytest_djcelery.transactions.races import JudgeAtTheEnd
from pytest_djcelery.transactions.watch import TransactionWatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.db.backends.base.base import BaseDatabaseWrapper

    from pytest_djcelery.messages.journal import Journal
    from pytest_djcelery.transactions.blocks import Block, WatchedConnection
    from pytest_djcelery.transactions.hooks import WatchedHook
    from pytest_djcelery.transactions.openers import Opener


class PassiveWatch(TransactionWatch):
    """Appends to the journal what a `TransactionWatch` would do, and does none of it.

    Args:
        journal: what is told.
        counts: whether a block that something has opened is of the code under test; those of the
            test itself are to it as those of ``django.test.TestCase``.
    """

    def __init__(self, journal: Journal, counts: Callable[[Opener], bool]) -> None:
        blocks = OpenBlocks(counts)
        self._set_up(blocks, _HookListener(journal, blocks, Captures()), JudgeAtTheEnd(self._tell))
        self._journal = journal

    def _emulate_autocommit(self) -> None:
        """The code finds the test's transaction as it would without the plugin."""

    def _test_begins(self, _: BaseDatabaseWrapper) -> None:
        """Likewise."""

    def _tell(self, found: list[Any]) -> None:
        for each in found:
            self._journal.append(each)


class _HookListener(HookRunner):
    """Leaves the hooks where Django keeps them, and tells when production would run them."""

    def in_autocommit(
        self, connection: BaseDatabaseWrapper, hook: WatchedHook, on_commit: Callable[..., None]
    ) -> None:
        __tracebackhide__ = True
        self._due(self._blocks.of(connection), hook.id)
        on_commit(connection, hook.stand_in, hook.robust)

    def commit(self, _: BaseDatabaseWrapper, known: WatchedConnection) -> None:
        for number in known.pending:
            self._due(known, number)
        known.pending.clear()

    def _due(self, known: WatchedConnection, number: int) -> None:
        known.due.add(number)
        self.journal.append(HookDue(hook=number))

    def discard(self, _: BaseDatabaseWrapper, known: WatchedConnection, __: Block) -> None:
        for number in known.pending:
            self.journal.append(HookDiscarded(hook=number, reason=ROLLED_BACK))
        known.pending.clear()

    def left(
        self, connection: BaseDatabaseWrapper, known: WatchedConnection, *, rolled_back: bool
    ) -> None:
        """Where a test shows a rollback, by a block of its own, Django drops the hooks: rightly."""
        if not rolled_back and connection.atomic_blocks:
            return
        entries: list[Any] = connection.run_on_commit
        gone = known.due - {hook.id for entry in entries if (hook := hook_of(entry[1]))}
        known.due -= gone
        if rolled_back:
            for number in gone:
                self.journal.append(HookDiscarded(hook=number, reason=ROLLED_BACK))
