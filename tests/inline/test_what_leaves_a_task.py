"""What leaves a task's tracer is its outcome, as under prefork; what ends the test ends it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project, Run

TASKS = """
    from celery import VERSION, Task
    from celery.exceptions import WorkerLostError


    class CutOffError(BaseException):
        pass


    class Alerting(Task):
        def on_failure(self, *args):
            raise ConnectionError("the pager is down")


    # Celery before 5.7 can store no other exception than an `Exception`.
    KINDS = {
        "cut_off": CutOffError if VERSION >= (5, 7) else WorkerLostError,
        "stop_generator": GeneratorExit if VERSION >= (5, 7) else WorkerLostError,
    }


    @shared_task
    def cut_off():
        raise CutOffError("cut off")


    @shared_task
    def stop_generator():
        raise GeneratorExit


    @shared_task(base=Alerting)
    def alerting():
        raise ValueError("declined")


    def look():
        pass


    @shared_task
    def looks():
        look()
    """


@pytest.fixture(autouse=True)
def tasks(project: Project) -> None:
    project.tasks(TASKS)


def test_run_goes_on_after_a_task_that_raised_past_celery(run: Run) -> None:
    run("""
        import pytest
        from pytest_djcelery import Failure
        from shop import tasks

        KINDS = {**tasks.KINDS, "alerting": ConnectionError}

        @pytest.mark.parametrize("name", KINDS)
        def test_it(celery_inline, celery_results, name):
            result = getattr(tasks, name).delay()
            after = tasks.add.delay(1, 2)
            summary = celery_inline.run(raise_failures=False)
            assert (summary.failed, summary.succeeded) == (1, 1)
            assert celery_results[result] == Failure(KINDS[name])
            assert after.get() == 3

        @pytest.mark.parametrize("name", KINDS)
        def test_it_is_raised(celery_inline, name):
            getattr(tasks, name).delay()
            after = tasks.add.delay(1, 2)
            with pytest.raises(KINDS[name]):
                celery_inline.run()
            assert after.get() == 3
    """).assert_outcomes(passed=6)


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_the_embedded_worker_goes_on_after_it(run: Run, pool: str) -> None:
    run(f"""
        import pytest
        from pytest_djcelery import Failure
        from shop import tasks

        KINDS = {{**tasks.KINDS, "alerting": ConnectionError}}

        @pytest.fixture
        def celery_worker_pool():
            return {pool!r}

        @pytest.mark.parametrize("name", KINDS)
        def test_it(celery_worker, celery_results, name):
            result = getattr(tasks, name).delay()
            with pytest.raises(KINDS[name]):
                result.get()
            celery_worker.wait_until_idle()
            assert celery_results[result] == Failure(KINDS[name])
            assert tasks.add.delay(1, 2).get() == 3
    """).assert_outcomes(passed=3)


def test_asking_for_the_outcome_raises_what_on_failure_raised(run: Run) -> None:
    """The task's own error is stored first: `get()` waits for the end of the handler."""
    run("""
        import threading

        import pytest
        from shop import tasks

        def test_it(celery_worker, monkeypatch):
            stored = threading.Event()
            def slow(self, *args):
                assert not stored.wait(0.1)
                raise ConnectionError("the pager is down")
            monkeypatch.setattr(tasks.Alerting, "on_failure", slow)
            with pytest.raises(ConnectionError):
                tasks.alerting.delay().get()
    """).assert_outcomes(passed=1)


def test_fail_and_skip_in_a_task_end_the_test(run: Run) -> None:
    result = run("""
        from unittest.mock import patch

        import pytest
        from shop import tasks

        def test_fails(celery_inline):
            tasks.looks.delay()
            with patch("shop.tasks.look", lambda: pytest.fail("must not look")):
                celery_inline.run(raise_failures=False)

        def test_skips(celery_inline):
            tasks.looks.delay()
            with patch("shop.tasks.look", lambda: pytest.skip("nothing to look at")):
                celery_inline.run(raise_failures=False)

        def test_next(celery_inline):
            assert tasks.add.delay(1, 2).get() == 3
    """)
    result.assert_outcomes(failed=1, skipped=1, passed=1)
    result.stdout.fnmatch_lines(["*Failed: must not look*"])


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:secret@broker:6379/0", "'redis://:[*][*]@broker:6379/0'"),
        ("amqp://me:secret@one//;amqp://me:secret@two//", "'amqp://me:[*][*]@one//;amqp://me:*two//'"),
        (["amqp://me:secret@one//", "amqp://me:secret@two//"], "'amqp://me:[*][*]@one//;amqp://me*"),
    ],
    ids=["one", "several", "list"],
)  # fmt: skip
def test_no_password_is_shown(run: Run, url: str | list[str], shown: str) -> None:
    result = run(f"""
        import pytest

        @pytest.mark.celery(broker_url={url!r})
        def test_it(celery_inline):
            pass
    """)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"E*InlineError: *but the app publishes to {shown}.*"])
    assert "secret" not in result.stdout.str().split("InlineError")[1].splitlines()[0]


@pytest.mark.parametrize("worker", ["celery_inline", "celery_worker"])
def test_receivers_of_an_unknown_task_are_given_what_celerys_worker_gives(
    run: Run, worker: str
) -> None:
    run(f"""
        from celery import signals

        def test_it({worker}, celery_app, celery_results):
            seen = []
            def unknown(exc, **_):
                seen.append(type(exc))
            signals.task_unknown.connect(unknown)
            try:
                result = celery_app.send_task("no.such")
                assert celery_results[result].exception.args == ("no.such",)
                {worker}.{"run" if worker == "celery_inline" else "wait_until_idle"}()
            finally:
                signals.task_unknown.disconnect(unknown)
            assert seen == [KeyError]
    """).assert_outcomes(passed=1)
