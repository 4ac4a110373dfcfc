"""Tasks of celery-batches, which take many messages at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

pytest.importorskip("celery_batches", reason="celery-batches needs Celery before 5.7")

if TYPE_CHECKING:
    from tests.support.project import Project, Run


@pytest.fixture(autouse=True)
def tasks(project: Project) -> None:
    project.ini("djcelery_timeout = 5")
    project.tasks("""
        from celery import current_app
        from celery_batches import Batches

        RUNS = []


        @shared_task(base=Batches, flush_every=3, flush_interval=0.5)
        def gather(requests):
            RUNS.append([request.args[0] for request in requests])
            if "fail" in RUNS[-1]:
                raise ValueError("the batch")
            for request in requests:
                current_app.backend.mark_as_done(request.id, len(requests), request=request)


        @shared_task(base=Batches, flush_every=3, flush_interval=60)
        def gather_slowly(requests):
            RUNS.append([request.args[0] for request in requests])
        """)
    project.write(
        conftest="""
        import pytest


        @pytest.fixture(autouse=True)
        def no_runs():
            from shop.tasks import RUNS

            RUNS.clear()
        """
    )


def test_inline(run: Run) -> None:
    run("""
        from datetime import timedelta

        import pytest
        from pytest_djcelery import BatchError, Failure, NeverReadyError, Success
        from shop.tasks import RUNS, add, gather, gather_slowly

        def test_a_full_batch(celery_inline, celery_results, celery_outbox):
            results = [gather.delay(number) for number in range(3)]
            summary = celery_inline.run()
            assert RUNS == [[0, 1, 2]]
            assert summary.succeeded == 3
            assert [each.id for each in summary.executions] == [each.id for each in results]
            assert [celery_results[each] for each in results] == [Success(3)] * 3
            assert celery_outbox == [gather.s(number) for number in range(3)]

        def test_what_there_is_after_the_interval(celery_inline):
            results = [gather.delay(number) for number in range(2)]
            assert not celery_inline.run().executions
            assert RUNS == []
            assert celery_inline.run(until=timedelta(seconds=0.5)).succeeded == 2
            assert [each.get() for each in results] == [2, 2]

        def test_the_last_one_calls_the_others(celery_inline):
            results = [gather.delay(number) for number in range(3)]
            assert results[0].get() == 3

        def test_others_run_meanwhile(celery_inline):
            gather.delay("held")
            assert add.delay(1, 2).get() == 3
            assert RUNS == []

        def test_what_was_held_is_of_no_later_test(celery_inline):
            [gather.delay(number) for number in range(2)]
            celery_inline.run(until=timedelta(seconds=3))
            assert RUNS == [[0, 1]]

        def test_one_that_is_held_is_not_ready(celery_inline):
            result = gather_slowly.delay(1)
            with pytest.raises(NeverReadyError, match="(?s)holds it.*flush_interval=60 s"):
                result.get()

        @pytest.mark.celery_inline(auto=True)
        def test_automatic(celery_inline):
            [gather.delay(number) for number in range(3)]
            assert RUNS == [[0, 1, 2]]

        def test_one_that_raises(celery_inline, celery_results):
            results = [gather.delay(each) for each in (1, "fail", 2)]
            summary = celery_inline.run(raise_failures=False)
            assert summary.failed == 3
            results = [gather.delay(each) for each in (1, "fail", 2)]
            with pytest.raises(BatchError, match="celery_batches.trace"):
                celery_inline.run()
    """).assert_outcomes(passed=8)


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_embedded(run: Run, pool: str) -> None:
    run(f"""
        import pytest
        from pytest_djcelery import Success, WaitTimeoutError
        from shop.tasks import RUNS, gather, gather_slowly

        @pytest.fixture
        def celery_worker_pool():
            return {pool!r}

        def test_a_full_batch(celery_worker, celery_results):
            results = [gather.delay(number) for number in range(3)]
            assert [each.get() for each in results] == [3, 3, 3]
            assert [celery_results[each] for each in results] == [Success(3)] * 3
            assert RUNS == [[0, 1, 2]]

        def test_what_there_is_after_the_interval(celery_worker):
            results = [gather.delay(number) for number in range(2)]
            celery_worker.wait_until_idle()
            assert RUNS == [[0, 1]]
            assert [each.get() for each in results] == [2, 2]

        def test_what_is_still_held_is_reported(celery_worker):
            gather_slowly.delay("of the test before")
            with pytest.raises(WaitTimeoutError, match="gather_slowly holds 1 message"):
                celery_worker.wait_until_idle(timeout=0.5)

        def test_what_was_held_is_of_no_later_test(celery_worker):
            [gather_slowly.delay(number) for number in range(3)]
            celery_worker.wait_until_idle()
            assert RUNS == [[0, 1, 2]]

        def test_the_end_of_a_test_waits_for_what_comes_soon(celery_worker):
            gather.delay(1)

        def test_one_that_raises(celery_worker):
            [gather.delay(each) for each in (1, "fail", 2)]

        def test_next(celery_worker):
            assert RUNS == []
    """).assert_outcomes(passed=6, failed=1)


def test_eager(run: Run) -> None:
    run("""
        import pytest
        from shop.tasks import RUNS, gather

        @pytest.mark.parametrize("options", [{}, {"task_id": "own"}, {"countdown": 5}])
        def test_it(celery_eager, celery_outbox, options):
            result = gather.apply_async((5,), **options)
            assert RUNS == [[5]]
            assert celery_outbox == [gather.s(5)]
            assert celery_outbox[0].id == result.id == options.get("task_id", result.id)
    """).assert_outcomes(passed=3)
