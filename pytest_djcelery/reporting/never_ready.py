"""Why a result never comes, where the test itself delivers the messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from celery import states

from pytest_djcelery.messages.journal import EndedWithoutOutcome, stores_nothing
from pytest_djcelery.recording.failures import call_text

if TYPE_CHECKING:
    from pytest_djcelery.messages.journal import Journal
    from pytest_djcelery.messages.sent_task import SentTask


def undelivered(pending: Iterable[SentTask], scheduled: Iterable[SentTask]) -> str:
    """What there is left to deliver, in words."""
    kinds = ("Due", list(pending)), ("Scheduled", list(scheduled))
    lines = [f"{kind}: {', '.join(map(_named, sent))}." for kind, sent in kinds if sent]
    return "\n".join(["celery_inline delivers when the test says so: celery_inline.run().", *lines])


def why_never(task_id: str, journal: Journal, scheduled: Sequence[SentTask], now: datetime) -> str:
    """Why a task has no outcome, now that nothing is due.

    Args:
        task_id: of the task.
        journal: what has happened in the test.
        scheduled: the messages with an ETA to come.
        now: where the clock stands.
    """
    sent = journal.sent(task_id)
    ended = journal.ended(task_id)
    name = _named(sent[-1]) if sent else task_id
    later = [each for each in scheduled if each.id == task_id]
    if later:
        return (
            f"{name} will not be ready: it is scheduled for {later[0].eta:%Y-%m-%d %H:%M:%S} "
            f"UTC, and the clock stands at {now:%Y-%m-%d %H:%M:%S} UTC.\n"
            "Move it: celery_inline.run(until=timedelta(…))."
        )
    left = undelivered((), scheduled)
    if ended and isinstance(ended[-1], EndedWithoutOutcome):
        reason = f"{stores_nothing(ended[-1].state)}."
    elif ended and ended[-1].state == states.SUCCESS:
        reason = "it succeeded, and ignores its result."
    elif sent:
        reason = f"it was delivered and has no result, and nothing is left to deliver.\n{left}"
    else:
        reason = (
            "no message with this id was sent in this test, and nothing that is due is left to "
            f"deliver.\n{left}"
        )
    return f"{name} will never be ready: {reason}"


def _named(sent: SentTask) -> str:
    return f"{call_text(sent.task, sent.args, sent.kwargs)} [{sent.id}]"
