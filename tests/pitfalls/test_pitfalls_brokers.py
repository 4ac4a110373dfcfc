"""What goes wrong with a broker that others use, or that dies."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

from tests.support import stoppable_servers
from tests.support.broker_leftovers import BROKERS, NOTE, left, noted
from tests.support.services import require, url

if TYPE_CHECKING:
    from tests.support.project import Project, Run

# 43: two runs on one broker ---------------------------------------------------------------

# Each run fills the queue of the project, waits until the other has, and counts what it gets.
SIDE_BY_SIDE = """
    import os
    import threading
    from pathlib import Path
    import pytest
    from celery import shared_task
    from noting import note

    MINE = os.environ.get("MINE") or os.environ["PYTEST_XDIST_WORKER"]
    seen = []

    @shared_task
    def see(whose):
        seen.append(whose)

    @pytest.mark.parametrize("number", range(2))
    def test_only_my_own(celery_app, celery_outbox, request, number):
        for _ in range(5):
            see.delay(MINE)
        Path(f"{MINE}.ready").touch()
        looked = threading.Event()
        for _ in range(500):
            if len(list(Path().glob("*.ready"))) == 2:
                break
            looked.wait(0.02)
        worker = request.getfixturevalue("celery_worker")
        worker.wait_until_idle()
        assert seen == [MINE] * 5
        seen.clear()
        note(celery_app)
"""


@pytest.mark.parametrize("service", BROKERS)
def test_pitfall_43_two_runs_at_once_see_nothing_of_each_other(
    run: Run, project: Project, service: str
) -> None:
    require(service)
    project.write(noting=NOTE, test_side=SIDE_BY_SIDE)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"]
    command += ["-W", "error", f"--djcelery-broker={url(service)}", "test_side.py"]
    both = [
        subprocess.Popen(
            command,
            cwd=project.path,
            env={**os.environ, "MINE": mine},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for mine in ("one", "two")
    ]
    outputs = [each.communicate(timeout=60)[0] for each in both]

    assert [each.returncode for each in both] == [0, 0], "\n".join(outputs)
    assert len({prefix for prefix, _, _ in noted(project.path)}) == 2
    assert left(service, project.path) == []


def test_pitfall_43_processes_of_xdist_see_nothing_of_each_other(
    run: Run, project: Project
) -> None:
    service = "redis"
    require(service)
    project.write(noting=NOTE)
    project.ini(f"djcelery_broker = {url(service)}")

    run(SIDE_BY_SIDE, "-n", "2").assert_outcomes(passed=2)

    assert len({prefix for prefix, _, _ in noted(project.path)}) == 2
    assert left(service, project.path) == []


# 22: a broker that dies -------------------------------------------------------------------

DIES = """
    from time import perf_counter
    import pytest
    import servers
    from pytest_djcelery import (
        BrokerUnreachableError, QueueNotConsumedWarning, WaitTimeoutError,
    )
    from shop.tasks import add

    @pytest.fixture(scope="module", autouse=True)
    def server():
        server = servers.{server}
        yield server
        server.close()

    def test_goes_and_comes_back(server, celery_worker):
        assert add.delay(1, 2).get() == 3
        server.end()
        with pytest.raises(BrokerUnreachableError, match="does not answer"):
            add.delay(1, 2)
        server.start()
        assert add.delay(3, 4).get() == 7

    def test_says_nothing_for_a_while(server, celery_worker):
        assert add.delay(1, 2).get() == 3
        server.freeze()
        start = perf_counter()
        with pytest.raises(BrokerUnreachableError, match="does not answer"):
            add.delay(1, 2)
        assert perf_counter() - start < 8
        server.thaw()
        assert add.delay(3, 4).get() == 7

    def test_goes_with_a_message(server, celery_app, celery_worker):
        with pytest.warns(QueueNotConsumedWarning):
            result = add.apply_async((1, 2), queue="other")
        server.end()
        with pytest.raises(WaitTimeoutError, match="lost its broker|is in the queue 'other'"):
            result.get(timeout=0.5)
        server.start()
"""


@pytest.mark.parametrize("service", BROKERS)
def test_pitfall_22_a_broker_that_dies_is_named_and_one_that_comes_back_is_used(
    run: Run, project: Project, monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    port = stoppable_servers.free_port()
    if service == "redis":
        _require_redis_server()
        server, broker = f"RedisServer({port})", f"redis://127.0.0.1:{port}/0"
    else:
        address = require("rabbitmq")
        server = f"Proxy({port}, {tuple(address)})"
        broker = url(service).replace(f"{address.host}:{address.port}", f"127.0.0.1:{port}")
    _write_servers(project)
    monkeypatch.setenv("TMPDIR", str(project.path))  # the record of what goes with its server
    project.ini(f"djcelery_broker = {broker}", "djcelery_timeout = 2")

    run(DIES.replace("{server}", server)).assert_outcomes(passed=3)


@pytest.mark.skipif(redis.VERSION < (6, 2), reason="redis-py 6.1 locks itself out as it reconnects")
def test_pitfall_22_a_result_backend_that_dies_is_named(
    run: Run, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    _require_redis_server()
    monkeypatch.setenv("TMPDIR", str(project.path))  # as above
    port = stoppable_servers.free_port()
    _write_servers(project)
    project.ini(f"djcelery_result_backend = redis://127.0.0.1:{port}/0", "djcelery_timeout = 2")

    result = run(
        f"""
        import pytest
        import servers
        from pytest_djcelery import WaitTimeoutError
        from pytest_djcelery.brokers.servers import ResultsUnreachableError
        from shop.tasks import add

        @pytest.fixture(scope="module", autouse=True)
        def server():
            server = servers.RedisServer({port})
            yield server
            server.close()

        def test_never_comes(celery_outbox):
            with pytest.raises(WaitTimeoutError, match="No worker runs in this test"):
                add.delay(1, 2).get()

        def test_says_nothing(server, celery_worker):
            assert add.delay(1, 2).get() == 3
            server.freeze()
            with pytest.raises(Exception, match="result backend redis:.* does not answer"):
                add.AsyncResult("an-id").get()
            server.thaw()

        def test_dies_before_an_outcome_is_read(server, celery_worker, celery_results):
            result = add.delay(1, 2)
            celery_worker.wait_until_idle()
            server.end()
            for read in (celery_results.__getitem__, celery_results.now):
                with pytest.raises(ResultsUnreachableError, match=f"outcome of {{result.id}}"):
                    read(result)
            server.start()

        def test_dies(server, celery_worker):
            server.end()
            add.delay(1, 2).get()
        """,
        # Celery unsubscribes from a result as it is collected, and complains there.
        "-W",
        "ignore::pytest.PytestUnraisableExceptionWarning",
    )

    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(
        [
            "E *ResultsUnreachableError: The result backend redis://* does not answer: *",
            "E *uses that backend because of djcelery_result_backend*",
        ]
    )


def _require_redis_server() -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server on this machine, which the test would start and stop")


def _write_servers(project: Project) -> None:
    project.write(servers=Path(stoppable_servers.__file__).read_text(encoding="utf-8"))
