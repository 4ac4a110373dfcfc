"""What ``celery_live_worker`` is in a test."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_djcelery.messages.journal import Warned
from pytest_djcelery.recording.result_waits import WaitTimeoutError
from pytest_djcelery.session.runner import Runner
from pytest_djcelery.transactions.race_detector import warn
from pytest_djcelery.workers import worker_ended as ended

if TYPE_CHECKING:
    from pytest_djcelery.messages.sent_task import SentTask
    from pytest_djcelery.project.consumed_queues import ConsumedQueues
    from pytest_djcelery.session.sandbox import Sandbox
    from pytest_djcelery.workers.live import processes as live_worker


class LiveWorker(Runner):
    """A running ``celery -A proj worker``, with processes of its own."""

    name = "celery_live_worker"
    processes: live_worker.LiveWorker
    consumed: ConsumedQueues

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._warned = 0

    @property
    def pid(self) -> int:
        """The process id of the worker's main process."""
        return self.processes.pid

    @property
    def queues(self) -> list[str]:
        """The names of the queues that it consumes from now."""
        return self.processes.queues

    @property
    def log(self) -> str:
        """What the worker has logged since the test began."""
        return self.processes.log

    def wait_until_idle(self, timeout: float | None = None) -> None:
        """Wait until every message that is due has been run; ETAs to come are not waited for.

        Args:
            timeout: seconds; the run's ``djcelery_timeout`` by default.

        Raises:
            WaitTimeoutError: with the queues, what is running, and the end of the worker's log.
            WorkerError: when the worker has ended, by itself or with messages left to run.
        """
        __tracebackhide__ = True
        seconds = self._sandbox.options.timeout if timeout is None else timeout
        idle = self._wait(seconds)
        ended.check(self._sandbox, self.processes)
        if not idle:
            msg = f"celery_live_worker is not idle after {seconds:g} s.\n{self.situation()}"
            raise WaitTimeoutError(msg)
        self._sandbox.unconsumed.waited()

    def settle(self) -> None:
        """Let all that is due run, as far as the time-out goes.

        Raises:
            WorkerError: when the worker has ended, and the test doesn't know it.
        """
        __tracebackhide__ = True
        self._wait(self._sandbox.options.timeout)
        ended.check_unless_told(self._sandbox, self.processes)

    @property
    def has_ended(self) -> bool:
        return not self.processes.alive

    def consumes(self) -> ConsumedQueues:
        return self.consumed

    def receives(self, sent: SentTask) -> bool:
        if self.consumed.receives(sent):
            return True
        # Remote control may have added to them; without an answer nothing is known.
        return "processes" in vars(self) and (
            not self.processes.alive or sent.queue in self.processes.queues
        )

    def _wait(self, seconds: float) -> bool:
        idle = self._sandbox.journal.wait_until(lambda: self.processes.idle, seconds)
        warned = list(self._sandbox.journal.events(Warned))
        for event in warned[self._warned :]:
            warn(event.text, event.location)
        self._warned = len(warned)
        return idle

    def situation(self) -> str:
        """Worker, queues and running tasks, in words, with the end of its log."""
        return ended.told_situation(self, self.processes)

    def __repr__(self) -> str:
        return f"<celery_live_worker {self.processes.pid}>"
