"""Records what a prefork worker does: `python -m tests.contract.losses.recording BROKER [CASE …]`.

The worker is `celery -A proj worker`, without the plugin; the project is in `project/`. Its tasks
kill their process, or hang until a time limit has passed, where the case says. What happens to
them is noted in a named pipe. A case is over when every message that was sent has been
acknowledged or dropped, and the worker holds none; so nothing waits for time to pass but the tasks
that a time limit is to end.

Where the host is lost, the recorder kills the whole worker, each in a queue of its own. Then one
more worker consumes from all these queues. Redis gives back what is not acknowledged when its
visibility timeout has passed; for that worker it is zero, and it looks once, as it starts.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any, Final
from uuid import uuid4

from tests.support.services import url

HERE: Final = Path(__file__).resolve().parent
PROJECT: Final = HERE / "project"
_WITHIN: Final = 60  # seconds without news, after which a recording has failed
_PAUSE: Final = 0.05  # seconds between two looks at a worker that is busy and has no news
_OVER: Final = {"acknowledged", "rejected"}


class RecordingError(Exception):
    """A worker did not do what a recording needs."""


class Notes:
    """What is noted, from whatever process, read as it comes."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.all: list[dict[str, str]] = []
        self._news = threading.Condition()
        # Opened for writing too, so that it has no end when no process writes.
        self._pipe = os.fdopen(os.open(path, os.O_RDWR), encoding="utf-8")
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._pipe:
            with self._news:
                self.all.append(json.loads(line))
                self._news.notify_all()

    def wait(self, condition: Callable[[], bool], seconds: float = _WITHIN) -> bool:
        """Wait until something is so, and return whether it is; ``seconds`` is for each note."""
        with self._news:
            while not condition():
                if not self._news.wait(seconds):
                    return condition()
            return True

    def has(self, case: str, what: str, role: str, *, after: int = 0) -> bool:
        """Whether something has been noted."""
        wanted = (case, what, role)
        return any((n["case"], n["what"], n["role"]) == wanted for n in self.all[after:])

    def outstanding(self) -> Counter[str]:
        """How many messages of each case have been sent, and neither acknowledged nor dropped."""
        count: Counter[str] = Counter()
        for note in self.all:
            if note["kind"] == "message":
                count[note["case"]] += (note["what"] == "sent") - (note["what"] in _OVER)
        return +count


class Worker:
    """A process of ``celery -A proj worker``, and its child."""

    def __init__(self, notes: Notes, log: Path, queues: list[str], **environment: str) -> None:
        self.notes = notes
        self.log = log
        self.node = f"{uuid4().hex}@recorder"
        command = [sys.executable, "-m", "celery", "-A", "proj", "worker", "-P", "prefork"]
        command += ["-c", "1", "-n", self.node, "-Q", ",".join(queues), "-l", "INFO"]
        command += ["--without-gossip", "--without-mingle"]
        seen = len(notes.all)
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                command, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=file,
                stderr=file, start_new_session=True,
            )  # fmt: skip
        self.wait(lambda: notes.has("", "ready", "worker", after=seen))

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait for something that has to be noted."""
        if not self.notes.wait(condition):
            self.kill()
            end = self.log.read_text(errors="replace")[-3000:]
            raise RecordingError(f"Not in {_WITHIN} s: {self.notes.outstanding()}\n{end}")

    def held(self) -> int:
        """How many messages it holds, once it has done what it was about to do."""
        from proj.celery import app

        deadline = monotonic() + _WITHIN
        while monotonic() < deadline:
            answers = app.control.broadcast(
                "held", destination=[self.node], reply=True, limit=1, timeout=2
            )
            if answers:
                return int(answers[0][self.node])
        raise RecordingError(f"No answer in {_WITHIN} s.\n{self.log.read_text()[-3000:]}")

    def until_idle(self) -> None:
        """Wait until all that was sent is over, and it holds nothing."""
        notes = self.notes
        while True:
            self.wait(lambda: not notes.outstanding())
            seen = len(notes.all)
            held = self.held()
            if not held and len(notes.all) == seen and not notes.outstanding():
                return
            notes.wait(lambda seen=seen: len(notes.all) > seen, _PAUSE)

    def kill(self) -> None:
        """Kill it with its child, as if its host were lost."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(_WITHIN)


def record(broker: str, names: list[str] | None = None) -> dict[str, Any]:
    """Return what happened in each case, by its name.

    Args:
        broker: ``redis`` or ``rabbitmq``; the results are in Redis.
        names: The cases; all that this Celery has the options for where there are none.
    """
    with tempfile.TemporaryDirectory(prefix="losses-") as folder, _prepared(broker, Path(folder)):
        import django

        django.setup()
        return _record(Path(folder), names)


@contextmanager
def _prepared(broker: str, folder: Path) -> Iterator[None]:
    prefix = f"losses-{uuid4().hex[:8]}"
    settings = {
        "BROKER_URL": url(broker),
        "RESULT_BACKEND": url("redis"),
        "RESULT_BACKEND_TRANSPORT_OPTIONS": {"global_keyprefix": f"{prefix}."},
        "CONTROL_EXCHANGE": prefix,
        "IMPORTS": ["proj.recorded"],
        "TASK_ROUTES": ["proj.recorded.queue_of"],
        "BROKER_CONNECTION_RETRY_ON_STARTUP": True,
    }
    if broker == "redis":
        settings["BROKER_TRANSPORT_OPTIONS"] = {"global_keyprefix": f"{prefix}."}
    (folder / "cases").mkdir()
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "proj.settings",
        "LOSSES_DATABASE": str(folder / "db.sqlite3"),
        "LOSSES_FOLDER": str(folder / "cases"),
        "LOSSES_NOTES": str(folder / "notes"),
        "LOSSES_PREFIX": prefix,
        "LOSSES_SETTINGS": json.dumps(settings),
        "PYTHONPATH": os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")]),
    }
    sys.path.insert(0, str(PROJECT))
    try:
        yield
    finally:
        _leave_nothing(broker, prefix)


def _record(folder: Path, names: list[str] | None) -> dict[str, Any]:
    from django.db import connection
    from proj.recorded import queue_name
    from shop.canvas import send
    from shop.models import Row

    notes = Notes(folder / "notes")
    with connection.schema_editor() as editor:
        editor.create_model(Row)
    connection.close()
    cases = chosen(names)
    here = [case for case in cases if not case.takes_the_host]
    away = [case for case in cases if case.takes_the_host]
    ids: dict[str, dict[str, str]] = {}
    if here:
        worker = Worker(notes, folder / "log", [queue_name(here[0])])
        try:
            ids |= {case.name: send(case, **case.limits) for case in here}
            worker.until_idle()
        finally:
            worker.kill()
    for case in away:
        ids[case.name] = send(case)
        _lose_host(case, Worker(notes, folder / "log", [queue_name(case)]))
    if away:
        worker = _survivor(notes, folder / "log", [queue_name(case) for case in away])
        try:
            worker.until_idle()
        finally:
            worker.kill()
    return {case.name: _outcome(case.name, ids[case.name], notes) for case in cases}


def chosen(names: list[str] | None) -> list[Any]:
    """Return the cases of these names, or all whose options the installed Celery has."""
    from celery import Task
    from shop.cases import CASES

    if names:
        return [CASES[name] for name in names]
    return [
        case
        for case in CASES.values()
        if all(hasattr(Task, option.partition("=")[0]) for option in case.options)
    ]


def _lose_host(case: Any, worker: Worker) -> None:
    """Kill the worker when the task has come to where the case says."""
    notes = worker.notes
    worker.wait(lambda: notes.has(case.name, "may be lost", "host"))
    if not case.late:
        # Its main process acknowledges the message while the task runs in the child.
        worker.wait(lambda: notes.has(case.name, "acknowledged", "victim"))
        worker.held()  # an answer follows what was to be sent before
    worker.kill()


def _survivor(notes: Notes, log: Path, queues: list[str]) -> Worker:
    settings = json.loads(os.environ["LOSSES_SETTINGS"])
    options = settings.get("BROKER_TRANSPORT_OPTIONS")
    if options:
        options |= {"visibility_timeout": 0, "unacked_restore_throttle": 1_000_000}
    return Worker(notes, log, queues, LOSSES_SETTINGS=json.dumps(settings))


def _outcome(name: str, ids: dict[str, str], notes: Notes) -> dict[str, Any]:
    """What happened in a case: to each task in order, its messages, the states, the rows."""
    from celery.result import AsyncResult
    from proj.celery import app
    from shop.models import Row
    from shop.outcomes import outcome

    results = {role: AsyncResult(id_, app=app) for role, id_ in ids.items()}
    found: dict[str, Any] = outcome(
        [note for note in notes.all if note["case"] == name],
        {role: (result.state, result.result) for role, result in results.items()},
        Row.objects.filter(case=name).order_by("pk").values_list("name", flat=True),
    )
    return found


def _leave_nothing(broker: str, prefix: str) -> None:
    import redis
    from proj.recorded import queue_name
    from shop.cases import CASES

    if broker == "rabbitmq":
        from kombu import Connection

        with Connection(url(broker)) as connection:
            channel = connection.channel()
            queues = {queue_name(case) for case in CASES.values()}
            for queue in queues:
                channel.queue_delete(queue)
                channel.exchange_delete(queue)
            for exchange in (f"{prefix}.pidbox", f"reply.{prefix}.pidbox"):
                channel.exchange_delete(exchange)
    client = redis.Redis.from_url(url("redis"))
    for key in client.scan_iter(f"{prefix}*"):
        client.delete(key)


if __name__ == "__main__":
    _broker, *_names = sys.argv[1:]
    sys.stdout.write(json.dumps(record(_broker, _names)))
