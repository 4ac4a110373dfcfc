"""``celery -A proj worker`` in processes of its own, lent to one test after another.

Between tests it stays, as long as the next one wants the same worker. A test that leaves it
otherwise than it was (a task that waits for its ETA, a limit set by remote control) ends it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from pytest_djcelery import addresses, options, reachable
from pytest_djcelery.brokers import filesystem
from pytest_djcelery.deadlines import Deadline
from pytest_djcelery.errors import WorkerError
from pytest_djcelery.workers import lease, sqlite_files
from pytest_djcelery.workers.handover import Handover
from pytest_djcelery.workers.link import KEY, Ear
from pytest_djcelery.workers.outstanding import outstanding

if TYPE_CHECKING:
    from celery import Celery

    from pytest_djcelery.journal import Event, Journal
    from pytest_djcelery.options import Options
    from pytest_djcelery.scope import Scope

_START: Final = 30.0  # seconds; the imports of a project can take many
_LAST_LINES: Final = 40
_PAUSE: Final = 0.005  # seconds
_PATIENCE: Final = 0.2  # seconds from the last event of a task until its worker is done with it


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSettings:
    """How to start the worker: options of ``celery worker``."""

    pool: str = "prefork"
    concurrency: int = 2
    queues: tuple[str, ...] = ()
    loglevel: str = "INFO"

    @classmethod
    def chosen(cls, run: Options, **given: Any) -> LiveSettings:
        """What a test gives, and the options of the run for the rest.

        Raises:
            BadOptionError: for a value that Celery's command line doesn't take.
        """
        checks = {
            "pool": options.pool,
            "concurrency": options.concurrency,
            "queues": options.queues,
            "loglevel": options.loglevel,
        }
        values: dict[str, Any] = {
            name: check(f"celery_live_worker({name}=…)", given[name])
            if given.get(name) is not None
            else getattr(run, f"live_{name}")
            for name, check in checks.items()
        }
        return cls(**values)

    def arguments(self) -> list[str]:
        """What stands after ``celery -A proj``."""
        queues = ["-Q", ",".join(self.queues)] if self.queues else []
        return [
            "worker", "-l", self.loglevel, "-P", self.pool, "-c", str(self.concurrency), *queues,
            # There is no other worker to hear of.
            "--without-mingle", "--without-gossip",
        ]  # fmt: skip


class LiveWorker:
    """The worker's processes, and what can be asked of them.

    Args:
        handover: the test's world.
        settings: how to start it.
        folder: its own, for its log and its line to the test; removed when it has ended.
        timeout: seconds for an answer, and for its end.
    """

    def __init__(
        self, handover: Handover, settings: LiveSettings, *, folder: Path, timeout: float
    ) -> None:
        self.handover = handover
        self.settings = settings
        self.timeout = timeout
        self.folder = folder
        self.journal: Journal | None = None  # of the test that it serves
        self.log_file = folder / "worker.log"
        self._log_seen = 0
        self._handover_file = folder / "handover"
        self._ear = Ear(str(folder / "line"), heard=self._heard)
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = threading.Event()
        self._as_started: dict[str, Any] = {}

    def start(self) -> None:
        """Start it and wait until it consumes.

        Raises:
            WorkerError: when it ends before, or takes longer than 30 seconds (or the run's
                ``djcelery_timeout``, if that is more), with the end of its log.
        """
        self.handover.write(self._handover_file)
        module = "pytest_djcelery.workers.live_process"
        command = [sys.executable, "-m", module, str(self._handover_file), self._ear.address]
        command += ["-A", self.handover.app, *self.settings.arguments()]
        with self.log_file.open("wb") as log:
            self._process = process = subprocess.Popen(  # noqa: S603 - the project's own worker
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, KEY: self._ear.key.hex()},
                start_new_session=True,  # Ctrl-C is the test's, and all of it ends together
            )
        watch = threading.Thread(
            target=self._watch, args=(process.pid,), name="djcelery-live-watch", daemon=True
        )
        watch.start()
        seconds = max(_START, self.timeout)
        state = self._ear.answer(seconds)
        if state is None:
            what = f"was not ready after {seconds:g} s"
            if self._ended.is_set():
                what = f"ended with exit code {process.wait()} before it was ready"
            msg = f"The live worker {what}. {self._started_as()}\n{self._last_lines()}"
            raise WorkerError(msg)
        self._as_started = state

    def _watch(self, pid: int) -> None:
        """Wait for the end of the main process, and leave it to others to collect it."""
        with suppress(ChildProcessError):  # it has been collected
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        self._ended.set()
        self._ear.give_up()
        if self.journal is not None:
            self.journal.wake()

    def stop(self) -> None:
        """End all its processes: warmly, and after the time-out without mercy."""
        process = self._process
        if process is not None:
            if not self._ended.is_set():
                process.send_signal(signal.SIGTERM)
                self._ended.wait(self.timeout)
            # Whatever it forked and left behind; on macOS the dead are not permitted.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._ear.close()
        filesystem.forget(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)

    def park(self, app: Celery) -> bool:
        """Leave the messages of a shared broker alone, if it can be told to in time."""
        return self._consume(app.control.cancel_consumer, [])

    def unpark(self, app: Celery) -> bool:
        """Consume again, if it was told not to; whether it is then as it was started."""
        missing = set(self._as_started["queues"]) - set(self.queues)
        if missing:
            self._consume(app.control.add_consumer, self._as_started["queues"])
        return self.as_started

    def _consume(self, tell: Callable[..., Any], queues: list[str]) -> bool:
        """Have it consume from these queues and no others, by remote control."""
        for queue in set(queues) ^ set(self.queues):
            try:
                tell(queue, reply=True, limit=1, timeout=self.timeout)
            except Exception:  # noqa: BLE001 - such as a serializer that it may not read
                return False  # so it is ended, and not kept
        deadline = Deadline(self.timeout)
        # It answers before it does what it was told.
        while self.queues != queues and not deadline.passed:
            self._ended.wait(_PAUSE)
        return self.queues == queues

    def empty(self) -> None:
        """Drop the messages and results of the last test."""
        for part in ("messages", "processed", "results"):
            for path in (self.folder / part).glob("*"):
                path.unlink(missing_ok=True)

    @property
    def pid(self) -> int:
        """The process id of the worker's main process; 0 before it is started."""
        return self._process.pid if self._process is not None else 0

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return not self._ended.is_set()

    def serve(self, journal: Journal) -> None:
        """Tell what happens to the journal of a test."""
        self.journal = journal
        self._log_seen = self.log_file.stat().st_size

    def _heard(self, event: Event) -> None:
        if self.journal is not None:
            self.journal.append(event)

    @property
    def log(self) -> str:
        """What it has logged since the test began."""
        with self.log_file.open("rb") as file:
            file.seek(self._log_seen)
            return file.read().decode(errors="replace")

    @property
    def idle(self) -> bool:
        """Whether nothing is ready, on its way or running; what waits for its ETA is not."""
        if not self.alive or self.journal is None:
            return True
        if outstanding(self.journal, self._as_started["queues"]):
            return False
        state = self._ear.ask(self.timeout, patience=_PATIENCE)
        return state is None or not (state["busy"] or outstanding(self.journal, state["queues"]))

    @property
    def as_started(self) -> bool:
        """Whether the next test would find it as it was started."""
        return self.alive and self._ear.ask(self.timeout) == self._as_started

    @property
    def queues(self) -> list[str]:
        """The queues that it consumes from."""
        queues: list[str] = (self._ear.ask(self.timeout) or self._as_started)["queues"]
        return queues

    def situation(self) -> str:
        """Worker, queues and running tasks, in words."""
        if not self.alive:
            return f"The live worker has ended. {self._started_as()}\n{self._last_lines()}"
        state = self._ear.ask(self.timeout)
        if state is None:
            return f"The live worker does not answer.\n{self._last_lines()}"
        busy = ", ".join(state["busy"]) or "no task is running"
        lines = [f"The live worker consumes from: {', '.join(state['queues'])}; running: {busy}."]
        if state["scheduled"]:
            lines.append(f"{state['scheduled']} task(s) wait for their ETA.")
        return "\n".join([*lines, self._last_lines()])

    def _started_as(self) -> str:
        return f"It was started as: celery -A {self.handover.app} " + " ".join(
            self.settings.arguments()
        )

    def _last_lines(self) -> str:
        lines = self.log_file.read_text(errors="replace").splitlines()[-_LAST_LINES:]
        return "\n".join(["The end of its log:", *(f"  {line}" for line in lines)])


class _Held:
    worker: LiveWorker | None = None
    ending: ClassVar[list[threading.Thread]] = []


@contextmanager
def lent(scope: Scope, settings: LiveSettings) -> Iterator[LiveWorker]:
    """A worker that runs the messages of a test for a block.

    Raises:
        WorkerError: when it doesn't start, or a task still runs when its time is over.
    """
    with ExitStack() as stack:
        worker = _held(scope, settings, stack) or _started(scope, settings, stack)
        stack.enter_context(sqlite_files.waited_for(scope.options.timeout))
        worker.serve(scope.journal)
        try:
            yield worker
        finally:
            _give_back(scope, worker)


def _held(scope: Scope, settings: LiveSettings, stack: ExitStack) -> LiveWorker | None:
    """The worker that is held, if it is what the test wants."""
    worker = _Held.worker
    if worker is None or worker.settings != settings:
        return None
    with ExitStack() as trial:
        trial.enter_context(_crossing_processes(scope, worker.folder))
        if worker.handover == Handover.of(scope) and worker.unpark(scope.app):
            stack.push(trial.pop_all())
            return worker
    return None


def _started(scope: Scope, settings: LiveSettings, stack: ExitStack) -> LiveWorker:
    """A new worker."""
    stop(wait=not _by_itself(scope))
    folder = Path(tempfile.mkdtemp(prefix="djcelery-"))
    try:
        stack.enter_context(_crossing_processes(scope, folder))
        if not _by_itself(scope):
            lease.stop()  # two workers of one name can't be on one broker
            reachable.check(scope.app)
        handover = Handover.of(scope)
        worker = LiveWorker(handover, settings, folder=folder, timeout=scope.options.timeout)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    try:
        worker.start()
    except BaseException:
        worker.stop()
        raise
    _Held.worker = worker
    return worker


@contextmanager
def _crossing_processes(scope: Scope, folder: Path) -> Iterator[None]:
    """Where broker and results are in memory: a folder that both processes can open."""
    values: dict[str, Any] = {}
    if scope.project.broker is not None:
        values |= filesystem.settings(folder)
    if scope.app.conf.result_backend == addresses.BACKEND:
        results = folder / "results"
        results.mkdir(exist_ok=True)
        values["result_backend"] = f"{addresses.FOLDER_BACKEND}+file://{results}"
    with scope.project.configuration.override(**values):
        yield


def _by_itself(scope: Scope) -> bool:
    """Whether a worker has its broker for itself, so that nothing it does later is seen."""
    conf = scope.app.conf
    return scope.project.broker is not None or conf.broker_transport == filesystem.TRANSPORT


def _give_back(scope: Scope, worker: LiveWorker) -> None:
    idle = scope.journal.wait_until(lambda: worker.idle, scope.options.timeout)
    stuck = "" if idle else worker.situation()
    reusable = (
        idle
        and not outstanding(scope.journal, worker.queues, later=True)
        and worker.as_started
        and (_by_itself(scope) or worker.park(scope.app))
    )
    worker.journal = None
    if reusable:
        worker.empty()
    else:
        stop(wait=not idle or not _by_itself(scope))
    if stuck:
        msg = (
            f"A task still runs {scope.options.timeout:g} s after the test; {stuck}\n"
            "The worker was ended; the next test starts a new one. "
            "Wait for the task in the test, or raise djcelery_timeout."
        )
        raise WorkerError(msg)


def stop(*, wait: bool = True) -> None:
    """Stop the worker that is held, if there is one.

    Args:
        wait: until it and those that were stopped before have ended; a pool takes its time, in
            which another worker may start.
    """
    worker, _Held.worker = _Held.worker, None
    if worker is not None:
        ending = threading.Thread(target=worker.stop, name="djcelery-live-stop", daemon=True)
        ending.start()
        _Held.ending.append(ending)
    while wait and _Held.ending:
        _Held.ending.pop().join()
