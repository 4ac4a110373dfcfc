"""Whether a message that is sent inside a transaction may overtake its commit."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from pytest_djcelery import locations
from pytest_djcelery.errors import SentInTransactionError, SentInTransactionWarning
from pytest_djcelery.messages.journal import RaceRaised
from pytest_djcelery.transactions.race import Race, sent_in_transaction

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_djcelery.locations import Location
    from pytest_djcelery.messages.journal import Journal
    from pytest_djcelery.messages.sent_task import Message
    from pytest_djcelery.options import Policy
    from pytest_djcelery.transactions.blocks import OpenTransaction


class Judge:
    """Tells of messages that a transaction which writes has sent.

    A transaction that has not written yet is no race; what it sends is remembered until it
    writes.

    Args:
        tell: called with the messages of one transaction, together.
    """

    def __init__(self, tell: Callable[[list[Race]], None]) -> None:
        self._tell = tell

    def sent(self, message: Message, transactions: list[OpenTransaction]) -> None:
        """Judge a message that is about to be published inside these transactions."""
        __tracebackhide__ = True
        if not transactions:
            return
        written = next((each for each in transactions if each.wrote), None)
        if written is not None:
            self._tell([_race(message, written)])
        else:
            for transaction in transactions:
                transaction.unjudged.append(message)

    def wrote(self, transaction: OpenTransaction) -> None:
        """Judge the messages that a transaction sent before this, its first write."""
        __tracebackhide__ = True
        if transaction.unjudged:
            self._overtaken(transaction, locations.of_caller())

    def ended(self, transaction: OpenTransaction) -> None:
        """A transaction is over, before what it wrote is committed or rolled back."""

    def _overtaken(self, transaction: OpenTransaction, wrote_at: Location | None) -> None:
        __tracebackhide__ = True
        late = list(transaction.unjudged)
        for other in (transaction, *transaction.thread.transactions):
            other.unjudged = [each for each in other.unjudged if each not in late]
        self._tell([_race(each, transaction, late=True, wrote_at=wrote_at) for each in late])


def _race(message: Message, transaction: OpenTransaction, **facts: Any) -> Race:
    return Race(
        message=message,
        using=transaction.using,
        opener=transaction.opener,
        rows=transaction.rows,
        **facts,
    )


class JudgeAtTheEnd(Judge):
    """Tells of a write after a message when the transaction ends.

    Until then a savepoint can be rolled back, and nothing has been written.
    """

    def wrote(self, transaction: OpenTransaction) -> None:
        """Keep where it was: a write that is rolled back is followed by another first one."""
        transaction.wrote_at = locations.of_caller()

    def ended(self, transaction: OpenTransaction) -> None:
        """Judge what it sent before it wrote."""
        if transaction.wrote and transaction.unjudged:
            self._overtaken(transaction, transaction.wrote_at)


class ByPolicy:
    """What becomes of such messages in a test that uses the plugin: a warning, or an error."""

    def __init__(
        self,
        journal: Journal,
        policy: Callable[[], Policy],
        warn: Callable[[str, Location | None], None],
    ) -> None:
        self._journal = journal
        self._policy = policy
        self._warn = warn

    def __call__(self, found: list[Race]) -> None:
        """Warn or raise.

        Raises:
            SentInTransactionError: the policy is ``"error"``.
        """
        __tracebackhide__ = True
        policy = self._policy()
        if policy == "ignore":
            return
        for each in found:
            self._journal.append(each)
        try:
            self._report(found, policy)
        except (SentInTransactionError, SentInTransactionWarning) as error:
            # The code under test may catch it.
            self._journal.append(RaceRaised(error=error, tests=locations.tests_running()))
            raise

    def _report(self, found: list[Race], policy: Policy) -> None:
        __tracebackhide__ = True
        texts = [sent_in_transaction(each) for each in found]
        if policy == "error":
            raise SentInTransactionError("\n\n".join(texts))
        for each, text in zip(found, texts, strict=True):
            self._warn(text, each.message.location)


def warn(text: str, location: Location | None) -> None:
    """Warn of a message, at the line that sent it."""
    __tracebackhide__ = True  # where warnings are errors
    # With no registry, so that no filter takes a second message for the first.
    warnings.warn_explicit(
        SentInTransactionWarning(text),
        None,
        filename=location.path if location else "<unknown>",
        lineno=location.line if location else 1,
    )
