"""What the main process of a live worker answers to its test."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from celery import signals
from celery.worker import state
from celery.worker.consumer import Consumer

from pytest_djcelery.clock import Deadline
from pytest_djcelery.messages.journal import Dropped

if TYPE_CHECKING:
    from celery import Celery

    from pytest_djcelery.workers.live.connection import WorkerEnd

_PAUSE: Final = 0.002  # seconds
_CELERYS_OWN: Final = "celery.worker.consumer:Consumer"


class MainProcess:
    """Answers the test's questions, and ends the worker when the test has ended.

    Args:
        app: the project's app.
        connection: to the test.
        folder: what the test made for its worker; of no use without the test.
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

    def _on_ready(self, sender: Any, **_: Any) -> None:
        self._consumer = sender
        if sender.hub is None:
            self._begin()
        else:
            # After the first turn of the loop, with which a worker subscribes to remote control
            # at Redis: what was sent before is lost.
            sender.hub.call_soon(sender.hub.call_later, _PAUSE, self._begin)

    def _begin(self) -> None:
        threading.Thread(target=self._answer, name="djcelery-live", daemon=True).start()

    def _answer(self) -> None:
        pause = threading.Event()
        for patience in self._connection.questions():  # the first is whether it is ready
            deadline = Deadline(patience)
            # No event says when the main process is done with a task that has ended.
            while self._state()["busy"] and not deadline.passed:
                pause.wait(_PAUSE)
            self._connection.answer(self._state())
        # The test's process has ended without stopping the worker: leave nothing behind.
        shutil.rmtree(self._folder, ignore_errors=True)
        with suppress(OSError):
            os.killpg(os.getpgid(0), signal.SIGKILL)

    def _state(self) -> dict[str, Any]:
        """What the worker is doing, and what remote control can have changed."""
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

    Private API (what `celery.worker.strategy` gives to `Timer.call_at`), checked on Celery 5.4
    to 5.7.
    """
    entries = [scheduled.entry for scheduled in list(getattr(timer, "schedule", timer).queue)]
    requests = [entry.args[0] for entry in entries if getattr(entry, "args", None)]
    return {request.id for request in requests if hasattr(request, "request_dict")}


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
