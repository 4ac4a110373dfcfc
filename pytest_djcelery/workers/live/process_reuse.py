"""One live worker for the process, used by one test after another.

It is kept between tests as long as the next one wants the same worker. It is ended after a test
that leaves it changed (a task that waits for its ETA, a limit set by remote control).
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_djcelery.brokers import filesystem, servers
from pytest_djcelery.brokers.memory import addresses
from pytest_djcelery.errors import WorkerError
from pytest_djcelery.session.runner import KeptWorker, keep, stop_others
from pytest_djcelery.session.session import current_session
from pytest_djcelery.workers import sqlite
from pytest_djcelery.workers.database import warn_of_shared_connections
from pytest_djcelery.workers.live.environment import Environment
from pytest_djcelery.workers.live.processes import LiveProcesses, LiveSettings
from pytest_djcelery.workers.unfinished import check_worker_unless_reported, outstanding

if TYPE_CHECKING:
    from pytest_djcelery.session.sandbox import Sandbox


class _Kept(KeptWorker):
    """The live worker that is kept, and the threads in which earlier ones are being stopped."""

    worker: LiveProcesses | None = None

    def __init__(self) -> None:
        self.ending: list[threading.Thread] = []

    def stop(self, *, wait: bool = True) -> None:
        """Stop the worker, if there is one.

        Args:
            wait: Whether to wait until it, and those stopped before it, have ended. A pool takes a
                while to end, and another worker may start meanwhile.
        """
        worker, self.worker = self.worker, None
        if worker is not None:
            ending = threading.Thread(target=worker.stop, name="djcelery-live-stop", daemon=True)
            ending.start()
            self.ending.append(ending)
        while wait and self.ending:
            self.ending.pop().join()


_kept = _Kept()


@contextmanager
def live_processes_for(sandbox: Sandbox, settings: LiveSettings) -> Iterator[LiveProcesses]:
    """Have a worker that runs the messages of a test within the ``with``.

    Raises:
        WorkerError: It doesn't start, or a task still runs when the time for it is over.
    """
    with ExitStack() as stack:
        worker = _suitable(sandbox, settings, stack) or _started(sandbox, settings, stack)
        stack.enter_context(sqlite.waiting_for_other_processes(sandbox.options.timeout))
        worker.serve(sandbox.journal)
        worker.give_back = partial(_give_back_messages, sandbox, worker.folder)
        try:
            yield worker
        except KeyboardInterrupt:
            _end(worker)
            raise
        finally:
            if _kept.worker is worker:
                _give_back(sandbox, worker)


def _suitable(sandbox: Sandbox, settings: LiveSettings, stack: ExitStack) -> LiveProcesses | None:
    """The kept worker, if it is what the test wants."""
    worker = _kept.worker
    if worker is None or worker.settings != settings:
        return None
    with ExitStack() as trial:
        trial.enter_context(_in_memory_moved_to(sandbox, worker.folder))
        if worker.environment == Environment.of(sandbox) and worker.unpark(sandbox.app):
            stack.push(trial.pop_all())
            return worker
    return None


def _started(sandbox: Sandbox, settings: LiveSettings, stack: ExitStack) -> LiveProcesses:
    """Start a new worker."""
    _kept.stop(wait=not _has_private_broker(sandbox))
    keep(_kept)
    folder = Path(tempfile.mkdtemp(prefix="djcelery-"))
    try:
        stack.enter_context(_in_memory_moved_to(sandbox, folder))
        if not _has_private_broker(sandbox):
            stop_others(_kept)  # two workers of one name can't be on one broker
            servers.check_broker(sandbox.app)
        environment = Environment.of(sandbox)
        if settings.pool == "prefork":
            warn_of_shared_connections()
        worker = LiveProcesses(
            environment, settings, folder=folder, timeout=sandbox.options.timeout
        )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    try:
        worker.start()
    except BaseException:
        worker.stop()
        raise
    _kept.worker = worker
    return worker


@contextmanager
def _in_memory_moved_to(sandbox: Sandbox, folder: Path) -> Iterator[None]:
    """Move a broker and results in memory to a folder that both processes can open."""
    values: dict[str, Any] = {}
    if sandbox.project.broker is not None:
        values |= filesystem.settings(folder)
    if sandbox.app.conf.result_backend in addresses.BACKENDS:
        results = folder / "results"
        results.mkdir(exist_ok=True)
        values["result_backend"] = f"{filesystem.BACKEND}+file://{results}"
    with sandbox.project.configuration.override(**values):
        yield


def _give_back_messages(sandbox: Sandbox, folder: Path, ids: set[str]) -> None:
    """Have the broker give back what a lost worker held, at once.

    RabbitMQ does so itself as the connection ends. Redis waits for its visibility timeout.
    """
    if sandbox.app.conf.broker_transport == filesystem.TRANSPORT:
        filesystem.give_back(folder, ids)
        return
    with sandbox.app.connection_for_read() as connection:
        channel: Any = connection.default_channel
        if connection.transport.driver_type == "redis":
            channel.visibility_timeout = 0
            channel.qos.restore_visible(num=1000)


def _has_private_broker(sandbox: Sandbox) -> bool:
    """Whether no other worker uses its broker, so that it affects nothing while it ends."""
    conf = sandbox.app.conf
    return sandbox.project.broker is not None or conf.broker_transport == filesystem.TRANSPORT


def _give_back(sandbox: Sandbox, worker: LiveProcesses) -> None:
    __tracebackhide__ = True
    if current_session().interrupted:
        _end(worker)
        return
    idle = sandbox.journal.wait_until(lambda: worker.idle, sandbox.options.timeout)
    if not worker.alive:
        _end(worker)
        check_worker_unless_reported(sandbox, worker)
        return
    stuck = "" if idle else worker.situation()
    reusable = (
        idle
        and not outstanding(sandbox.journal, worker.queues, later=True)
        and worker.as_started
        and (_has_private_broker(sandbox) or worker.park(sandbox.app))
    )
    worker.leave()
    if reusable:
        worker.empty()
    else:
        _kept.stop(wait=not idle or not _has_private_broker(sandbox))
    if stuck:
        msg = (
            f"A task still runs {sandbox.options.timeout:g} s after the test; {stuck}\n"
            "The worker was ended; the next test starts a new one. "
            "Wait for the task in the test, or raise djcelery_timeout."
        )
        raise WorkerError(msg)


def _end(worker: LiveProcesses) -> None:
    """End the kept worker, whatever it is doing."""
    _kept.worker = None
    worker.stop(warmly=False)


def stop() -> None:
    """Stop the kept worker, if there is one, and wait until all have ended."""
    _kept.stop()
