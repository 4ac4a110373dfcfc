"""One live worker for the process, lent to one test after another.

Between tests it stays, as long as the next one wants the same worker. A test that leaves it
otherwise than it was (a task that waits for its ETA, a limit set by remote control) ends it.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_djcelery.brokers import filesystem
from pytest_djcelery.brokers import servers as reachable
from pytest_djcelery.brokers.memory import addresses
from pytest_djcelery.errors import WorkerError
from pytest_djcelery.session.held import HeldWorker, hold, stop_others
from pytest_djcelery.session.session import current_session
from pytest_djcelery.workers import sqlite_files
from pytest_djcelery.workers import worker_ended as ended
from pytest_djcelery.workers.live.environment import Handover
from pytest_djcelery.workers.live.processes import LiveSettings, LiveWorker
from pytest_djcelery.workers.unfinished import outstanding

if TYPE_CHECKING:
    from pytest_djcelery.session.sandbox import Sandbox


class _Held(HeldWorker):
    """The worker, and those that are on their way out."""

    worker: LiveWorker | None = None

    def __init__(self) -> None:
        self.ending: list[threading.Thread] = []

    def stop(self, *, wait: bool = True) -> None:
        """Stop the worker, if there is one.

        Args:
            wait: until it and those that were stopped before have ended; a pool takes its time,
                in which another worker may start.
        """
        worker, self.worker = self.worker, None
        if worker is not None:
            ending = threading.Thread(target=worker.stop, name="djcelery-live-stop", daemon=True)
            ending.start()
            self.ending.append(ending)
        while wait and self.ending:
            self.ending.pop().join()


_held = _Held()


@contextmanager
def lent(sandbox: Sandbox, settings: LiveSettings) -> Iterator[LiveWorker]:
    """A worker that runs the messages of a test for a block.

    Raises:
        WorkerError: when it doesn't start, or a task still runs when its time is over.
    """
    with ExitStack() as stack:
        worker = _suitable(sandbox, settings, stack) or _started(sandbox, settings, stack)
        stack.enter_context(sqlite_files.waited_for(sandbox.options.timeout))
        worker.serve(sandbox.journal)
        try:
            yield worker
        except KeyboardInterrupt:
            _end(worker)
            raise
        finally:
            if _held.worker is worker:
                _give_back(sandbox, worker)


def _suitable(sandbox: Sandbox, settings: LiveSettings, stack: ExitStack) -> LiveWorker | None:
    """The worker that is held, if it is what the test wants."""
    worker = _held.worker
    if worker is None or worker.settings != settings:
        return None
    with ExitStack() as trial:
        trial.enter_context(_crossing_processes(sandbox, worker.folder))
        if worker.handover == Handover.of(sandbox) and worker.unpark(sandbox.app):
            stack.push(trial.pop_all())
            return worker
    return None


def _started(sandbox: Sandbox, settings: LiveSettings, stack: ExitStack) -> LiveWorker:
    """A new worker."""
    _held.stop(wait=not _by_itself(sandbox))
    hold(_held)
    folder = Path(tempfile.mkdtemp(prefix="djcelery-"))
    try:
        stack.enter_context(_crossing_processes(sandbox, folder))
        if not _by_itself(sandbox):
            stop_others(_held)  # two workers of one name can't be on one broker
            reachable.check(sandbox.app)
        handover = Handover.of(sandbox)
        if settings.pool == "prefork":
            from pytest_djcelery.workers.database import warn_of_shared_connections

            warn_of_shared_connections()
        worker = LiveWorker(handover, settings, folder=folder, timeout=sandbox.options.timeout)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    try:
        worker.start()
    except BaseException:
        worker.stop()
        raise
    _held.worker = worker
    return worker


@contextmanager
def _crossing_processes(sandbox: Sandbox, folder: Path) -> Iterator[None]:
    """Where broker and results are in memory: a folder that both processes can open."""
    values: dict[str, Any] = {}
    if sandbox.project.broker is not None:
        values |= filesystem.settings(folder)
    if sandbox.app.conf.result_backend in addresses.BACKENDS:
        results = folder / "results"
        results.mkdir(exist_ok=True)
        values["result_backend"] = f"{filesystem.BACKEND}+file://{results}"
    with sandbox.project.configuration.override(**values):
        yield


def _by_itself(sandbox: Sandbox) -> bool:
    """Whether a worker has its broker for itself, so that nothing it does later is seen."""
    conf = sandbox.app.conf
    return sandbox.project.broker is not None or conf.broker_transport == filesystem.TRANSPORT


def _give_back(sandbox: Sandbox, worker: LiveWorker) -> None:
    __tracebackhide__ = True
    if current_session().interrupted:
        _end(worker)
        return
    idle = sandbox.journal.wait_until(lambda: worker.idle, sandbox.options.timeout)
    if not worker.alive:
        _end(worker)
        ended.check_unless_told(sandbox, worker)
        return
    stuck = "" if idle else worker.situation()
    reusable = (
        idle
        and not outstanding(sandbox.journal, worker.queues, later=True)
        and worker.as_started
        and (_by_itself(sandbox) or worker.park(sandbox.app))
    )
    worker.leave()
    if reusable:
        worker.empty()
    else:
        _held.stop(wait=not idle or not _by_itself(sandbox))
    if stuck:
        msg = (
            f"A task still runs {sandbox.options.timeout:g} s after the test; {stuck}\n"
            "The worker was ended; the next test starts a new one. "
            "Wait for the task in the test, or raise djcelery_timeout."
        )
        raise WorkerError(msg)


def _end(worker: LiveWorker) -> None:
    """End a worker that is held, whatever it does."""
    _held.worker = None
    worker.stop(warmly=False)


def stop() -> None:
    """Stop the held worker, if there is one, and wait until all have ended."""
    _held.stop()
