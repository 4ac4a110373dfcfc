"""What goes wrong where a worker is a process of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project, Run


@pytest.fixture(autouse=True)
def database_in_a_file(project: Project) -> None:
    project.settings('DATABASES["default"]["TEST"] = {"NAME": "test.sqlite3"}\n')


def test_pitfall_13_tasks_that_were_sent_without_a_handle_are_waited_for(
    run: Run, project: Project
) -> None:
    project.tasks("""
        @shared_task
        def fan_out(depth):
            Order.objects.create()
            if depth:
                fan_out.delay(depth - 1)
                fan_out.delay(depth - 1)
        """)
    run("""
        from shop.models import Order
        from shop.tasks import fan_out

        def test_it(celery_live_worker):
            fan_out.delay(4)
            celery_live_worker.wait_until_idle()
            assert Order.objects.count() == 31
    """).assert_outcomes(passed=1)


def test_pitfall_28_a_time_limit_is_enforced(run: Run, project: Project) -> None:
    project.tasks("""
        import time


        @shared_task(soft_time_limit=1)
        def slow():
            time.sleep(60)
        """)
    run("""
        from celery.exceptions import SoftTimeLimitExceeded
        from shop.tasks import slow
        from pytest_djcelery import Failure

        def test_it(celery_live_worker, celery_results):
            assert celery_results[slow.delay()] == Failure(SoftTimeLimitExceeded)
    """).assert_outcomes(passed=1)


def test_pitfall_41_and_42_results_and_chords_over_the_database_of_the_test(
    run: Run, project: Project
) -> None:
    project.settings("""
        INSTALLED_APPS += ["django_celery_results"]
        CELERY_RESULT_BACKEND = "django-db"
        """)
    run("""
        from celery import chord
        from django_celery_results.models import TaskResult
        from shop.tasks import add, count_orders

        def test_it(celery_live_worker):
            header = [add.s(each, each) for each in range(5)]
            results = [chord(header)(count_orders.si()) for _ in range(10)]
            assert [result.get() for result in results] == [0] * 10
            celery_live_worker.wait_until_idle()
            assert TaskResult.objects.filter(status="SUCCESS").count() == 60
    """).assert_outcomes(passed=1)


def test_pitfall_48_nothing_forks_a_process_that_has_threads(run: Run) -> None:
    run("""
        import sys

        from shop.tasks import add

        forks = []
        sys.addaudithook(lambda event, args: forks.append(event) if event == "os.fork" else None)

        def test_a_thread(celery_worker):
            assert add.delay(1, 2).get() == 3

        def test_processes(celery_live_worker):
            assert add.delay(1, 2).get() == 3

        def test_none():
            assert forks == []
    """).assert_outcomes(passed=3)
