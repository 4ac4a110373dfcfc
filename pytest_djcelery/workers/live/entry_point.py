"""``celery -A proj worker`` in the environment of a test, and what its main process answers.

``python -m pytest_djcelery.workers.live.entry_point ENVIRONMENT ADDRESS -A proj worker …``: apply
the environment, connect to the test, then run Celery's own command line.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.util import get_temp_dir
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from celery import signals
from celery.__main__ import main as run_command_line
from celery.bin.celery import celery as command_line
from celery.worker import state
from celery.worker.consumer import Consumer

from pytest_djcelery.brokers.memory import addresses
from pytest_djcelery.clock import Deadline
from pytest_djcelery.messages import events
from pytest_djcelery.messages.events import Dropped
from pytest_djcelery.patching import Current
from pytest_djcelery.recording import publishing, task_signals
from pytest_djcelery.recording.django_events import enqueues_recorded
from pytest_djcelery.recording.server_waits import results_set_without_setex
from pytest_djcelery.recording.task_surroundings import Surroundings
from pytest_djcelery.transactions.sent_in_transaction import ReportedRaces
from pytest_djcelery.transactions.watch import TransactionWatch
from pytest_djcelery.workers import sqlite
from pytest_djcelery.workers.live import losing
from pytest_djcelery.workers.live.connection import KEY, WorkerEnd
from pytest_djcelery.workers.live.environment import Environment

if TYPE_CHECKING:
    from celery import Celery


_PAUSE: Final = 0.002  # seconds
_LOOK: Final = 0.05  # seconds
#: Seconds after the end of a child until its task counts as lost; Celery's own default is 10.
_LOST_WAIT: Final = 0.5
_CELERYS_OWN: Final = "celery.worker.consumer:Consumer"
#: The events that the test's journal can use: hooks are known by numbers of their process.
_REPORTED: Final = (
    events.Dropped, events.Ended, events.Enqueued, events.FaultFired, events.NotSent,
    events.NotStored, events.Published, events.RaceRaised, events.Started,
    events.StateStored, events.Storing, events.Warned,
)  # fmt: skip


class MainProcess:
    """Answers the test's questions, and ends the worker when the test has ended.

    Args:
        app: The project's app.
        connection: The connection to the test.
        folder: The folder that the test made for its worker, useless without the test.
    """

    def __init__(self, app: Celery, connection: WorkerEnd, folder: Path) -> None:
        self._app = app
        self._connection = connection
        self._folder = folder
        self._consumer: Any = None
        if app.conf.worker_consumer == _CELERYS_OWN:
            LiveConsumer.journal = connection
            app.conf.worker_consumer = LiveConsumer
        signals.worker_ready.connect(self._on_ready)
        self._kills = losing.kills_possible(app, folder, connection.append)
        app.conf.worker_lost_wait = min(app.conf.worker_lost_wait, _LOST_WAIT)

    def _on_ready(self, sender: Any, **_: Any) -> None:
        self._consumer = sender
        if sender.hub is None:
            self._begin()
        else:
            # Celery looks after its children every few seconds.
            sender.hub.call_repeatedly(_LOOK, self._look_after_children)
            # After the first turn of the loop, in which a worker subscribes to remote control in
            # Redis: whatever is sent before that is lost.
            sender.hub.call_soon(sender.hub.call_later, _PAUSE, self._begin)

    def _look_after_children(self) -> None:
        maintain = getattr(getattr(self._consumer.pool, "_pool", None), "maintain_pool", None)
        if maintain is not None and losing.are_wanted(self._folder):
            maintain()

    def _begin(self) -> None:
        threading.Thread(target=self._answer, name="djcelery-live", daemon=True).start()

    def _answer(self) -> None:
        pause = threading.Event()
        for patience in self._connection.questions():  # the first asks whether it is ready
            deadline = Deadline(patience)
            # No event says when the main process has finished with a task that has ended.
            while self._state()["busy"] and not deadline.passed:
                pause.wait(_PAUSE)
            self._connection.answer(self._state())
        # The test's process has ended without stopping the worker: leave nothing behind.
        shutil.rmtree(self._folder, ignore_errors=True)
        with suppress(OSError):
            os.killpg(os.getpgid(0), signal.SIGKILL)

    def _state(self) -> dict[str, Any]:
        """What the worker is doing, and what remote control may have changed."""
        scheduled = {
            request.id for request in list(getattr(state, "scheduled_requests", ()))
        }  # since Celery 5.6
        waiting = scheduled | _in_timer(self._consumer.timer)
        consumed = self._consumer.task_consumer
        return {
            "busy": [
                f"{request.name}[{request.id}]"
                for request in list(state.requests.values())
                if request.id not in waiting
            ],
            "scheduled": len(waiting),
            # By the ids of the messages that it has received and that are not over: whether the
            # broker knows, and whether it will not before the task is over.
            "held": {
                request.id: (bool(request.acknowledged), bool(request.task.acks_late))
                for request in [*list(state.requests.values()), *_timed(self._consumer.timer)]
            },
            "queues": sorted(queue.name for queue in consumed.queues) if consumed else [],
            "as_started": (
                getattr(self._consumer.pool, "num_processes", None),
                sorted(
                    (name, task.rate_limit, task.time_limit, task.soft_time_limit)
                    for name, task in list(self._app.tasks.items())
                ),
            ),
        }


def _in_timer(timer: Any) -> set[str]:
    """The ids of the requests that wait for their ETA in the worker's timer.

    Private API (what `celery.worker.strategy` passes to `Timer.call_at`), checked on Celery 5.4
    to 5.7.
    """
    return {request.id for request in _timed(timer)}


def _timed(timer: Any) -> list[Any]:
    entries = [scheduled.entry for scheduled in list(getattr(timer, "schedule", timer).queue)]
    requests = [entry.args[0] for entry in entries if getattr(entry, "args", None)]
    return [request for request in requests if hasattr(request, "request_dict")]


class LiveConsumer(Consumer):
    """Celery's consumer, which reports the messages that it drops."""

    journal: ClassVar[WorkerEnd]

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        super().on_decode_error(message, exc)
        self._dropped(message)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        super().on_invalid_task(body, message, exc)
        self._dropped(message)

    def on_unknown_message(self, body: Any, message: Any) -> None:
        super().on_unknown_message(body, message)
        self._dropped(message)

    def _dropped(self, message: Any) -> None:
        self.journal.append(Dropped(task_id=(message.headers or {}).get("id")))


def main() -> None:
    """Run the worker until it ends."""
    file, address, *arguments = sys.argv[1:]
    path = Path(file)
    _keep_temporary_files_in(path.parent)
    environment = Environment.read(path)
    connection = WorkerEnd(address, bytes.fromhex(os.environ.pop(KEY)), kinds=_REPORTED)
    app, others = environment.apply()
    with (
        addresses.scheme_registered(),
        others.isolated(),
        _events_reported(app, environment, connection),
    ):
        main_process = MainProcess(app, connection, path.parent)
        sys.argv = ["celery", *arguments]
        _read_no_addresses_from_the_environment()
        run_command_line()
        del main_process  # kept until now: Celery's signals only refer to its methods weakly


def _read_no_addresses_from_the_environment() -> None:
    """Keep the command line from reading ``BROKER_URL`` and ``RESULT_BACKEND``.

    They would override all settings, and a project may use such variables for its own purposes.
    Private API (`celery.bin.celery`), checked on Celery 5.4 to 5.7.
    """
    for option in command_line.params:
        if option.name in ("broker", "result_backend"):
            option.envvar = None


def _keep_temporary_files_in(folder: Path) -> None:
    """Have multiprocessing, and through it billiard, keep its files where they will be removed.

    It creates a folder for them once, which a killed process would leave behind.
    """
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        get_temp_dir()
    finally:
        tempfile.tempdir = before


@contextmanager
def _events_reported(
    app: Celery, environment: Environment, connection: WorkerEnd
) -> Iterator[None]:
    """Within the ``with``, report to the test what happens in this process."""
    remote_journal: Any = ReportedRaces(connection.append)
    watch = TransactionWatch(
        remote_journal,
        policy=lambda: environment.sent_in_transaction,
        warn=lambda text, location: connection.append(events.Warned(text=text, location=location)),
    )
    recorder = publishing.PublishRecorder(
        app=app,
        watch=watch,
        journal=remote_journal,
        surroundings=Surroundings(),
        sent=lambda _: None,  # the test, which knows the queues, checks the message
        published=lambda: None,
    )

    def started(task_id: str, **_: Any) -> None:
        connection.append(events.Started(task_id=task_id))

    signals.task_prerun.connect(started, weak=False)
    with (
        watch,
        publishing.publishes_recorded(Current(recorder)),
        enqueues_recorded(Current(remote_journal)),
        results_set_without_setex(),
        task_signals.task_events_recorded(
            Current(remote_journal), lambda task_app: task_app is app
        ),
        sqlite.waiting_for_other_processes(environment.timeout),
    ):
        yield


if __name__ == "__main__":
    main()
