"""Which messages of a test are still on their way, where the broker can't be asked."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from pytest_djcelery.journal import Dropped, Ended

if TYPE_CHECKING:
    from pytest_djcelery.journal import Journal


def outstanding(
    journal: Journal, queues: Collection[str] | None = None, *, later: bool = False
) -> bool:
    """Whether a message that is due has neither been run yet nor let go.

    Args:
        journal: of the test.
        later: whether those with an ETA to come count, too.
        queues: that a worker consumes from, where that is known; a message in another one will
            not be run.
    """
    ended = {(event.task_id, event.retries) for event in journal.events(Ended)}
    dropped = {event.task_id for event in journal.events(Dropped)}
    now = datetime.now(timezone.utc)
    return any(
        (sent.id, sent.retries) not in ended
        and sent.id not in dropped
        and (later or sent.eta is None or sent.eta <= now)
        and (queues is None or sent.queue is None or sent.queue in queues)
        for sent in (event.message for event in journal.published() if not event.eager)
    )
