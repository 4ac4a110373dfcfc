"""A worker that ends while a test has it: what waits for it waits in vain, and the test is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pytest_djcelery.errors import WorkerError
from pytest_djcelery.recording.failures import call_text
from pytest_djcelery.workers.unfinished import waiting

if TYPE_CHECKING:
    from pytest_djcelery.messages.sent_task import SentTask
    from pytest_djcelery.session.runner import Runner
    from pytest_djcelery.session.sandbox import Sandbox

_MOST = 10  # messages in one text


class CanEnd(Protocol):
    """A worker, as far as its end is concerned."""

    @property
    def alive(self) -> bool:
        """Whether it runs."""

    @property
    def ended_as_asked(self) -> bool:
        """Whether it has ended because it was told to, by remote control or a signal."""

    @property
    def consumed(self) -> list[str]:
        """The names of the queues that it was started for."""

    @property
    def error(self) -> BaseException | None:
        """What ended it, if that is known."""

    def situation(self) -> str:
        """How it has ended, in words."""


def told_situation(runner: Runner, worker: CanEnd) -> str:
    """What a worker is doing or how it has ended, for an error that the test gets to see."""
    runner.end_told = runner.end_told or not worker.alive
    return worker.situation()


def check(sandbox: Sandbox, worker: CanEnd) -> None:
    """Refuse to go on as if nothing had happened.

    Raises:
        WorkerError: when the worker has ended, unless it was asked to and no message waits for it.
    """
    __tracebackhide__ = True
    if worker.alive:
        return
    left = list(waiting(sandbox.journal, worker.consumed))
    if left or not worker.ended_as_asked:
        raise WorkerError("\n".join([sandbox.situation(), *_listed(left)])) from worker.error


def check_unless_told(sandbox: Sandbox, worker: CanEnd) -> None:
    """The same at the end of a test, which may have seen it, and meant it."""
    __tracebackhide__ = True
    if sandbox.runner is None or not sandbox.runner.end_told:
        check(sandbox, worker)


def _listed(left: list[SentTask]) -> list[str]:
    if not left:
        return ["No message is known to have waited for it."]
    shown = [
        f"  {call_text(sent.task, sent.args, sent.kwargs)} [{sent.id}]" for sent in left[:_MOST]
    ]
    more = [f"  … and {len(left) - _MOST} more"] if len(left) > _MOST else []
    return ["Not run to the end, or not at all:", *shown, *more]
