"""A worker that ends in the middle of a test: no wait is in vain, and no test is green by it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.services import require, url

if TYPE_CHECKING:
    from tests.support.project import Project, Run

DEATHS = {
    "celery_worker": "*WorkerError: The embedded worker died: SystemExit: 3",
    "celery_live_worker": "*WorkerError: The live worker has ended with exit code -9 (SIGKILL)*",
}
each_worker = pytest.mark.parametrize("worker", DEATHS)


@pytest.fixture(autouse=True)
def tasks(project: Project) -> None:
    # A wait until then fails nothing here, but is felt. With one process, nothing runs beside the
    # task that ends the worker.
    project.ini("djcelery_timeout = 60", "djcelery_live_concurrency = 1")
    project.settings('DATABASES["default"]["TEST"] = {"NAME": "test.sqlite3"}\n')
    project.tasks("""
        import os
        import time


        @shared_task
        def end_worker():
            if os.getpid() == int(os.environ["TEST_PROCESS"]):
                raise SystemExit(3)
            os.kill(os.getppid(), 9)
            time.sleep(60)
        """)
    project.write(
        conftest="""
        import os

        os.environ["TEST_PROCESS"] = str(os.getpid())
        """
    )


@each_worker
def test_fails_a_test_that_never_looks(run: Run, worker: str) -> None:
    result = run(f"""
        import pytest
        from shop.tasks import add, end_worker

        pytestmark = pytest.mark.django_db(transaction=True)

        def test_waits({worker}):
            end_worker.delay()
            {worker}.wait_until_idle()

        def test_does_nothing({worker}):
            end_worker.delay()
            add.delay(1, 2)

        def test_next({worker}):
            assert add.delay(1, 2).get() == 3
    """)
    result.assert_outcomes(failed=2, passed=1)
    result.stdout.fnmatch_lines([
        "*test_waits*",
        f"E*{DEATHS[worker]}",
        "E*Not run to the end, or not at all:",
        "E*shop.tasks.end_worker() [[]*]",
        "*test_does_nothing*",
        f"E*{DEATHS[worker]}",
        "E*shop.tasks.add(1, 2) [[]*]",
    ])  # fmt: skip


@each_worker
@pytest.mark.parametrize("backend", ["memory", "redis", "rpc"])
def test_ends_waits_for_results_at_once(
    run: Run, project: Project, worker: str, backend: str
) -> None:
    if backend == "redis":
        require("redis")
        project.ini(f"djcelery_result_backend = {url('redis')}")
    if backend == "rpc":
        require("rabbitmq")
        project.ini(f"djcelery_broker = {url('rabbitmq')}", "djcelery_result_backend = rpc://")
    text = "The embedded worker died" if worker == "celery_worker" else "The live worker has ended"
    run(
        f"""
        import pytest
        from celery import group
        from shop.tasks import add, end_worker

        from pytest_djcelery import WaitTimeoutError

        pytestmark = pytest.mark.django_db(transaction=True)

        def test_it({worker}, celery_results):
            done = add.delay(1, 2)
            assert done.get() == 3
            # rpc:// gives a result once; then it is what the worker has reported.
            {worker}.wait_until_idle()
            killing = end_worker.delay()
            for wait in (
                killing.get,
                lambda: celery_results[killing],
                lambda: add.delay(1, 2).get(),
                lambda: group(add.s(each, 1) for each in range(2))().get(),
            ):
                with pytest.raises(WaitTimeoutError, match="(?s)will come.*{text}"):
                    wait()
            assert celery_results[done].value == 3
        """,
    ).assert_outcomes(passed=1)


@pytest.mark.long
@each_worker
def test_a_worker_that_the_test_itself_shut_down_is_not_an_error(run: Run, worker: str) -> None:
    result = run(f"""
        import time

        import pytest
        from shop.tasks import add

        from pytest_djcelery import WorkerError

        pytestmark = pytest.mark.django_db(transaction=True)

        @pytest.fixture
        def ended({worker}, celery_app):
            celery_app.control.shutdown()
            while "as it was asked" not in {worker}.situation():
                time.sleep(0.01)  # nothing tells a test of it that waits for no result

        def test_no_message_waits({worker}, ended):
            {worker}.wait_until_idle()

        def test_one_waits({worker}, ended):
            add.delay(3, 4)
            with pytest.raises(WorkerError, match="(?s)as it was asked.*add.3, 4. "):
                {worker}.wait_until_idle()

        def test_next({worker}):
            assert add.delay(1, 2).get() == 3
    """)
    result.assert_outcomes(passed=3)
