"""What only processes of their own can do, and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import celery
import django
import pytest

from tests.support.services import require

if TYPE_CHECKING:
    from tests.support.project import Project, Run

TASKS = """
    import os
    import time

    from celery import signals
    from celery.exceptions import SoftTimeLimitExceeded
    from django.db import connection

    STARTED = []


    @signals.worker_process_init.connect
    def on_process_init(**kwargs):
        STARTED.append(os.getpid())


    @shared_task
    def tell_started():
        return [STARTED, os.getpid()]


    @shared_task
    def sleep(seconds):
        time.sleep(seconds)


    @shared_task
    def sleep_softly(seconds):
        try:
            time.sleep(seconds)
        except SoftTimeLimitExceeded:
            return "cleaned up"


    @shared_task(bind=True)
    def die(self, *, once=False):
        if once and self.request.delivery_info["redelivered"]:
            return "second"
        os.kill(os.getpid(), 9)


    @shared_task
    def tell_connection():
        Order.objects.count()
        return [os.getpid(), connection.pool is not None and connection.pool.max_size]
    """


@pytest.fixture(autouse=True)
def tasks(project: Project) -> None:
    project.tasks(TASKS)
    project.settings("CELERY_TASK_TRACK_STARTED = True")


@pytest.mark.long
def test_limits_and_lost_workers(run: Run) -> None:
    result = run("""
        import pytest
        from billiard.exceptions import TimeLimitExceeded, WorkerLostError
        from celery.exceptions import SoftTimeLimitExceeded
        from shop.tasks import add, die, sleep, sleep_softly, tell_started

        from pytest_djcelery import Failure, Revoked, Success

        def test_soft_time_limit(celery_live_worker, celery_results):
            limited = sleep_softly.apply_async((60,), soft_time_limit=1)
            unhandled = sleep.apply_async((60,), soft_time_limit=1)
            assert celery_results[limited] == Success("cleaned up")
            assert celery_results[unhandled] == Failure(SoftTimeLimitExceeded)

        def test_hard_time_limit(celery_live_worker, celery_results):
            assert celery_results[sleep.apply_async((60,), time_limit=1)] == Failure(
                TimeLimitExceeded
            )
            assert add.delay(1, 2).get() == 3

        def test_revoke_terminates(celery_live_worker, celery_outbox, celery_results):
            result = sleep.delay(60)
            while result.state != "STARTED":
                pass
            result.revoke(terminate=True)
            assert celery_results[result] == Revoked()

        def test_a_lost_child(celery_live_worker, celery_results):
            assert celery_results[die.delay()] == Failure(WorkerLostError)
            assert add.delay(1, 2).get() == 3

        @pytest.mark.celery(
            task_acks_late=True, task_reject_on_worker_lost=True, worker_max_tasks_per_child=1
        )
        def test_reject_on_worker_lost_and_tasks_per_child(celery_live_worker, celery_results):
            assert celery_results[die.delay(once=True)] == Success("second")
            pids = [tell_started.delay().get() for _ in range(3)]
            assert len({pid for _, pid in pids}) == 3
            assert all(started == [pid] for started, pid in pids)
    """)
    result.assert_outcomes(passed=5)


@pytest.fixture
def pooled(project: Project) -> None:
    """Django's connection pool."""
    if django.VERSION < (5, 1):
        pytest.skip("Django has connection pools since 5.1")
    address = require("postgresql")
    project.settings(f"""
        DATABASES["default"] = {{
            "ENGINE": "django.db.backends.postgresql",
            "NAME": "djcelery_pool_{os.getpid()}",
            "USER": "{os.environ.get("DATABASE_USER", "postgres")}",
            "HOST": "{address.host}",
            "PORT": {address.port},
            "OPTIONS": {{"pool": {{"min_size": 1, "max_size": 3}}}},
        }}
    """)


@pytest.mark.usefixtures("pooled")
@pytest.mark.skipif(celery.VERSION < (5, 6), reason="Celery closes pools since 5.6")
def test_the_connection_pool_of_children(run: Run) -> None:
    """The tutorial's section: connections can't be shared by processes, pools neither."""
    result = run("""
        from celery import group
        from django.db import connection
        from shop.models import Order
        from shop.tasks import ship, sleep, tell_connection

        def test_it(celery_live_worker):
            orders = [Order.objects.create() for _ in range(40)]
            assert group(ship.s(order.pk) for order in orders)().get() == ["shipped"] * 40
            told = group(tell_connection.s() for _ in range(10))().get()
            assert {size for _, size in told} == {3}
            assert Order.objects.filter(name="shipped").count() == 40

        def test_again(celery_live_worker):
            assert tell_connection.delay().get()[1] == 3
    """)
    result.assert_outcomes(passed=2)  # and the database could be dropped


@pytest.mark.usefixtures("pooled")
def test_a_celery_that_shares_the_pool_with_children(run: Run) -> None:
    result = run("""
        import celery
        import pytest
        from shop.tasks import add

        celery.VERSION = celery.VERSION._replace(minor=5)
        pytestmark = pytest.mark.filterwarnings(
            "default::pytest_djcelery.SharedConnectionsWarning"
        )

        def test_it(celery_live_worker):
            assert add.delay(1, 2).get() == 3

        def test_again(celery_live_worker):
            assert add.delay(1, 2).get() == 3
    """)
    result.assert_outcomes(passed=2, warnings=1)
    result.stdout.fnmatch_lines(["*SharedConnectionsWarning: Celery * (database 'default')*"])


@pytest.mark.long
def test_a_task_that_does_not_end(run: Run, project: Project) -> None:
    project.ini("djcelery_timeout = 1")
    result = run("""
        import os

        import pytest
        from shop.tasks import add, sleep

        from pytest_djcelery import WaitTimeoutError

        pids = []

        def test_it(celery_live_worker):
            result = sleep.delay(60)
            pids.append(celery_live_worker.pid)
            with pytest.raises(WaitTimeoutError, match="running: shop.tasks.sleep") as caught:
                celery_live_worker.wait_until_idle(0.5)
            assert "Task shop.tasks.sleep" in str(caught.value)
            with pytest.raises(WaitTimeoutError, match=f"No result for {result.id} after 0.2 s"):
                result.get(timeout=0.2)

        def test_next(celery_live_worker):
            assert add.delay(1, 2).get() == 3
            with pytest.raises(ProcessLookupError):
                os.kill(pids[0], 0)
    """)
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*A task still runs 1 s after the test; The live worker*"])


def test_a_worker_that_ends_in_the_test(run: Run) -> None:
    result = run("""
        import os
        import signal

        import pytest
        from shop.tasks import add

        from pytest_djcelery import WaitTimeoutError

        def test_it(celery_live_worker):
            os.kill(celery_live_worker.pid, signal.SIGKILL)
            with pytest.raises(WaitTimeoutError, match="The live worker has ended"):
                add.delay(1, 2).get(timeout=0.5)

        def test_next(celery_live_worker):
            assert add.delay(1, 2).get() == 3
    """)
    result.assert_outcomes(passed=2)


ENDLESS = """
    import time
    from pathlib import Path

    from shop.tasks import sleep

    def test_it(celery_live_worker):
        result = sleep.delay(60)
        while result.state != "STARTED":
            pass
        unfinished = Path("unfinished")
        unfinished.write_text(str(celery_live_worker.pid))
        unfinished.rename("started")
        end = time.monotonic() + 60
        while time.monotonic() < end:
            time.sleep(0.05)  # a Ctrl-C that comes as a long sleep begins is heard as it ends
    """


# What a shell starts in the background takes no notice of Ctrl-C, nor does what that starts.
HEARS_CTRL_C = """
import signal, sys, pytest
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(pytest.main())
"""


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for the temporary files of this test's runs; the path of pytest's is longer."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_run_that_is_ended(
    project: Project, temporary: Path, how: signal.Signals
) -> None:
    project.ini("djcelery_timeout = 1")
    project.write(test_it=ENDLESS)
    command = [sys.executable, "-c", HEARS_CTRL_C, "-p", "no:cacheprovider", "-q"]
    # A Ctrl-C that meets the code of coverage's own is lost there.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    with subprocess.Popen(command, cwd=project.path, env=env, stdout=subprocess.DEVNULL) as process:
        started = project.path / "started"
        _eventually(started.exists)
        process.send_signal(how)
        process.wait(30)
    pid = int(started.read_text())
    _eventually(lambda: not _group_exists(pid))
    _eventually(lambda: not list(temporary.iterdir()))


@pytest.mark.parametrize("how", ["a signal", "pytest.exit()"])
@pytest.mark.parametrize("worker", ["celery_live_worker", "celery_worker"])
def test_an_interrupt_waits_for_no_task(
    project: Project, temporary: Path, worker: str, how: str
) -> None:
    project.ini("djcelery_timeout = 3600")
    project.write(
        test_it=f"""
        import os
        import signal

        import pytest
        from shop.tasks import sleep

        @pytest.mark.django_db(transaction=True)
        def test_it({worker}):
            result = sleep.delay(3600)
            while result.state != "STARTED":
                pass
            if {how == "a signal"}:
                os.kill(os.getpid(), signal.SIGINT)
            pytest.exit("enough")
        """
    )
    command = [sys.executable, "-c", HEARS_CTRL_C, "-p", "no:cacheprovider"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    ended = subprocess.run(
        command, cwd=project.path, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == pytest.ExitCode.INTERRUPTED
    assert ended.stderr == ""
    assert "Error" not in ended.stdout
    assert "no tests ran in" in ended.stdout
    _eventually(lambda: not list(temporary.iterdir()))


def _eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)  # a file or process of others, which tells nobody


def _group_exists(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True
