"""What must hold after each schedule, whatever the test asserts: Jepsen's rules for queues.

Nothing is lost that was not acknowledged, nothing is delivered that was not sent, and the body of
a chord runs once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from celery import states

from pytest_djcelery.exploration.step_texts import call
from pytest_djcelery.messages.events import Ended

if TYPE_CHECKING:
    from pytest_djcelery.exploration.steering import Step
    from pytest_djcelery.messages.sent_task import SentTask
    from pytest_djcelery.session.sandbox import Sandbox


def broken_rules(sandbox: Sandbox, steps: Sequence[Step], since: int) -> list[str]:
    """The rules that a run has broken, in words.

    Args:
        sandbox: Of the test, whose fixtures have not been torn down.
        steps: Each delivery.
        since: Where the run began in the journal, after the set-up of the fixtures.
    """
    sent = [
        event.message
        for event in sandbox.journal.published(since)
        if not (event.eager or event.other_app)
    ]
    return [
        *_lost(sandbox, sent, steps),
        *_never_sent(steps),
        *_chords(sandbox, sent, steps),
    ]


def _lost(sandbox: Sandbox, sent: Sequence[SentTask], steps: Sequence[Step]) -> Iterator[str]:
    delivered = {id(step.sent): step for step in steps}  # the last one of each message
    missing = [message for message in sent if id(message) not in delivered]
    missing += [
        step.sent
        for step in delivered.values()
        if step.sent is not None and step.lost_at and not step.acknowledged
    ]
    if not missing:
        return
    waiting = _waiting(sandbox)
    for message in missing:
        if message.id not in waiting and not _outlives_its_queue(sandbox, message):
            yield (
                f"{call(message)} was lost, and was never acknowledged: no queue has it, and no "
                "worker has run it. Is its exchange bound to a queue?"
            )


def _waiting(sandbox: Sandbox) -> set[str]:
    """The ids of the messages that a queue or a worker holds, or that were dropped on purpose."""
    held = {message.id for messages in _undelivered(sandbox) for message in messages}
    broker = sandbox.project.broker
    if broker is not None:
        held |= broker.purged
        for queue in broker.queues.values():
            held.update(
                str(ready.message["headers"].get("id")) for ready in (*queue.plain, *queue.timed)
            )
    return held


def _outlives_its_queue(sandbox: Sandbox, message: SentTask) -> bool:
    """Whether the queue of a message drops what has waited for too long."""
    broker = sandbox.project.broker
    queue = broker and message.queue and broker.queues.get(message.queue)
    return bool(queue and queue.ttl is not None)


def _undelivered(sandbox: Sandbox) -> tuple[list[SentTask], list[SentTask]]:
    return ([], []) if sandbox.runner is None else sandbox.runner.undelivered()


def _never_sent(steps: Sequence[Step]) -> Iterator[str]:
    # A message that was not published through Celery has no record to compare with.
    counts = Counter(
        (id(step.sent), step.queue) for step in steps if step.sent and not step.redelivered
    )
    for step in steps:
        if step.sent and counts.pop((id(step.sent), step.queue), 1) > 1:
            yield (
                f"{call(step.sent)} was sent once, and delivered several times without being "
                "marked as redelivered."
            )


def _chords(sandbox: Sandbox, sent: Sequence[SentTask], steps: Sequence[Step]) -> Iterator[str]:
    bodies: dict[str, Any] = {}
    header: dict[str, set[str]] = {}
    for message in sent:
        if message.chord is not None and (body := message.chord.options.get("task_id")):
            bodies[body] = message.chord
            header.setdefault(body, set()).add(message.id)
    if not bodies:
        return
    succeeded = {
        event.task_id
        for event in sandbox.journal.events(Ended, sandbox.began)
        if event.state == states.SUCCESS and not event.eager
    }
    lost = {step.sent.id for step in steps if step.sent and step.is_lost}
    published = Counter(message.id for message in sent if not message.retries)
    for body, signature in bodies.items():
        if published[body] > 1:
            yield f"{signature.task}, the body of a chord, was published {published[body]} times."
        size = signature.get("chord_size") or len(header[body])
        done = header[body] & succeeded
        if not published[body] and len(done) == size and not done & lost:
            yield f"{signature.task}, the body of a chord, never ran, though its header is done."
