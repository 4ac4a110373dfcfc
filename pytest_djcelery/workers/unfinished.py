"""Which messages of a test are still on their way, where the broker can't be asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from pytest_djcelery.messages.journal import Dropped, Ended

if TYPE_CHECKING:
    from pytest_djcelery.messages.journal import Journal
    from pytest_djcelery.messages.sent_task import SentTask


def outstanding(
    journal: Journal, queues: Collection[str] | None = None, *, later: bool = False
) -> bool:
    """Whether one of the messages is `waiting`."""
    return any(True for _ in waiting(journal, queues, later=later))


def waiting(
    journal: Journal, queues: Collection[str] | None = None, *, later: bool = False
) -> Iterator[SentTask]:
    """The messages that are due and have neither been run yet nor let go.

    Args:
        journal: of the test.
        later: whether those with an ETA to come count, too.
        queues: that a worker consumes from, where that is known; a message in another one will
            not be run.
    """
    now = datetime.now(timezone.utc)
    return (
        sent
        for sent in not_ended(journal)
        if (later or sent.eta is None or sent.eta <= now)
        and (queues is None or sent.queue is None or sent.queue in queues)
    )


def not_ended(journal: Journal) -> Iterator[SentTask]:
    """The messages of a test that no worker is done with, as far as is known."""
    ended = Counter((event.task_id, event.retries) for event in journal.events(Ended))
    dropped = {event.task_id for event in journal.events(Dropped)}
    for event in journal.published():
        sent = event.message
        attempt = sent.id, sent.retries
        if event.eager or sent.id in dropped:
            continue
        if ended[attempt]:
            ended[attempt] -= 1  # a task that replaces another has its id, too
        else:
            yield sent
