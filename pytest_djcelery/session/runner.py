"""Who runs the messages of a test, and the workers that are kept from test to test.

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

_held: dict[HeldWorker, None] = {}  # in the order in which they were first kept


class Runner:
    """Base of the ways to run tasks.

    What stands here is right where a task is run by itself once it is published.
    """

    name: ClassVar[str]
    #: Whether it runs tasks in the test's own thread, and only when told to.
    in_place: ClassVar[bool] = False
    #: Whether it gives way to one that the test asks for.
    implicit = False
    #: Whether a message that is published now will be run by itself, or by asking for its result.
    will_run = True
    #: Whether an error has told the test that it has ended, or why it is about to.
    end_reported = False

    @property
    def log(self) -> str:
        """What its processes have logged since the test began; here it is the test's own."""
        return ""

    def settle(self) -> None:
        """Wait until all that is due has run."""

    def undelivered(self) -> tuple[list[SentTask], list[SentTask]]:
        """The messages that it has yet to run, if `in_place`: those due, and the others."""
        return [], []

    def let_tasks_end(self) -> None:
        """Before a test's fixtures are torn down: wait for what runs, as far as the time-out goes.

        What they have mocked is not to be the real thing for a task that is late.
        """

    def drop_what_waits(self) -> None:
        """Forget the messages that it holds until their time comes."""

    def situation(self) -> str:
        """What it is doing, for the text of a time-out."""
        return f"{self.name} runs the tasks of this test."

    @property
    def has_ended(self) -> bool:
        """Whether it will run nothing any more."""
        return False

    def published(self) -> None:
        """A message was published, and the transaction it was published in is over."""

    def consumes(self) -> ConsumedQueues | None:
        """The queues that it takes messages from; ``None`` where it takes none from any."""
        return None

    def receives(self, sent: SentTask) -> bool:
        """Whether a message comes to a queue that it consumes now."""
        return True

    def bring_about(self, task_ids: Collection[str]) -> bool:
        """Make the results of these ready, if that is not done by itself; whether it did."""
        return False

    def wait_in_task(self, task_ids: Collection[str], timeout: float | None) -> None:
        """Wait for the results of these in a task that Celery lets wait, if that needs help.

        Args:
            task_ids: of the results.
            timeout: seconds, where the task gives them.

        Raises:
            TimeoutError: when they don't come in time, or never will.
            WorkerError: when nobody is left who could run the tasks.
        """

    def has_in_hand(self, task_id: str) -> bool:
        """Whether it is not yet done with a task that it runs."""
        return False

    def deliver_until(self, done: Callable[[], bool]) -> None:
        """Run tasks in this thread until ``done()`` or nothing is due, if `in_place`."""

    def why_never(self, task_id: str) -> str:
        """Why a task has no outcome though nothing is due."""
        return f"{task_id} has no outcome.\n{self.situation()}"


class HeldWorker:
    """What is asked of a worker that outlives its test. The defaults suit one that has no test."""

    #: Whether it is a thread of this process, and has changed what the process had.
    is_thread = False

    @property
    def serves_session(self) -> bool:
        """Whether it runs what session fixtures send."""
        return False

    def park(self) -> None:
        """As a test begins: leave its messages alone until it asks for the worker."""

    def serve_session_fixtures(self) -> None:
        """Before a test's fixtures are set up: consume, if a session fixture wants it."""

    def topology(self) -> Topology | None:
        """What it has declared in the broker in memory, which a clean broker keeps."""
        return None

    def stop(self) -> None:
        """End the worker, if there is one."""


def hold(worker: HeldWorker) -> None:
    """Have a worker asked from now on."""
    _held[worker] = None


def park_all() -> None:
    """Keep every worker from what the coming test publishes."""
    for worker in _held:
        worker.park()


def serve_session_fixtures() -> None:
    """Let the session's worker consume."""
    for worker in _held:
        worker.serve_session_fixtures()


def serves_session() -> bool:
    """Whether a worker runs what session fixtures send."""
    return any(worker.serves_session for worker in _held)


def kept_topology() -> Topology | None:
    """What a clean broker in memory keeps."""
    return next((kept for worker in _held if (kept := worker.topology()) is not None), None)


def stop_all() -> None:
    """End every worker, also where ending one of them fails."""
    with ExitStack() as stack:
        for worker in _held:
            stack.callback(worker.stop)


def stop_threads() -> None:
    """End those that are threads of this process; one of other processes changes nothing here."""
    with ExitStack() as stack:
        for worker in _held:
            if worker.is_thread:
                stack.callback(worker.stop)


def stop_others(than: HeldWorker) -> None:
    """End every worker but one: two of one name can't be on one broker."""
    for worker in _held:
        if worker is not than:
            worker.stop()
