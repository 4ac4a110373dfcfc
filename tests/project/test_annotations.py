"""``task_annotations`` that a test changes reach tasks that are bound already, and go with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.project import Project, Run

FOUND = """
    from shop import tasks

    def attributes():
        return {
            task.name: {name: value for name, value in vars(type(task)).items() if name[:2] != "__"}
            for task in (tasks.add, tasks.fail, tasks.flaky, tasks.count_orders)
        }
    """


ANNOTATED = """
import pytest
from django.test import override_settings
from pytest_djcelery import app, inline
from shop.found import attributes
from shop.tasks import add, count_orders, fail, flaky

found = []
failures = []

def noting(method):
    def on_failure(self, *args, **kwargs):
        failures.append(self.name)
        return method(self, *args, **kwargs)
    return on_failure

class Annotation:
    def annotate(self, task):
        return {"acks_late": True} if task.name == add.name else None

    def annotate_any(self):
        return {"custom": "any"}

LIMITS = {add.name: {"rate_limit": "1/s", "custom": 1}, "*": {"rate_limit": "9/s"}}
"""


def test_annotations_take_effect_and_are_undone(run: Run, project: Project) -> None:
    project.write(**{"shop/found": FOUND})
    result = run(
        """
        def test_first(celery_app):
            add.name  # a lazy task is bound when it is first looked at
            found.append(attributes())

        @pytest.mark.celery(task_annotations=LIMITS)
        def test_by_marker():
            # As `Task.annotate` does: what is meant for any comes last.
            assert (add.rate_limit, fail.rate_limit) == ("9/s", "9/s")
            assert add.custom == 1
            assert not hasattr(fail, "custom")

        def test_by_settings(celery_app, settings):
            settings.CELERY_TASK_ANNOTATIONS = {add.name: {"rate_limit": "1/s"}}
            assert (add.rate_limit, fail.rate_limit) == ("1/s", None)
            with app(task_default_rate_limit="5/h"):
                assert (add.rate_limit, fail.rate_limit) == ("1/s", "5/h")
                settings.CELERY_TASK_ANNOTATIONS = None
                assert (add.rate_limit, fail.rate_limit) == ("5/h", "5/h")
            assert (add.rate_limit, fail.rate_limit) == (None, None)

        def test_for_a_block(celery_app):
            with override_settings(CELERY_TASK_ANNOTATIONS=[Annotation(), LIMITS]):
                assert (add.rate_limit, add.acks_late, add.custom) == (None, True, "any")
                assert fail.custom == "any"
            assert attributes() == found[0]

        def test_a_class_by_its_name(celery_app):
            celery_app.conf.task_annotations = "test_it.Annotation"
            assert (add.acks_late, fail.acks_late) == (True, False)

        def test_a_task_of_a_test(celery_app):
            with app(task_annotations=LIMITS):
                @celery_app.task
                def mine(): ...
                assert mine.rate_limit == "9/s"
            assert mine.rate_limit is None

        def test_nothing_is_left(celery_inline):
            assert attributes() == found[0]
            failures.clear()
            fail.delay()
            with pytest.raises(ValueError, match="boom"):
                celery_inline.run()
            assert failures == []
        """,
        preamble=ANNOTATED,
    )
    result.assert_outcomes(passed=7)


def test_an_annotated_method_and_annotations_that_fail_are_undone(
    run: Run, project: Project
) -> None:
    project.write(**{"shop/found": FOUND})
    result = run(
        """
        def test_first(celery_app):
            add.name  # a lazy task is bound when it is first looked at
            found.append(attributes())

        @pytest.mark.celery(task_annotations={"*": {"@on_failure": noting}})
        def test_a_method(celery_inline):
            fail.delay()
            with pytest.raises(ValueError, match="boom"):
                celery_inline.run()
            assert failures == [fail.name]

        def test_one_that_fails(celery_app):
            with pytest.raises(ModuleNotFoundError, match="nowhere"):
                with app(task_annotations=[LIMITS, "nowhere.Annotation"], task_acks_late=True):
                    pass
            assert attributes() == found[0]
            assert celery_app.conf.task_annotations is None
            assert celery_app.conf.task_acks_late is False

        def test_nothing_is_left(celery_inline):
            assert attributes() == found[0]
            failures.clear()
            fail.delay()
            with pytest.raises(ValueError, match="boom"):
                celery_inline.run()
            assert failures == []
        """,
        preamble=ANNOTATED,
    )
    result.assert_outcomes(passed=4)


def test_annotations_of_the_project_give_way_to_those_of_a_test(run: Run, project: Project) -> None:
    project.write(**{"shop/found": FOUND})
    project.tasks("""
        @shared_task(bind=True, max_retries=7)
        def limited(self):
            return 21
        """)
    project.settings("""
        def doubled(method):
            def double(self, *args, **kwargs):
                return 2 * method(self, *args, **kwargs)
            return double

        CELERY_TASK_ANNOTATIONS = {
            "*": {"acks_late": True, "custom": 1, "max_retries": 3},
            "shop.tasks.limited": {"@run": doubled},
        }
        """)
    result = run("""
        import pytest
        from shop.found import attributes
        from shop.tasks import add, limited

        found = []

        def test_before(celery_inline):
            assert (add.acks_late, add.custom, add.max_retries) == (True, 1, 3)
            assert limited.delay().get() == 42
            found.append(attributes())

        @pytest.mark.celery(task_annotations={add.name: {"rate_limit": "1/s"}})
        def test_others(celery_inline):
            assert (add.acks_late, hasattr(add, "custom"), add.rate_limit) == (False, False, "1/s")
            assert add.max_retries == 3  # Celery's own default
            assert limited.delay().get() == 21

        def test_after(celery_inline):
            assert attributes() == found[0]
            assert limited.delay().get() == 42
    """)
    result.assert_outcomes(passed=3)
