"""What a test reads that has set a fault which never happened, or that is no fault."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.project import Project


def test_faults_that_never_fired_and_wrong_use(project: Project) -> None:
    result = project.run("""
        import pytest
        from pytest_djcelery import faults
        from shop.tasks import add, fail

        pytestmark = pytest.mark.django_db


        def test_other_task(celery_inline, celery_faults):
            celery_faults.fail(fail, OSError)
            add.delay(1, 2)
            celery_inline.run()


        def test_no_run(celery_inline, celery_faults):
            celery_faults.lose_worker(add)
            add.delay(1, 2)


        def test_other_error(celery_inline, celery_faults):
            celery_faults.fail(fail, OSError)
            assert add(1, 2) == 4


        def test_no_publish(celery_inline, celery_faults):
            with celery_faults.broker_down():
                add(1, 2)


        def test_optional(celery_inline, celery_faults):
            celery_faults.fail(fail, OSError, optional=True)
            celery_faults.fail(fail, OSError).cancel()
            celery_faults.stub(fail)


        def test_of_the_worker(celery_worker, celery_faults):
            celery_faults.duplicate(fail, times=None)
            add.delay(1, 2)


        def test_eagerly(celery_eager, celery_faults):
            celery_faults.lose_worker(add)


        def test_unknown(celery_inline, celery_faults):
            celery_faults.lose_worker("shop.tasks.ad")


        def test_unknown_place(celery_inline, celery_faults):
            celery_faults.lose_worker(add, at="charge")


        def test_afterwards(celery_inline):
            assert add.delay(1, 2).get() == 3
        """)
    result.assert_outcomes(passed=2, failed=8)
    result.stdout.fnmatch_lines(
        [
            "*NotFiredError: celery_faults.fail(fail, OSError) never happened, set at test_it.py*",
            "E * shop.tasks.fail did not run. What ran: shop.tasks.add(1, 2): SUCCESS.",
            "E * If it need not happen: optional=True, or cancel(). Otherwise have the task run *",
            "*FaultNotFiredError: celery_faults.lose_worker(add) never happened, *",
            "E * Nothing has run since. celery_inline delivers when the test says so: *",
            "E * Due: shop.tasks.add(1, 2) *",
            "E * assert 3 == 4",
            "*FaultNotFiredError: celery_faults.broker_down() never happened, *",
            "E * What was published since: nothing.",
            "E * Otherwise have a message sent, or a result used, while it lasts.",
            "*BadOptionError: celery_faults.lose_worker(): the tasks of this test run eagerly, *",
            "*BadOption*: *.lose_worker(): no task 'shop.tasks.ad' is *: shop.tasks.add*",
            "*BadOption*: *.lose_worker(add, at='charge'): at='charge'. Expected 'start'*",
            "*FaultNotFiredError: celery_faults.duplicate(fail) never happened, *",
        ]
    )
    result.stdout.no_fnmatch_line("*plugin.py*")
