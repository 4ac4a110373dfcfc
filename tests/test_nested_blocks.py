"""Context managers inside a test, or a block, that has the same way to run tasks already."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.conftest import Project


def test_a_helpers_block_is_part_of_a_test_that_runs_its_tasks_in_the_same_way(
    project: Project,
) -> None:
    result = project.run("""
        import pytest
        from django.test import TestCase
        from hypothesis import HealthCheck, given, settings, strategies
        from pytest_djcelery import eager, inline, worker
        from shop.tasks import add, fail


        def run_all():
            with inline() as here:
                return here.run().succeeded


        def test_inline(celery_inline):
            add.delay(1, 2)
            assert run_all() == 1
            add.delay(1, 2)
            assert celery_inline.run().succeeded == 1  # still there after the block


        @pytest.mark.usefixtures("celery_inline")
        class InlineTests(TestCase):
            def test_of_a_class(self):
                add.delay(1, 2)
                assert run_all() == 1


        @given(strategies.integers())
        @settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
        def test_of_hypothesis(celery_inline, number):
            add.delay(1, number)
            assert run_all() == 1


        @pytest.mark.celery_inline(auto=True)
        def test_inline_by_itself():
            with inline(auto=True):
                assert add.delay(1, 2).ready()
            assert add.delay(1, 2).ready()


        def test_worker(celery_worker):
            with worker() as here:
                assert here is celery_worker
            assert add.delay(1, 2).get() == 3


        def test_eager(celery_eager):
            with eager(propagates=True), pytest.raises(ValueError, match="boom"):
                fail.delay()
            with pytest.raises(ValueError, match="boom"):
                fail.delay().get()
        """)
    result.assert_outcomes(passed=6)


def test_other_options_than_those_in_use_are_refused(project: Project) -> None:
    result = project.run("""
        from pytest_djcelery import inline, worker


        def test_inline(celery_inline):
            with inline(auto=True):
                pass


        def test_worker(celery_worker):
            with worker(pool="threads"):
                pass
        """)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines_random(
        [
            "E *: celery_inline was asked for with other options than the one that is in use.",
            "E *: celery_worker was asked for with other options than the one that is in use.",
            "E *A test has one way to run its tasks: give both the same options, or drop one.",
        ]
    )
