"""``celery_live_worker``: ``celery -A proj worker`` in separate processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_djcelery.api.app import check_visible_to_workers, eager_mode_off, runner_set
from pytest_djcelery.messages.events import Warned
from pytest_djcelery.project.consumed_queues import named
from pytest_djcelery.recording.result_waits import WaitTimeoutError
from pytest_djcelery.session.opening import entered, entered_sandbox
from pytest_djcelery.session.runner import Runner
from pytest_djcelery.transactions.sent_in_transaction import warn
from pytest_djcelery.workers.live.posix import check_posix
from pytest_djcelery.workers.unfinished import (
    check_worker,
    check_worker_unless_reported,
    reported_situation,
)

if TYPE_CHECKING:
    from celery import Celery

    from pytest_djcelery.messages.sent_task import SentTask
    from pytest_djcelery.project.consumed_queues import ConsumedQueues
    from pytest_djcelery.session.sandbox import Sandbox
    from pytest_djcelery.workers.live.processes import LiveProcesses


class LiveWorker(Runner):
    """A running ``celery -A proj worker``, for what only separate processes show.

    Such are prefork itself, time limits, signals and start-up. The fixture ``celery_live_worker``
    and the context manager `live_worker` give one, over a broker that crosses processes and a
    test database that they can open. ``wait_until_idle()`` waits for its tasks, ``log`` is what it
    has logged.
    """

    name = "celery_live_worker"
    in_process = False
    processes: LiveProcesses
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
        """The names of the queues that it now consumes."""
        return self.processes.queues

    @property
    def log(self) -> str:
        """What the worker has logged since the test began."""
        return self.processes.log

    def wait_until_idle(self, timeout: float | None = None) -> None:
        """Wait until every message that is due has been run, but not for those with a later ETA.

        Args:
            timeout: Seconds to wait; by default the run's ``djcelery_timeout``.

        Raises:
            WaitTimeoutError: It is not idle in time; the text has the queues, what is running, and
                the end of the worker's log.
            WorkerError: The worker has ended, by itself or with messages left to run.
        """
        __tracebackhide__ = True
        seconds = self._sandbox.options.timeout if timeout is None else timeout
        idle = self._wait(seconds)
        check_worker(self._sandbox, self.processes)
        if not idle:
            msg = f"celery_live_worker is not idle after {seconds:g} s.\n{self.situation()}"
            raise WaitTimeoutError(msg)
        self._sandbox.unconsumed.waited()

    def settle(self) -> None:
        """Wait until everything due has run, up to the timeout.

        Raises:
            WorkerError: The worker has ended, and no error in the test has said so.
        """
        __tracebackhide__ = True
        self._wait(self._sandbox.options.timeout)
        check_worker_unless_reported(self._sandbox, self.processes)

    @property
    def has_ended(self) -> bool:
        return not self.processes.alive

    def consumes(self) -> ConsumedQueues:
        return self.consumed

    def receives(self, sent: SentTask) -> bool:
        if self.consumed.receives(sent):
            return True
        # Remote control may have added queues.
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
        return reported_situation(self, self.processes)

    def __repr__(self) -> str:
        return f"<celery_live_worker {self.processes.pid}>"


@entered
def live_worker(
    *,
    pool: str | None = None,
    concurrency: int | None = None,
    queues: Sequence[str] | None = None,
    loglevel: str | None = None,
) -> Iterator[LiveWorker]:
    """Have ``celery -A proj worker`` run the tasks of a part of a test; see `LiveWorker`.

    Arguments that are not given come from the options ``djcelery_live_…``. The processes may serve
    the next test that wants the same worker, and end with the run.

    Args:
        pool: ``"prefork"``, ``"threads"`` or ``"solo"``.
        concurrency: The number of child processes or threads.
        queues: The queues to consume; if empty, those that production's workers consume.
        loglevel: The level of the worker's log.

    Raises:
        BadOptionError: Celery's command line doesn't accept a value.
        FixtureConflictError: Another way to run tasks is in use, or the test is in a transaction
            whose rows no worker can see.
        WorkerError: This is Windows. Or it doesn't start, or can't open the test's databases, or a
            task still runs when the time for it is over.
        AppNotFoundError: The project has no app.
    """
    check_posix()
    # On Windows, what these import is not there.
    from pytest_djcelery.workers.live.process_reuse import live_processes_for
    from pytest_djcelery.workers.live.processes import LiveSettings

    with entered_sandbox() as sandbox:
        settings = LiveSettings.chosen(
            sandbox.options, pool=pool, concurrency=concurrency, queues=queues, loglevel=loglevel
        )
        consumed = sandbox.consumed
        if settings.queues:
            consumed = named(sandbox.app, settings.queues, "the queues of celery_live_worker")
        elif not consumed.stock:
            settings = replace(settings, queues=tuple(consumed.shown))
        running = sandbox.runner
        if isinstance(running, LiveWorker) and running.processes.settings == settings:
            yield running
            return
        runner = LiveWorker(sandbox)
        runner.consumed = consumed
        with ExitStack() as stack:
            stack.enter_context(runner_set(sandbox, runner))
            check_visible_to_workers(runner.name)
            stack.enter_context(eager_mode_off(sandbox))
            runner.processes = stack.enter_context(live_processes_for(sandbox, settings))
            _make_known(sandbox.app, consumed)
            yield runner


def _make_known(app: Celery, consumed: ConsumedQueues) -> None:
    """Make the exchanges that the worker has declared known in this process, as a server does.

    kombu's filesystem broker keeps the types of exchanges in the process that declares them.
    """
    from pytest_djcelery.brokers import filesystem

    exchanges = [queue.exchange for queue in consumed.queues if queue.exchange.type != "direct"]
    if exchanges and app.conf.broker_transport == filesystem.TRANSPORT:
        with app.connection_for_write() as connection:
            for exchange in exchanges:
                exchange(connection.default_channel).declare()
