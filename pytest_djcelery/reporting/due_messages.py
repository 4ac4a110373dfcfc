"""What a failing test is told of messages that nobody has delivered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pytest_djcelery.recording.failures import call_text

if TYPE_CHECKING:
    from pytest_djcelery.messages.sent_task import SentTask
    from pytest_djcelery.session.sandbox import Sandbox

_SHOWN = 5  # messages
_NO_WORKER = (
    "No worker runs the tasks of this test: ask for celery_inline, and call its run(); or for "
    "celery_worker."
)


def text(sandbox: Sandbox) -> str:
    """What is left to deliver in this test, and how that is done; nothing where there is none."""
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
        *_kind(due, "was due when the test failed:", "were due when the test failed:", deliver),
        *_kind(later, "waits for its ETA:", "wait for their ETA:", move),
    ]
    return "\n".join(lines)


def _kind(sent: Sequence[SentTask], one: str, many: str, remedy: str) -> Iterator[str]:
    if not sent:
        return
    yield f"{len(sent)} message {one}" if len(sent) == 1 else f"{len(sent)} messages {many}"
    for each in sent[:_SHOWN]:
        eta = f", at {each.eta:%Y-%m-%d %H:%M:%S} UTC" if each.eta is not None else ""
        place = f", sent at {each.location}" if each.location is not None else ""
        yield f"  {call_text(each.task, each.args, each.kwargs)}{eta}{place}"
    if len(sent) > _SHOWN:
        yield f"  … and {len(sent) - _SHOWN} more"
    yield remedy


def _unsent(sandbox: Sandbox) -> list[SentTask]:
    """What was published to the broker in memory, in a test that has nobody to run it."""
    if sandbox.project.broker is None:
        return []
    published = sandbox.journal.published(sandbox.began)
    return [each.message for each in published if not each.eager]
