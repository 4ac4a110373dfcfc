"""What runs the messages of a test, and the workers that are kept from test to test.

A module that keeps a worker registers it here, so that the session need not know which kinds of
worker there are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import ExitStack
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from pytest_djcelery.brokers.memory.queues import Topology
    from pytest_djcelery.messages.sent_task import SentTask
    from pytest_djcelery.project.consumed_queues import ConsumedQueues

_kept: dict[KeptWorker, None] = {}  # in the order in which they were first kept


class Runner:
    """Base class of the ways to run tasks.

    The defaults suit a runner that runs each task by itself once it is published.
    """

    name: ClassVar[str]
    #: Whether it runs tasks in the test's own thread, and only on request.
    in_place: ClassVar[bool] = False
    #: Whether another runner replaces it as soon as the test asks for one.
    implicit = False
    #: Whether a message published now will run by itself, or when its result is asked for.
    will_run = True
    #: Whether its tasks run in the test's own process.
    in_process = True
    #: Whether an error in the test already says that it has ended, or why it is about to.
    end_reported = False

    @property
    def log(self) -> str:
        """What its processes have logged since the test began; a thread logs to the test's log."""
        return ""

    def settle(self) -> None:
        """Wait until everything due has run."""

    def undelivered(self) -> tuple[list[SentTask], list[SentTask]]:
        """The messages that it has yet to run, if `in_place`: those that are due, and the rest."""
        return [], []

    def deliver_again(self, task_id: str) -> None:
        """Have the message of a running task delivered once more, marked as redelivered."""

    def let_tasks_end(self) -> None:
        """Wait for running tasks, up to the timeout, before the test's fixtures are torn down.

        Otherwise a late task would find the real thing where a fixture had put a mock.
        """

    def drop_scheduled(self) -> None:
        """Forget the messages that it holds until they are due."""

    def situation(self) -> str:
        """What it is doing, for the text of a timeout."""
        return f"{self.name} runs the tasks of this test."

    @property
    def has_ended(self) -> bool:
        """Whether it will no longer run anything."""
        return False

    def published(self) -> None:
        """React to a published message, once the transaction around it is over."""

    def consumes(self) -> ConsumedQueues | None:
        """The queues that it consumes; ``None`` if it consumes no queue."""
        return None

    def receives(self, sent: SentTask) -> bool:
        """Whether a message is routed to a queue that it now consumes."""
        return True

    def bring_about(self, task_ids: Collection[str]) -> bool:
        """Make these results ready, unless that happens by itself; return whether it did."""
        return False

    def wait_in_task(self, task_ids: Collection[str], timeout: float | None) -> None:
        """Wait for these results in a task that Celery lets wait, if that needs help.

        Args:
            task_ids: The tasks whose results are waited for.
            timeout: Seconds, if the waiting task sets a timeout.

        Raises:
            TimeoutError: They don't come in time, or never will.
            WorkerError: Nothing is left that could run the tasks.
        """

    def has_in_hand(self, task_id: str) -> bool:
        """Whether it is still busy with a task."""
        return False

    def deliver_until(self, done: Callable[[], bool]) -> None:
        """Run tasks in this thread until ``done()`` or nothing is due, if `in_place`."""

    def why_never_ready(self, task_id: str) -> str:
        """Why a task has no outcome although nothing is due."""
        return f"{task_id} has no outcome.\n{self.situation()}"


class KeptWorker:
    """A worker that outlives its test. The defaults suit a kind of which none is running."""

    #: Whether it is a thread of this process, whose state it has changed.
    is_thread = False

    @property
    def serves_session(self) -> bool:
        """Whether it runs what session fixtures send."""
        return False

    @property
    def takes_messages(self) -> bool:
        """Whether it runs what is sent now, by a session fixture or by anyone else."""
        return False

    def park(self) -> None:
        """At the start of a test, leave its messages alone until it asks for the worker."""

    def serve_session_fixtures(self) -> None:
        """Consume, if a session fixture wants it, before a test's fixtures are set up."""

    def topology(self) -> Topology | None:
        """What it has declared in the broker in memory, and a clean broker keeps."""
        return None

    def stop(self) -> None:
        """End the worker, if there is one."""


def keep(worker: KeptWorker) -> None:
    """Register a worker, to be called by the functions below."""
    _kept[worker] = None


def park_all() -> None:
    """Have every worker leave alone what the coming test publishes."""
    for worker in _kept:
        worker.park()


def serve_session_fixtures() -> None:
    """Let the session's worker consume."""
    for worker in _kept:
        worker.serve_session_fixtures()


def serves_session() -> bool:
    """Whether a worker runs what session fixtures send."""
    return any(worker.serves_session for worker in _kept)


def session_worker_takes_messages() -> bool:
    """Whether the session's worker runs what is sent now: it is not parked."""
    return any(worker.serves_session and worker.takes_messages for worker in _kept)


def kept_topology() -> Topology | None:
    """What a clean broker in memory keeps."""
    return next((kept for worker in _kept if (kept := worker.topology()) is not None), None)


def stop_all() -> None:
    """End every worker, even if ending one of them fails."""
    with ExitStack() as stack:
        for worker in _kept:
            stack.callback(worker.stop)


def stop_threads() -> None:
    """End the workers that are threads of this process; the others change nothing in it."""
    with ExitStack() as stack:
        for worker in _kept:
            if worker.is_thread:
                stack.callback(worker.stop)


def stop_others(than: KeptWorker) -> None:
    """End all workers but one: one broker can't have two of the same name."""
    for worker in _kept:
        if worker is not than:
            worker.stop()
