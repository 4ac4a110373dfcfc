"""What only processes of their own can do, and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.services import require

if TYPE_CHECKING:
    from tests.conftest import Project

Run = Callable[..., pytest.RunResult]

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


def test_the_connection_pool_of_children(run: Run, project: Project) -> None:
    """The tutorial's section: connections can't be shared by processes, pools neither."""
    django = pytest.importorskip("django")
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
    import os
    from pathlib import Path

    from shop.tasks import sleep

    def test_it(celery_live_worker, celery_app):
        sleep.delay(60)
        folder = celery_app.conf.broker_transport_options["control_folder"]
        unfinished = Path("unfinished")
        unfinished.write_text(f"{celery_live_worker.pid} {Path(folder).parent}")
        unfinished.rename("started")
        HOW
    """


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_run_that_is_ended(project: Project, how: signal.Signals) -> None:
    project.ini("djcelery_timeout = 1")
    project.write(test_it=ENDLESS.replace("HOW", "import time; time.sleep(60)"))
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q"]
    # A Ctrl-C that meets the code of coverage's own is lost there.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    with subprocess.Popen(command, cwd=project.path, env=env, stdout=subprocess.DEVNULL) as process:
        started = project.path / "started"
        _eventually(started.exists)
        process.send_signal(how)
        process.wait(30)
    pid, folder = started.read_text().split(" ")
    _eventually(lambda: not _group_exists(int(pid)))
    _eventually(lambda: not Path(folder).exists())


def _eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)  # a file or process of others, which tells nobody


def _group_exists(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True
