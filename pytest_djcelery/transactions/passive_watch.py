"""Watches Django's transactions and changes nothing: for tests that use no fixture of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_djcelery.messages.events import HookDiscarded, HookDue
from pytest_djcelery.transactions.blocks import OpenBlocks
from pytest_djcelery.transactions.captures import Captures
from pytest_djcelery.transactions.hook_runner import ROLLED_BACK, HookRunner
from pytest_djcelery.transactions.hooks import hook_of
from pytest_djcelery.transactions.sent_in_transaction import DeferredRaceDetector
from pytest_djcelery.transactions.watch import TransactionWatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.db.backends.base.base import BaseDatabaseWrapper

    from pytest_djcelery.messages.journal import Journal
    from pytest_djcelery.transactions.blocks import Block, WatchedConnection
    from pytest_djcelery.transactions.hooks import WatchedHook
    from pytest_djcelery.transactions.openers import Opener
    from pytest_djcelery.transactions.sent_in_transaction import Race


class PassiveWatch(TransactionWatch):
    """Records in the journal what a `TransactionWatch` would do, and does nothing.

    Args:
        journal: Where it is recorded.
        counts: Whether a block with this opener belongs to the code under test. The others are
            taken for the test's own, like those of ``django.test.TestCase``.
    """

    _passive = True

    def __init__(self, journal: Journal, counts: Callable[[Opener], bool]) -> None:
        blocks = OpenBlocks(counts)
        hooks = _HookListener(journal, blocks, Captures())
        self._set_up(blocks, hooks, DeferredRaceDetector(self._record))
        self._journal = journal

    def _emulate_autocommit(self) -> None:
        """Do nothing: the code finds the test's transaction as it would without the plugin."""

    def testcase_begins(self, _: BaseDatabaseWrapper) -> None:
        """Do nothing, for the same reason."""

    def _record(self, found: list[Race]) -> None:
        for race in found:
            self._journal.append(race)


class _HookListener(HookRunner):
    """Leaves the hooks where Django keeps them, and records when production would run them."""

    def run_at_once(
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

    def foreign_block_left(
        self, connection: BaseDatabaseWrapper, known: WatchedConnection, *, rolled_back: bool
    ) -> None:
        """Record the hooks that Django dropped because the test rolled its own block back."""
        if not rolled_back and connection.atomic_blocks:
            return
        entries: list[Any] = connection.run_on_commit
        gone = known.due - {hook.id for entry in entries if (hook := hook_of(entry[1]))}
        known.due -= gone
        if rolled_back:
            for number in gone:
                self.journal.append(HookDiscarded(hook=number, reason=ROLLED_BACK))
