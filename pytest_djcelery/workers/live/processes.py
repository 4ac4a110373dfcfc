"""``celery -A proj worker``: its processes, how they are started, asked and ended."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_djcelery import options
from pytest_djcelery.brokers import filesystem
from pytest_djcelery.clock import Deadline
from pytest_djcelery.errors import WorkerError
from pytest_djcelery.messages.events import FaultFired, Note, WorkerLost
from pytest_djcelery.workers.live import losing
from pytest_djcelery.workers.live.connection import KEY, TestEnd
from pytest_djcelery.workers.unfinished import outstanding

if TYPE_CHECKING:
    from celery import Celery

    from pytest_djcelery.messages.events import Event
    from pytest_djcelery.messages.journal import Journal
    from pytest_djcelery.options import Options
    from pytest_djcelery.workers.live.environment import Environment

_START: Final = 30.0  # seconds; the imports of a project can take many
_LAST_LINES: Final = 40
_PAUSE: Final = 0.005  # seconds
_PATIENCE: Final = 0.2  # seconds a worker may take to finish after the last event of a task


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSettings:
    """How to start the worker: options of ``celery worker``."""

    pool: str = "prefork"
    concurrency: int = 2
    queues: tuple[str, ...] = ()
    loglevel: str = "INFO"

    @classmethod
    def chosen(cls, run: Options, **given: Any) -> LiveSettings:
        """The settings that a test gives, completed by the options of the run.

        Raises:
            BadOptionError: Celery's command line doesn't accept a value.
        """
        checks: dict[str, Callable[[str, object], Any]] = {
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
        """The command line after ``celery -A proj``."""
        queues = ["-Q", ",".join(self.queues)] if self.queues else []
        return [
            "worker", "-l", self.loglevel, "-P", self.pool, "-c", str(self.concurrency), *queues,
            # There is no other worker to synchronize with.
            "--without-mingle", "--without-gossip",
        ]  # fmt: skip


class LiveProcesses:
    """The processes of a live worker.

    Args:
        environment: The environment of the test.
        settings: How to start the worker.
        folder: A folder for its log and its socket, which is removed when the worker has ended.
        timeout: Seconds that an answer may take, and the worker's end.
    """

    def __init__(
        self, environment: Environment, settings: LiveSettings, *, folder: Path, timeout: float
    ) -> None:
        self.environment = environment
        self.settings = settings
        self.timeout = timeout
        self.folder = folder
        self.journal: Journal | None = None  # of the test that it serves
        self._past: set[str] = set()  # the ids of the previous test's messages
        self.log_file = folder / "worker.log"
        self._log_seen = 0
        self._environment_file = folder / "environment"
        self._connection = TestEnd(str(folder / "line"), on_event=self._record)
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = threading.Event()
        #: Has the broker give back, at once, the messages of these ids, which a lost worker held.
        self.give_back: Callable[[set[str]], None] = lambda _: None
        # Its exit code and its log say more than any exception.
        self.error: BaseException | None = None
        self._as_started: dict[str, Any] = {}
        self._kills: dict[int, tuple[losing.Kill, Callable[[str | None], object]]] = {}
        self._replacing = False  # a lost one by another

    def start(self) -> None:
        """Start it and wait until it consumes.

        Raises:
            WorkerError: It ends before that, or takes longer than 30 seconds (or the run's
                ``djcelery_timeout``, if that is more). The text has the end of its log.
        """
        self.environment.write(self._environment_file)
        self._launch()

    def _launch(self) -> None:
        module = "pytest_djcelery.workers.live.entry_point"
        command = [
            sys.executable,
            "-m",
            module,
            str(self._environment_file),
            self._connection.address,
        ]
        command += ["-A", self.environment.app, *self.settings.arguments()]
        with self.log_file.open("ab") as log:
            self._process = process = subprocess.Popen(  # noqa: S603 - the project's own worker
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, KEY: self._connection.key.hex()},
                start_new_session=True,  # Ctrl-C only reaches the test, and it ends as a group
            )
        watch = threading.Thread(
            target=self._watch,
            args=(process.pid, self._ended),
            name="djcelery-live-watch",
            daemon=True,
        )
        watch.start()
        seconds = max(_START, self.timeout)
        state = self._connection.answer(seconds)
        if state is None:
            what = f"was not ready after {seconds:g} s"
            if self._ended.is_set():
                what = f"ended with exit code {process.wait()} before it was ready"
            msg = f"The live worker {what}. {self._started_as()}\n{self._last_lines()}"
            raise WorkerError(msg)
        self._as_started = state

    def _watch(self, pid: int, ended: threading.Event) -> None:
        """Wait for the end of the main process, without reaping it."""
        if hasattr(os, "waitid"):
            with suppress(ChildProcessError):  # it has been reaped
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        elif self._process is not None:  # macOS before Python 3.13
            self._process.wait()
        ended.set()
        if ended is not self._ended:  # another process takes its place
            return
        self._connection.give_up()
        if self.journal is not None:
            self.journal.wake()

    def stop(self, *, warmly: bool = True) -> None:
        """End all its processes.

        Args:
            warmly: Give running tasks the time of the timeout to end, then kill what is left.
        """
        process = self._process
        if process is not None:
            if warmly and not self._ended.is_set():
                process.send_signal(signal.SIGTERM)
                self._ended.wait(self.timeout)
            # Kill whatever it forked and left behind; macOS refuses to signal a dead process.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._connection.close()
        filesystem.forget(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)

    def park(self, app: Celery) -> bool:
        """Have it leave a shared broker's messages alone, and return whether it did in time."""
        return self._consume(app.control.cancel_consumer, [])

    def unpark(self, app: Celery) -> bool:
        """Have it consume again, if parked, and return whether it is then as it was started."""
        missing = set(self._as_started["queues"]) - set(self.queues)
        if missing:
            self._consume(app.control.add_consumer, self._as_started["queues"])
        return self.as_started

    def _consume(self, command: Callable[..., Any], queues: list[str]) -> bool:
        """Have it consume exactly these queues, by remote control, and return whether it does."""
        for queue in set(queues) ^ set(self.queues):
            try:
                command(queue, reply=True, limit=1, timeout=self.timeout)
            except Exception:  # noqa: BLE001 - such as a serializer that it may not read
                return False  # so it will be ended rather than kept
        deadline = Deadline(self.timeout)
        # It answers before it has followed the command.
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

    @property
    def ended_as_asked(self) -> bool:
        """Whether it has ended because remote control or a signal asked it to."""
        return not self.alive and self._exit_code == 0

    @property
    def consumed(self) -> list[str]:
        """The names of the queues that it was started for."""
        queues: list[str] = self._as_started["queues"]
        return queues

    @property
    def _exit_code(self) -> int | None:
        return self._process.wait() if self._process is not None and not self.alive else None

    def serve(self, journal: Journal) -> None:
        """Report to the journal of a test from now on."""
        self.journal = journal
        self._log_seen = self.log_file.stat().st_size

    def leave(self) -> None:
        """Report nothing until the next test, and nothing about this test's messages after that."""
        if self.journal is not None:
            self._past = {event.message.id for event in self.journal.published()}
        self.journal = None

    def set_kill(self, kill: losing.Kill, happens: Callable[[str | None], object]) -> None:
        """Have a process of the worker killed where a test says.

        Args:
            kill: Where.
            happens: Called with the id of the task, before its process is killed.

        Raises:
            TypeError: It can't be sent to the process.
        """
        self._kills[kill.number] = kill, happens
        try:
            self._write_kills()
        except TypeError:
            self.end_kill(kill.number)
            raise

    def end_kill(self, number: int) -> None:
        """Keep it from happening again."""
        self._kills.pop(number, None)
        self._write_kills()

    def _write_kills(self) -> None:
        if self.folder.exists():
            losing.write(self.folder, [kill for kill, _ in self._kills.values()])

    def _kills_now(self, event: FaultFired) -> None:
        kill, happens = self._kills.get(event.fault, (None, None))
        if kill is None or happens is None or self.journal is None or event.task_id is None:
            return
        happens(event.task_id)
        if kill.host:
            self._replace(event.task_id)
        else:
            self.journal.append(WorkerLost(task_id=event.task_id, host=False))

    def _replace(self, task_id: str) -> None:
        """Kill the whole worker; the broker gives another one what it had not acknowledged."""
        self._replacing = True
        try:
            held = self._held(task_id)
            process, self._ended = self._process, threading.Event()
            if process is not None:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            journal = self.journal
            for lost, (acknowledged, _) in held.items():
                if journal is not None and (lost == task_id or acknowledged):
                    event = WorkerLost(task_id=lost, host=True, acknowledged=acknowledged)
                    journal.append(event)
            self.give_back({id_ for id_, (acknowledged, _) in held.items() if not acknowledged})
            self._launch()
        except BaseException as error:  # noqa: BLE001 - for the test, when it next looks
            self.error = error
            self._ended.set()
        finally:
            self._replacing = False
            if self.journal is not None:
                self.journal.wake()

    def _held(self, task_id: str) -> dict[str, tuple[bool, bool]]:
        """What the worker holds, once it has acknowledged a task that runs, if it does so early."""
        deadline = Deadline(self.timeout)
        while not deadline.passed:
            state = self._connection.ask(self.timeout) or {"held": {}}
            acknowledged, late = state["held"].get(task_id, (False, False))
            if acknowledged or late:
                return dict(state["held"])
            self._ended.wait(_PAUSE)
        return {}

    def _record(self, event: Event) -> None:
        if isinstance(event, FaultFired):
            self._kills_now(event)
            return
        journal = self.journal
        # A pool that has killed a child process may still report on the task that it ran.
        if journal is not None and getattr(event, "task_id", None) not in self._past:
            if isinstance(event, Note):
                journal.note(event)
            else:
                journal.append(event)

    @property
    def log(self) -> str:
        """What it has logged since the test began."""
        with self.log_file.open("rb") as file:
            file.seek(self._log_seen)
            return file.read().decode(errors="replace")

    @property
    def idle(self) -> bool:
        """Whether no message is ready, on its way or running; those with an ETA don't count."""
        if self._replacing:
            return False
        if not self.alive or self.journal is None:
            return True
        if outstanding(self.journal, self.consumed):
            return False
        state = self._connection.ask(self.timeout, patience=_PATIENCE)
        if state is None:  # it hangs, or is about to end, which wakes the wait
            return False
        return not (state["busy"] or outstanding(self.journal, state["queues"]))

    @property
    def as_started(self) -> bool:
        """Whether the next test would find it as it was started."""
        return self.alive and self._connection.ask(self.timeout) == self._as_started

    @property
    def queues(self) -> list[str]:
        """The queues that it consumes from."""
        queues: list[str] = (self._connection.ask(self.timeout) or self._as_started)["queues"]
        return queues

    def situation(self) -> str:
        """Worker, queues and running tasks, in words."""
        if not self.alive:
            return (
                f"The live worker has ended with {self._exit_text()}. {self._started_as()}\n"
                f"{self._last_lines()}"
            )
        state = self._connection.ask(self.timeout)
        if state is None:
            return f"The live worker does not answer.\n{self._last_lines()}"
        busy = ", ".join(state["busy"]) or "no task is running"
        lines = [f"The live worker consumes from: {', '.join(state['queues'])}; running: {busy}."]
        if state["scheduled"]:
            lines.append(f"{state['scheduled']} task(s) wait for their ETA.")
        return "\n".join([*lines, self._last_lines()])

    def _exit_text(self) -> str:
        code = self._exit_code
        if code is not None and code < 0:
            return f"exit code {code} ({signal.Signals(-code).name})"
        return f"exit code {code}{', as it was asked to' if code == 0 else ''}"

    def _started_as(self) -> str:
        return f"It was started as: celery -A {self.environment.app} " + " ".join(
            self.settings.arguments()
        )

    def _last_lines(self) -> str:
        lines = self.log_file.read_text(errors="replace").splitlines()[-_LAST_LINES:]
        return "\n".join(["The end of its log:", *(f"  {line}" for line in lines)])
