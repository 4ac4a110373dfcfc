"""A task that waits for the result of another, as `allow_join_result` lets it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.services import require, url

if TYPE_CHECKING:
    from tests.support.project import Project, Run


@pytest.fixture(autouse=True)
def tasks(project: Project) -> None:
    project.tasks("""
        from celery.result import AsyncResult, allow_join_result


        @shared_task
        def wait_for_add(x, **options):
            with allow_join_result():
                return add.apply_async((x, x), **options).get()


        @shared_task
        def wait_for_failure():
            with allow_join_result():
                return fail.delay("inside").get()


        @shared_task(bind=True)
        def wait_for_itself(self):
            with allow_join_result():
                return AsyncResult(self.request.id).get()
        """)


def test_inline_lists_both_executions_in_the_order_in_which_they_ended(run: Run) -> None:
    run("""
        import pytest
        from shop.tasks import add, wait_for_add, wait_for_failure

        def test_it(celery_inline):
            wait_for_add.delay(2)
            summary = celery_inline.run()
            assert [each.task.rpartition(".")[2] for each in summary.executions] == [
                "add", "wait_for_add"
            ]
            assert summary.succeeded == 2

        def test_messages_that_stand_before_it_run_too(celery_inline, celery_results):
            result = wait_for_add.delay(2)
            before = add.delay(5, 5)
            assert result.get() == 4
            assert celery_results.now(before).value == 10

        def test_those_with_an_eta_stay(celery_inline):
            wait_for_add.delay(2)
            add.apply_async((1, 1), countdown=60)
            celery_inline.run()
            assert len(celery_inline.scheduled) == 1

        def test_its_failure_is_raised(celery_inline):
            wait_for_failure.delay()
            with pytest.raises(ValueError, match="inside") as caught:
                celery_inline.run()
            assert "shop.tasks.wait_for_failure" in caught.value.__notes__[0]

        @pytest.mark.celery_inline(auto=True)
        def test_automatic(celery_inline):
            assert wait_for_add.delay(2).get() == 4
    """).assert_outcomes(passed=5)


def test_inline_says_at_once_what_will_never_be_ready(run: Run) -> None:
    run("""
        import pytest
        from pytest_djcelery import NeverReadyError
        from shop.tasks import wait_for_add, wait_for_itself

        def test_itself(celery_inline):
            wait_for_itself.delay()
            with pytest.raises(NeverReadyError):
                celery_inline.run()

        def test_one_with_an_eta(celery_inline):
            wait_for_add.delay(2, countdown=60)
            with pytest.raises(NeverReadyError, match="it is scheduled for"):
                celery_inline.run()
    """).assert_outcomes(passed=2)


def test_a_waiting_task_is_rolled_back_without_what_the_other_has_written(
    run: Run, project: Project
) -> None:
    """The one that waits is rolled back, and not what the other has written."""
    address = require("postgresql")
    project.settings(f"""
        import os
        DATABASES = {{"default": {{
            "ENGINE": "django.db.backends.postgresql", "NAME": "waits", "HOST": {address.host!r},
            "PORT": {address.port}, "USER": os.environ.get("DATABASE_USER", "postgres"),
            "PASSWORD": os.environ.get("DATABASE_PASSWORD", ""),
            "TEST": {{"NAME": "test_waits_" + str(os.getpid())}},
        }}}}
        """)
    project.tasks("""
        from django.db import transaction


        @shared_task
        def make(name):
            return Order.objects.create(name=name).pk


        @shared_task
        def roll_back():
            try:
                with transaction.atomic(), allow_join_result():
                    Order.objects.create(name="rolled back")
                    make.delay("kept").get()
                    raise ValueError
            except ValueError:
                return [order.name for order in Order.objects.all()]
        """)
    run("""
        import pytest
        from shop.tasks import roll_back

        @pytest.mark.celery_sent_in_transaction("ignore")
        def test_it(celery_worker, db):
            assert roll_back.delay().get() == ["kept"]
    """).assert_outcomes(passed=1)


def test_a_pool_whose_threads_all_wait_is_reported_at_once(run: Run, project: Project) -> None:
    project.ini("djcelery_timeout = 60")
    run("""
        import pytest
        from pytest_djcelery import Failure, WorkerError
        from shop.tasks import wait_for_add

        @pytest.fixture
        def celery_worker_pool():
            return "threads"

        def test_one(celery_worker, celery_results):
            assert celery_results[wait_for_add.delay(2)] == Failure(
                WorkerError, match="The one thread of celery_worker runs a task that waits"
            )

        @pytest.mark.parametrize(
            "celery_worker_parameters", [{"concurrency": 2}], indirect=True
        )
        def test_two(celery_worker):
            assert wait_for_add.delay(2).get() == 4

        @pytest.fixture
        def celery_worker_parameters(request):
            return getattr(request, "param", {})
    """).assert_outcomes(passed=2)


def test_over_redis_a_worker_of_one_thread_fails_at_once(run: Run, project: Project) -> None:
    require("redis")
    project.ini("djcelery_timeout = 60", f"djcelery_broker = {url('redis')}")
    run(
        """
        from pytest_djcelery import Failure, WorkerError
        from shop.tasks import wait_for_add

        def test_it(celery_worker, celery_results):
            assert celery_results[wait_for_add.delay(2)] == Failure(
                WorkerError, match="Over 'redis' no second message can be taken"
            )
        """,
        *("-W", "ignore:Call to deprecated:DeprecationWarning"),
    ).assert_outcomes(passed=1)


def test_a_task_that_waits_in_vain_fails_at_the_deadline(run: Run, project: Project) -> None:
    project.ini("djcelery_timeout = 1")
    run("""
        from pytest_djcelery import Failure, WaitTimeoutError
        from shop.tasks import wait_for_itself

        def test_it(celery_worker, celery_results):
            outcome = celery_results[wait_for_itself.delay()]
            assert outcome == Failure(WaitTimeoutError, match="A task waited 0.5 s for")
    """).assert_outcomes(passed=1)
