"""Windows and macOS, simulated by what Python doesn't have there."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

from pytest_djcelery.brokers import file_locks

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.support.project import Project

WINDOWS = """
    import os
    import signal
    import socket
    import sys

    # What these import of the system is for their own sake.
    import celery.worker.consumer
    import django.test
    import kombu.transport.virtual

    for module, names in {
        os: (
            "fork", "getuid", "killpg", "register_at_fork", "setsid", "waitid", "O_CLOEXEC",
        ),
        signal: ("SIGKILL",),
        socket: ("AF_UNIX",),
    }.items():
        for name in names:
            delattr(module, name)
    sys.modules["fcntl"] = None  # to import it is an ImportError
    sys.modules["kombu.transport.filesystem"] = None  # needs pywin32
    """


def test_on_windows_only_the_live_worker_is_missing_and_says_so(project: Project) -> None:
    project.write(conftest=WINDOWS)
    result = project.run(
        """
        import pytest
        from pytest_djcelery import LiveWorker, Success, WorkerError, live_worker
        from shop.tasks import add, count_orders, flaky

        def test_live(celery_live_worker: LiveWorker):
            pass

        def test_live_block():
            with pytest.raises(WorkerError, match="needs POSIX"), live_worker():
                pass

        def test_outbox(celery_outbox, celery_on_commit, db):
            add.delay(1, 2)
            assert celery_outbox == [add.s(1, 2)]

        def test_inline(celery_inline, celery_results, db):
            result = flaky.delay()
            celery_inline.run()
            assert celery_results[result] == Success("ok", retries=2)

        def test_worker(celery_worker, celery_results, transactional_db):
            assert celery_results[count_orders.delay()] == Success(0)

        def test_eager(celery_eager):
            assert add.delay(1, 2).get() == 3

        def test_beat(celery_beat):
            assert celery_beat.run(until=__import__("datetime").timedelta(hours=1)) == []
        """
    )
    result.assert_outcomes(passed=6, errors=1)
    result.stdout.fnmatch_lines(
        ["*WorkerError: celery_live_worker needs POSIX (here, *", "*Use celery_worker or *"]
    )
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    result.stdout.no_fnmatch_line("*at teardown*")


def test_on_macos_without_waitid_the_live_worker_runs_and_ends(project: Project) -> None:
    project.settings('DATABASES["default"]["TEST"] = {"NAME": "test.sqlite3"}')
    project.write(conftest="import os\n\ndel os.waitid\n")
    result = project.run("""
        import pytest
        from pytest_djcelery import Success
        from shop.tasks import add

        def test_live(celery_live_worker, celery_results):
            assert celery_results[add.delay(4, 4)] == Success(8)
        """)
    result.assert_outcomes(passed=1)


def test_locks_of_files_work_without_fcntl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    taken: list[tuple[str, int]] = []

    def locking(file: int, mode: str, count: int) -> None:
        if ("locked", os.fstat(file).st_ino) in taken:
            raise OSError(36, "deadlock")
        assert os.lseek(file, 0, os.SEEK_CUR) > 1 << 20  # no reader is kept from the content
        taken.append(("locked", os.fstat(file).st_ino))

    windows = SimpleNamespace(locking=locking, LK_LOCK="LK_LOCK", LK_NBLCK="LK_NBLCK")
    monkeypatch.setitem(sys.modules, "msvcrt", windows)  # type: ignore[arg-type]
    monkeypatch.setattr(file_locks, "fcntl", None)
    with (tmp_path / "a").open("w+b") as file, (tmp_path / "b").open("w+b") as other:
        file_locks.lock(file.fileno())
        assert not file_locks.lock_now(file.fileno())
        assert file_locks.lock_now(other.fileno())


def test_locks_of_files_keep_other_processes_out(tmp_path: Path) -> None:
    with (tmp_path / "a").open("w") as file, (tmp_path / "a").open() as other:
        file_locks.lock(file.fileno())
        assert not file_locks.lock_now(other.fileno())
