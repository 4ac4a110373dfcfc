"""Pitfalls of eager mode, and of the check that eager mode and thread workers get wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project, Run

MODES = pytest.mark.parametrize("mode", ["celery_eager", "celery_worker"])


@MODES
def test_pitfall_09_a_failed_task_fails_the_test_that_never_looked_at_it(
    run: Run, mode: str
) -> None:
    result = run(f"""
        import pytest
        from pytest_djcelery import Failure
        from shop.tasks import add, fail

        def test_unseen({mode}):
            fail.delay()

        def test_unseen_beside_one_that_was_seen({mode}):
            fail.delay("unseen")
            with pytest.raises(ValueError, match="seen"):
                fail.delay("seen").get()

        def test_seen_by_get({mode}):
            with pytest.raises(ValueError, match="boom"):
                fail.delay().get()

        def test_seen_by_state({mode}):
            result = fail.delay()
            result.get(propagate=False)
            assert result.state == "FAILURE"

        def test_seen_by_outcome({mode}, celery_results):
            assert celery_results[fail.delay()] == Failure(ValueError)

        def test_success({mode}):
            assert add.delay(1, 2).get() == 3
        """)
    result.assert_outcomes(passed=4, failed=2)
    result.stdout.fnmatch_lines_random(
        [
            "FAILED *::test_unseen - Failed: A task*",
            "FAILED *::test_unseen_beside_one_that_was_seen - Failed: A*",
        ]
    )


def test_pitfall_10_handlers_and_errbacks_run_before_eager_mode_raises(project: Project) -> None:
    project.tasks("""
        from celery import Task
        from celery.signals import task_failure

        happened = []

        class Noisy(Task):
            def on_failure(self, exc, task_id, args, kwargs, einfo):
                happened.append(f"on_failure {exc}")

        @shared_task(base=Noisy)
        def noisy():
            raise ValueError("boom")

        @shared_task
        def errback(request, exc, traceback):
            happened.append(f"errback {exc}")

        @task_failure.connect
        def on_signal(exception, **kwargs):
            happened.append(f"signal {exception}")
        """)
    result = project.run("""
        import pytest
        from shop import tasks

        @pytest.fixture(autouse=True)
        def nothing_yet():
            tasks.happened.clear()

        @pytest.mark.celery(task_eager_propagates=True)
        def test_propagating(celery_eager):
            with pytest.raises(ValueError, match="boom"):
                tasks.noisy.apply_async(link_error=tasks.errback.s())
            assert sorted(tasks.happened) == ["errback boom", "on_failure boom", "signal boom"]

        def test_not_propagating(celery_eager):
            result = tasks.noisy.apply_async(link_error=tasks.errback.s())
            assert sorted(tasks.happened) == ["errback boom", "on_failure boom", "signal boom"]
            with pytest.raises(ValueError, match="boom"):
                result.get()
        """)
    result.assert_outcomes(passed=2)


def test_pitfall_11_eager_results_can_be_read_back_by_id(run: Run) -> None:
    result = run("""
        import pytest
        from celery.result import AsyncResult
        from shop.tasks import add, fail

        def test_before_the_first_task_was_bound_and_after(celery_eager, celery_results):
            result = add.delay(1, 2)
            again = AsyncResult(result.id)
            assert (again.state, again.result) == ("SUCCESS", 3)
            assert celery_results[result.id].value == 3

        def test_failure(celery_eager):
            again = AsyncResult(fail.delay().id)
            assert again.state == "FAILURE"
            with pytest.raises(ValueError, match="boom"):
                again.get()

        def test_a_setting_changed_late_reaches_tasks_bound_before(celery_app, settings):
            assert add.app.tasks[add.name].store_eager_result is False
            with pytest.MonkeyPatch.context():
                settings.CELERY_TASK_ALWAYS_EAGER = True
                settings.CELERY_TASK_STORE_EAGER_RESULT = True
                assert AsyncResult(add.delay(1, 2).id).state == "SUCCESS"

        def test_and_is_undone(celery_app):
            assert add.app.tasks[add.name].store_eager_result is False
            assert AsyncResult(add.apply(args=(1, 2)).id).state == "PENDING"
        """)
    result.assert_outcomes(passed=4)


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_pitfall_24_get_inside_a_task_is_refused_as_in_production_and_only_there(
    project: Project, pool: str
) -> None:
    project.write(
        conftest=f"""
        import pytest

        @pytest.fixture(scope="session")
        def celery_worker_pool():
            return {pool!r}
        """
    )
    project.tasks("""
        from celery.result import allow_join_result

        @shared_task
        def waits():
            return add.delay(1, 2).get(timeout=5)

        @shared_task
        def may_wait():
            result = add.apply_async((1, 2), queue="nobody")
            with allow_join_result():
                try:
                    return result.get(timeout=0.01)
                except TimeoutError:
                    return "waited"
                except Exception as error:
                    return type(error).__name__

        @shared_task
        def may_wait_for_an_inner_block():
            with allow_join_result():
                pass
            return add.delay(1, 2).get(timeout=5)
        """)
    # A pool of threads that all wait is told so at once.
    found = {"solo": ("waited", "TimeoutError"), "threads": ("WorkerError",)}[pool]
    tests = """
        import pytest
        from celery import _state
        from shop.tasks import add, may_wait, may_wait_for_an_inner_block, waits

        @pytest.mark.parametrize("task", [waits, may_wait_for_an_inner_block])
        def test_in_a_task(celery_worker, task):
            with pytest.raises(RuntimeError, match="Never call result.get"):
                task.delay().get()

        @pytest.mark.filterwarnings("ignore::pytest_djcelery.QueueNotConsumedWarning")
        def test_allowed_in_a_task(celery_worker):
            assert may_wait.delay().get() in FOUND

        def test_in_the_test(celery_worker):
            assert add.delay(1, 2).get() == 3

        def test_the_process_is_as_it_was():
            assert not _state.task_join_will_block()
        """
    result = project.run(tests.replace("FOUND", repr(found)))
    result.assert_outcomes(passed=5)
