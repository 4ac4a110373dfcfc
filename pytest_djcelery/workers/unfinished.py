"""Messages that no worker has finished, and workers that ended too early."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Protocol

from pytest_djcelery.errors import WorkerError
from pytest_djcelery.messages.descriptions import message_text
from pytest_djcelery.messages.events import Dropped, Ended, WorkerLost

if TYPE_CHECKING:
    from pytest_djcelery.messages.journal import Journal
    from pytest_djcelery.messages.sent_task import SentTask
    from pytest_djcelery.session.runner import Runner
    from pytest_djcelery.session.sandbox import Sandbox

_MOST = 10  # messages in one text


def outstanding(
    journal: Journal, queues: Collection[str] | None = None, *, later: bool = False
) -> bool:
    """Whether one of the messages is `waiting`."""
    return any(True for _ in waiting(journal, queues, later=later))


def waiting(
    journal: Journal, queues: Collection[str] | None = None, *, later: bool = False
) -> Iterator[SentTask]:
    """The messages that are due and have been neither run nor dropped.

    Args:
        journal: The journal of the test.
        queues: The queues that a worker consumes, if known; messages in others won't be run.
        later: Whether messages with an ETA in the future count too.
    """
    now = datetime.now(timezone.utc)
    return (
        sent
        for sent in not_ended(journal)
        if (later or sent.eta is None or sent.eta <= now)
        and (queues is None or sent.queue is None or sent.queue in queues)
    )


def not_ended(journal: Journal) -> Iterator[SentTask]:
    """The messages of a test that no worker has finished, as far as is known."""
    ended = Counter((event.task_id, event.retries) for event in journal.events(Ended))
    dropped = {event.task_id for event in journal.events(Dropped)}
    dropped |= {event.task_id for event in journal.events(WorkerLost) if event.for_good}
    for event in journal.published():
        sent = event.message
        attempt = sent.id, sent.retries
        if event.eager or sent.id in dropped:
            continue
        if ended[attempt]:
            ended[attempt] -= 1  # a task that replaces another has the same id
        else:
            yield sent


class CanEnd(Protocol):
    """A worker, as far as its end matters."""

    @property
    def alive(self) -> bool:
        """Whether it runs."""

    @property
    def ended_as_asked(self) -> bool:
        """Whether it has ended because remote control or a signal asked it to."""

    @property
    def consumed(self) -> list[str]:
        """The names of the queues that it was started for."""

    @property
    def error(self) -> BaseException | None:
        """What ended it, if that is known."""

    def situation(self) -> str:
        """How it has ended, in words."""


def reported_situation(runner: Runner, worker: CanEnd) -> str:
    """What a worker is doing or how it has ended, for an error that the test gets to see."""
    runner.end_reported = runner.end_reported or not worker.alive
    return worker.situation()


def check_worker(sandbox: Sandbox, worker: CanEnd) -> None:
    """Check that a worker runs, or has ended with nothing left to do.

    Raises:
        WorkerError: It has ended, unless it was asked to and no message waits for it.
    """
    __tracebackhide__ = True
    if worker.alive:
        return
    left = list(waiting(sandbox.journal, worker.consumed))
    if left or not worker.ended_as_asked:
        raise WorkerError("\n".join([sandbox.situation(), *_listed(left)])) from worker.error


def check_worker_unless_reported(sandbox: Sandbox, worker: CanEnd) -> None:
    """Do the same at the end of a test, unless the test has seen, and meant, the worker's end."""
    __tracebackhide__ = True
    if sandbox.runner is None or not sandbox.runner.end_reported:
        check_worker(sandbox, worker)


def _listed(left: list[SentTask]) -> list[str]:
    if not left:
        return ["No message is known to have waited for it."]
    shown = [f"  {message_text(sent)} [{sent.id}]" for sent in left[:_MOST]]
    more = [f"  … and {len(left) - _MOST} more"] if len(left) > _MOST else []
    return ["Not run to the end, or not at all:", *shown, *more]
