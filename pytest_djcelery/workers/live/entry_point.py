"""``celery -A proj worker`` in the environment of a test.

``python -m pytest_djcelery.workers.live.entry_point ENVIRONMENT ADDRESS -A proj worker …``: apply
the environment, connect to the test, then run Celery's own command line.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.util import get_temp_dir
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from celery.__main__ import main as run_command_line
from celery.bin.celery import celery as command_line

from pytest_djcelery.brokers.memory import addresses
from pytest_djcelery.messages import journal
from pytest_djcelery.recording import publishing, task_signals
from pytest_djcelery.recording.task_surroundings import Surroundings
from pytest_djcelery.transactions.watch import TransactionWatch
from pytest_djcelery.workers import sqlite
from pytest_djcelery.workers.live.connection import KEY, WorkerEnd
from pytest_djcelery.workers.live.environment import Environment
from pytest_djcelery.workers.live.main_process import MainProcess

if TYPE_CHECKING:
    from celery import Celery

#: What the test's journal has a use for; hooks are known by numbers of their process.
_REPORTED: Final = (
    journal.Dropped, journal.Ended, journal.NotSent, journal.NotStored, journal.Published,
    journal.StateStored, journal.Storing, journal.Warned,
)  # fmt: skip


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
        _reporting(app, environment, connection),
    ):
        main_process = MainProcess(app, connection, path.parent)
        sys.argv = ["celery", *arguments]
        _read_no_addresses_from_the_environment()
        run_command_line()
        del main_process  # until now: Celery's signals refer to its methods weakly


def _read_no_addresses_from_the_environment() -> None:
    """Keep the command line from reading ``BROKER_URL`` and ``RESULT_BACKEND``.

    They would override all settings, and a project may use such variables for its own purposes.
    Private API (`celery.bin.celery`), checked on Celery 5.4 to 5.7.
    """
    for option in command_line.params:
        if option.name in ("broker", "result_backend"):
            option.envvar = None


def _keep_temporary_files_in(folder: Path) -> None:
    """Have multiprocessing, and billiard through it, keep its files where they will be removed.

    It creates a folder for them once, which a killed process leaves behind.
    """
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        get_temp_dir()
    finally:
        tempfile.tempdir = before


@contextmanager
def _reporting(app: Celery, environment: Environment, connection: WorkerEnd) -> Iterator[None]:
    """Report what happens in this process to the test."""
    remote_journal: Any = connection
    watch = TransactionWatch(
        remote_journal,
        policy=lambda: environment.sent_in_transaction,
        warn=lambda text, location: connection.append(journal.Warned(text=text, location=location)),
    )
    tap = publishing.Tap(
        app=app,
        watch=watch,
        journal=remote_journal,
        surroundings=Surroundings(),
        sent=lambda _: None,  # the test, which knows the queues, judges it
        published=lambda: None,
    )
    with (
        watch,
        publishing.publishes_recorded(tap),
        task_signals.task_events_recorded(remote_journal, lambda task_app: task_app is app),
        sqlite.waiting_for_other_processes(environment.timeout),
    ):
        yield


if __name__ == "__main__":
    main()
