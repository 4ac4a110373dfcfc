"""A task's exception reaches the test as it was raised, also where pickle can't restore it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project, Run


@pytest.fixture(autouse=True)
def tasks(project: Project) -> None:
    project.tasks("""
        class Refused(Exception):
            def __init__(self, code, reason):
                self.code = code
                super().__init__(f"{code}: {reason}")


        class Missing(LookupError):
            def __init__(self, *, key):
                self.key = key
                super().__init__(f"no {key}")


        @shared_task
        def refuse():
            raise Refused(403, "go away")


        @shared_task
        def search():
            raise Missing(key="answer")
        """)


def test_with_celery_inline(run: Run) -> None:
    result = run("""
        import pytest
        from shop.tasks import Missing, Refused, refuse, search

        @pytest.mark.parametrize("task, kind", [(refuse, Refused), (search, Missing)])
        class TestInline:
            def test_run_raises_it(self, task, kind, celery_inline):
                task.delay()
                with pytest.raises(kind) as raised:
                    celery_inline.run()
                assert type(raised.value) is kind
                assert raised.traceback[-1].name == task.__name__
                [note] = raised.value.__notes__
                assert note.startswith(f"in the task {task.name}() [")

            def test_a_step_and_a_summary_have_it(self, task, kind, celery_inline):
                task.delay()
                assert type(celery_inline.step().exception) is kind
                task.delay()
                [execution] = celery_inline.run(raise_failures=False).executions
                assert type(execution.exception) is kind

            @pytest.mark.celery(task_eager_propagates=True)
            @pytest.mark.celery_inline(auto=True)
            def test_by_itself(self, task, kind):
                with pytest.raises(kind) as raised:
                    task.delay()
                assert type(raised.value) is kind
    """)
    result.assert_outcomes(passed=6)


def test_in_eager_mode(run: Run) -> None:
    result = run("""
        import pytest
        from pytest_djcelery import eager
        from shop.tasks import Missing, Refused, refuse, search

        @pytest.mark.parametrize("task, kind", [(refuse, Refused), (search, Missing)])
        def test_it(task, kind):
            with eager(propagates=True), pytest.raises(kind) as raised:
                task.delay()
            assert type(raised.value) is kind
            assert raised.traceback[-1].name == task.__name__

        def test_one_in_another(celery_app):
            @celery_app.task
            def outer():
                try:
                    refuse.delay()
                except Refused as error:
                    return error.code

            with eager(propagates=True):
                assert outer.delay().get() == 403
    """)
    result.assert_outcomes(passed=3)


def test_a_failure_that_nobody_saw(run: Run) -> None:
    result = run("""
        import pytest
        from shop.tasks import refuse, search

        @pytest.mark.celery_inline(auto=True)
        def test_inline():
            refuse.delay()

        @pytest.mark.django_db(transaction=True)
        def test_worker(celery_worker):
            search.delay()
    """)
    result.assert_outcomes(failed=2)
    shown = result.stdout.str()
    for line in (
        r"refuse\(\) \[.*\]: Refused: 403: go away",
        r"search\(\) \[.*\]: Missing: no answer",
    ):
        assert re.search(rf"^  shop\.tasks\.{line}$", shown, re.MULTILINE)


@pytest.mark.parametrize("mode", ["celery_inline", "celery_worker", "celery_eager"])
def test_what_can_not_be_made_again_is_shown_as_it_was_raised(
    project: Project, run: Run, mode: str
) -> None:
    project.tasks("""
        class Invalid(ValueError):
            # As pydantic's ValidationError: its text is none of its arguments.
            def __init__(self, title, errors):
                super().__init__()
                self.title, self.errors = title, errors

            def __str__(self):
                return "\\n".join([f"{len(self.errors)} errors for {self.title}", *self.errors])


        @shared_task
        def validate():
            raise Invalid("Order", ["name", "  is required"])
        """)
    result = run(f"""
        from celery.utils.serialization import UnpickleableExceptionWrapper
        from pytest_djcelery import Failure, Success
        from shop.tasks import Refused, refuse, validate

        def test_success({mode}, celery_results):
            assert celery_results[validate.delay()] == Success("ok")

        def test_match({mode}, celery_results):
            assert celery_results[refuse.delay()] == Failure(Refused, match="go away")

        def test_as_the_remedy_says({mode}, celery_results):
            assert celery_results[validate.delay()] == Failure(ValueError)
            kind = UnpickleableExceptionWrapper if "eager" in "{mode}" else Exception
            assert celery_results[refuse.delay()] == Failure(kind, match="Refused")
        """)
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(
        [
            "E * the task raised: shop.tasks.Invalid: 2 errors for Order",
            "E *   name",
            "E *     is required",
            "E * at shop/tasks.py:* in validate: raise Invalid(*",
            (
                "E * To fix: Celery can't restore Invalid from what is stored, so get() raises "
                "ValueError. If the failure is meant, expect Failure(ValueError); if not, start "
                "at the line that raised it."
            ),
            "E * the task raised: shop.tasks.Refused: 403: go away",
        ]
    )
