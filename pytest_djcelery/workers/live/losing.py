"""Has a process of a live worker kill itself where a test says, by a signal that nothing survives.

The test writes its faults into a file in the worker's folder; each child looks for it as it begins
a task. How often a fault has happened is counted by files that only one process can create.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from celery import signals

from pytest_djcelery.messages.arguments import bound_call
from pytest_djcelery.messages.events import FaultFired
from pytest_djcelery.messages.wire import equal
from pytest_djcelery.recording.task_bodies import CallSite, body_wrapped

if TYPE_CHECKING:
    from celery import Celery

    from pytest_djcelery.messages.events import Event
    from pytest_djcelery.recording.task_bodies import OnCall

_FILE: Final = "faults"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """A kill that a test has asked for.

    ``number`` is that of the fault, ``text`` the call that set it. ``at`` is ``"start"``,
    ``"end"`` or a function. ``call`` are the arguments that a run has to have, if that matters.
    """

    number: int
    text: str
    task: str
    at: Any
    host: bool
    times: int | None
    call: tuple[Sequence[Any], Mapping[str, Any]] | None


def write(folder: Path, kills: Sequence[Kill]) -> None:
    """Tell the processes of a worker which kills there are to be.

    Raises:
        TypeError: A function, or an argument, can't be sent to another process.
    """
    path = folder / _FILE
    if not kills:
        path.unlink(missing_ok=True)
        return
    try:
        data = pickle.dumps(kills)
    except Exception as error:
        raise TypeError(f"{type(error).__name__}: {error}") from error
    unfinished = folder / f"{_FILE}.part"
    unfinished.write_bytes(data)
    unfinished.replace(path)


def are_wanted(folder: Path) -> bool:
    """Whether a test has asked for kills."""
    return (folder / _FILE).exists()


def kills_possible(app: Celery, folder: Path, report: Callable[[Event], None]) -> ExitStack:
    """Have each child of a prefork pool look for kills; keep what is returned.

    Args:
        app: The project's app.
        folder: The folder of the worker.
        report: Reports an event to the test, and returns when the test has it.
    """
    kept = ExitStack()

    def begin(**_: Any) -> None:
        child = _Child(folder, report)
        for task in list(app.tasks.values()):
            if not task.name.startswith("celery."):
                kept.enter_context(body_wrapped(task, partial(child.run, task)))

    signals.worker_process_init.connect(begin, weak=False)
    return kept


class _Child:
    """A process that runs tasks, and may be killed in one."""

    def __init__(self, folder: Path, report: Callable[[Event], None]) -> None:
        self._folder = folder
        self._file = folder / _FILE
        self._report = report
        self._sites: dict[int, CallSite] = {}
        self._waiting: ContextVar[Kill | None] = ContextVar("djcelery_kill", default=None)

    def run(
        self, task: Any, body: Callable[[], Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if task.request.called_directly or not self._file.exists():
            return body()
        kill = self._kill_of(task, args, kwargs)
        if kill is None:
            return body()
        if kill.at == "start":
            self._kill(kill, task)
        elif kill.at == "end":
            with suppress(Exception):
                body()
            self._kill(kill, task)
        else:
            self._watch(kill, task)
        token = self._waiting.set(kill)
        try:
            return body()
        finally:
            self._waiting.reset(token)

    def _kill_of(self, task: Any, args: Any, kwargs: Any) -> Kill | None:
        with suppress(FileNotFoundError):
            kills: list[Kill] = pickle.loads(self._file.read_bytes())  # noqa: S301 - the test's own
            for kill in kills:
                meant = kill.task == task.name and _is_call(task, kill.call, args, kwargs)
                if meant and self._left(kill):
                    return kill
        return None

    def _left(self, kill: Kill) -> bool:
        return kill.times is None or not self._mark(kill, kill.times - 1).exists()

    def _mark(self, kill: Kill, number: int) -> Path:
        return self._folder / f"fault-{kill.number}-{number}"

    def _claims(self, kill: Kill) -> bool:
        """Whether this process is the one to be killed."""
        if kill.times is None:
            return True
        for number in range(kill.times):
            with suppress(FileExistsError):
                self._mark(kill, number).touch(exist_ok=False)
                return True
        return False

    def _watch(self, kill: Kill, task: Any) -> None:
        if kill.number not in self._sites:
            waiting = partial(self._on_call, kill, task)
            self._sites[kill.number] = CallSite(kill.text, kill.at, waiting)

    def _on_call(self, kill: Kill, task: Any) -> OnCall | None:
        waiting = self._waiting.get()
        if waiting is None or waiting.number != kill.number:
            return None

        def call(function: Callable[[], Any]) -> Any:
            result = function()
            self._kill(kill, task)
            return result

        return call

    def _kill(self, kill: Kill, task: Any) -> None:
        if not self._claims(kill):
            return
        self._report(FaultFired(fault=kill.number, text=kill.text, task_id=task.request.id))
        if kill.host:
            threading.Event().wait()  # the test ends the whole worker
        os.kill(os.getpid(), signal.SIGKILL)


def _is_call(
    task: Any, call: tuple[Sequence[Any], Mapping[str, Any]] | None, args: Any, kwargs: Any
) -> bool:
    if call is None:
        return True
    body = getattr(task, "_orig_run", task.run)
    body = getattr(body, "__wrapped__", body)
    expected, found = bound_call(body, *call), bound_call(body, args, kwargs)
    return expected is not None and found is not None and bool(equal(expected, found))
