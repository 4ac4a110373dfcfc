"""``celery -A proj worker`` in the world of a test.

``python -m pytest_djcelery.workers.live.entry_point HANDOVER ADDRESS -A proj worker …``: enter the
test's world, connect what reports to the test, then run Celery's own command line.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.util import get_temp_dir
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery import Celery

    from pytest_djcelery.workers.live.connection import Mouth
    from pytest_djcelery.workers.live.environment import Handover


def main() -> None:
    """Be the worker."""
    file, address, *arguments = sys.argv[1:]
    from pytest_djcelery.brokers.memory import addresses
    from pytest_djcelery.workers.live.connection import KEY, Mouth
    from pytest_djcelery.workers.live.environment import Handover

    path = Path(file)
    _leave_files_in(path.parent)
    handover = Handover.read(path)
    mouth = Mouth(address, bytes.fromhex(os.environ.pop(KEY)), kinds=_reported())
    app, others = handover.apply()
    with addresses.scheme_registered(), others.isolated(), _reporting(app, handover, mouth):
        from celery.__main__ import main as celery

        from pytest_djcelery.workers.live.inside import Inside

        inside = Inside(app, mouth, path.parent)  # a name, for its signal handlers are weak
        sys.argv = ["celery", *arguments]
        _take_places_from_settings_only()
        celery()
        del inside


def _take_places_from_settings_only() -> None:
    """Have the command line read no broker and no backend from ``BROKER_URL``, ``RESULT_BACKEND``.

    Those would go before all settings, and a project may have such variables for its own. Private
    API (`celery.bin.celery`), checked on Celery 5.4 to 5.7.
    """
    from celery.bin.celery import celery

    for option in celery.params:
        if option.name in ("broker", "result_backend"):
            option.envvar = None


def _leave_files_in(folder: Path) -> None:
    """Have multiprocessing, and billiard through it, keep its files where they will be removed.

    It makes a folder for them, once, and a process that is killed leaves that behind.
    """
    found, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        get_temp_dir()
    finally:
        tempfile.tempdir = found


def _reported() -> tuple[Any, ...]:
    """What the test's journal has use for; hooks are known by numbers of their process."""
    from pytest_djcelery.messages import journal

    return (
        journal.Dropped, journal.Ended, journal.NotSent, journal.NotStored, journal.Published,
        journal.StateStored, journal.Storing, journal.Warned,
    )  # fmt: skip


@contextmanager
def _reporting(app: Celery, handover: Handover, mouth: Mouth) -> Iterator[None]:
    """Send what happens in here to the test."""
    from pytest_djcelery.messages.journal import Warned
    from pytest_djcelery.recording import publishing
    from pytest_djcelery.recording import task_signals as signals
    from pytest_djcelery.recording.task_surroundings import Surroundings
    from pytest_djcelery.transactions.watch import TransactionWatch
    from pytest_djcelery.workers import sqlite_files

    journal: Any = mouth
    watch = TransactionWatch(
        journal,
        policy=lambda: handover.sent_in_transaction,
        warn=lambda text, location: mouth.append(Warned(text=text, location=location)),
    )
    tap = publishing.Tap(
        watch,
        journal,
        published=lambda: None,
        surroundings=Surroundings(),
        app=app,
        sent=lambda _: None,  # the test judges it, which knows the queues
    )
    with (
        watch,
        publishing.publishes_recorded(tap),
        signals.task_events_recorded(journal, lambda each: each is app),
        sqlite_files.waited_for(handover.timeout),
    ):
        yield


if __name__ == "__main__":
    main()
