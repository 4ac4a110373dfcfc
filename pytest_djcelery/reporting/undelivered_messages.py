"""Texts about messages that no worker has run: those that are due, and those for later."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from celery import states

from pytest_djcelery.messages.descriptions import message_text
from pytest_djcelery.messages.events import EndedWithoutOutcome, stores_nothing
from pytest_djcelery.messages.journal import ShortNumbers
from pytest_djcelery.recording.losses import why_lost

if TYPE_CHECKING:
    from pytest_djcelery.messages.journal import Journal
    from pytest_djcelery.messages.sent_task import SentTask
    from pytest_djcelery.session.sandbox import Sandbox


_SHOWN = 5  # messages
_NO_WORKER = (
    "No worker runs the tasks of this test: ask for celery_inline, and call its run(); or for "
    "celery_worker."
)


def text(sandbox: Sandbox) -> str:
    """What is left to deliver in this test, and how to deliver it; empty if nothing is left.

    The timeline above it shows the calls, so that here their numbers are enough.
    """
    numbers = ShortNumbers(sandbox.journal, sandbox.began)
    runner = sandbox.runner
    due: Sequence[SentTask]
    later: Sequence[SentTask] = ()
    move = ""
    if runner is None:
        due, deliver = _unsent(sandbox), _NO_WORKER
    elif runner.in_place:
        due, later = runner.undelivered()
        it = "it" if len(due) == 1 else "them"
        deliver = f"Deliver {it} first: celery_inline.run()"
        how = "ask for celery_inline, and call its" if runner.implicit else "celery_inline."
        move = f"Move the clock there: {how}{' ' * runner.implicit}run(until=timedelta(…))"
    else:
        return ""
    lines = [
        *_kind(due, numbers, "was due when the test failed:", deliver),
        *_kind(later, numbers, "waits for its ETA:", move),
    ]
    return "\n".join(lines)


_MANY = {"was": "were", "waits": "wait", "its": "their"}


def _kind(sent: Sequence[SentTask], numbers: ShortNumbers, what: str, remedy: str) -> Iterator[str]:
    if not sent:
        return
    many = " ".join(_MANY.get(word, word) for word in what.split(" "))
    yield f"1 message {what}" if len(sent) == 1 else f"{len(sent)} messages {many}"
    for message in sent[:_SHOWN]:
        eta = f", at {message.eta:%Y-%m-%d %H:%M:%S} UTC" if message.eta is not None else ""
        place = f", sent at {message.location}" if message.location is not None else ""
        yield f"  {numbers.of(message.id)}{eta}{place}"
    if len(sent) > _SHOWN:
        yield f"  … and {len(sent) - _SHOWN} more"
    yield remedy


def _unsent(sandbox: Sandbox) -> list[SentTask]:
    """What was published to the broker in memory, in a test where nothing runs it."""
    if sandbox.project.broker is None:
        return []
    published = sandbox.journal.published(sandbox.began)
    return [publish.message for publish in published if not publish.eager]


def listed(pending: Iterable[SentTask], scheduled: Iterable[SentTask]) -> str:
    """What is left to deliver, in words."""
    kinds = ("Due", list(pending)), ("Scheduled", list(scheduled))
    lines = [f"{kind}: {', '.join(map(_named, sent))}." for kind, sent in kinds if sent]
    return "\n".join(["celery_inline delivers when the test says so: celery_inline.run().", *lines])


def why_never_ready(
    task_id: str, journal: Journal, scheduled: Sequence[SentTask], now: datetime
) -> str:
    """Why a task has no outcome, now that nothing is due.

    Args:
        task_id: The id of the task.
        journal: The journal of the test.
        scheduled: The messages with an ETA in the future.
        now: The time of the clock.
    """
    sent = journal.sent(task_id)
    ended = journal.ended(task_id)
    name = _named(sent[-1]) if sent else task_id
    later = [message for message in scheduled if message.id == task_id]
    if later:
        return (
            f"{name} will not be ready: it is scheduled for {later[0].eta:%Y-%m-%d %H:%M:%S} "
            f"UTC, and the clock is at {now:%Y-%m-%d %H:%M:%S} UTC.\n"
            "Move it: celery_inline.run(until=timedelta(…))."
        )
    lost = why_lost(journal, [task_id])
    if lost is not None:
        return lost
    left = listed((), scheduled)
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
    return f"{message_text(sent)} [{sent.id}]"
