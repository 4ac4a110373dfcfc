"""Whether a message that is sent inside a transaction may overtake its commit."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from pytest_djcelery import locations
from pytest_djcelery.errors import SentInTransactionError, SentInTransactionWarning
from pytest_djcelery.transactions.openers import sent_in_transaction

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_djcelery.locations import Location
    from pytest_djcelery.messages import SentTask
    from pytest_djcelery.options import Policy
    from pytest_djcelery.transactions.blocks import OpenTransaction


class Judge:
    """Warns of messages that a transaction which writes has sent, or raises: by the policy.

    A transaction that has not written yet is no race; what it sends is remembered until it
    writes.
    """

    def __init__(
        self, policy: Callable[[], Policy], warn: Callable[[str, Location | None], None]
    ) -> None:
        self._policy = policy
        self._warn = warn

    def sent(self, message: SentTask, transactions: list[OpenTransaction]) -> None:
        """Judge a message that is about to be published inside these transactions."""
        __tracebackhide__ = True
        if not transactions or self._policy() == "ignore":
            return
        written = next((each for each in transactions if each.wrote), None)
        if written is not None:
            self._report([message], written, late=False)
        else:
            for transaction in transactions:
                transaction.unjudged.append(message)

    def wrote(self, transaction: OpenTransaction) -> None:
        """Judge the messages that a transaction sent before this, its first write."""
        __tracebackhide__ = True
        if late := list(transaction.unjudged):
            for other in transaction.thread.transactions:
                other.unjudged = [each for each in other.unjudged if each not in late]
            self._report(late, transaction, late=True)

    def _report(
        self, messages: list[SentTask], transaction: OpenTransaction, *, late: bool
    ) -> None:
        __tracebackhide__ = True
        policy = self._policy()
        wrote_at = locations.of_caller() if late else None
        texts = [
            sent_in_transaction(
                message,
                using=transaction.using,
                opener=transaction.opener,
                wrote_at=wrote_at,
                late=late,
            )
            for message in messages
        ]
        if policy == "error":
            raise SentInTransactionError("\n\n".join(texts))
        if policy == "warn":
            for message, text in zip(messages, texts, strict=True):
                self._warn(text, message.location)


def warn(text: str, location: Location | None) -> None:
    """Warn of a message, at the line that sent it."""
    # With no registry, so that no filter takes a second message for the first.
    warnings.warn_explicit(
        SentInTransactionWarning(text),
        None,
        filename=location.path if location else "<unknown>",
        lineno=location.line if location else 1,
    )
