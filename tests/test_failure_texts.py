"""What a person reads when a task failed, an outcome differs or a wait was in vain."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Project

Run = Callable[..., pytest.RunResult]

OWN_TRACEBACK = [
    "    @shared_task",
    '    def fail(text="boom"):',
    ">       raise ValueError(text)",
    "E       ValueError: boo",
    "",
    "shop/tasks.py:*: ValueError",
]


@pytest.mark.parametrize("mode", ["celery_worker", "celery_eager"])
def test_a_failure_nobody_looked_at_shows_the_tasks_own_traceback_and_the_ways_out(
    run: Run, mode: str
) -> None:
    result = run(f"""
        from shop.tasks import fail

        def test_it({mode}):
            fail.delay("boo")
        """)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "A task failed and the test never looked at it:",
            "  shop.tasks.fail('boo') [[]*]: ValueError: boo",
            "Where the failure is meant, look at it: with pytest.raises(...): result.get(), or",
            "celery_results[[]result] == Failure(...), or celery_results.of(task).",
            "To let failures pass: @pytest.mark.celery_unhandled_failures('ignore'), or",
            "djcelery_unhandled_failures = ignore for the whole run.",
            "",
            "shop.tasks.fail('boo') [[]*]",
            "",
            *OWN_TRACEBACK,
        ],
        consecutive=True,
    )
    result.stdout.no_fnmatch_line("*celery: tasks that failed*")


def test_a_failure_inside_a_library_shows_the_tasks_line_in_full_and_the_rest_in_brief(
    run: Run,
) -> None:
    result = run("""
        from shop.tasks import ship

        def test_it(db, celery_worker):
            ship.delay(4)
        """)
    result.stdout.fnmatch_lines(
        [
            "shop.tasks.ship(4) [[]*]",
            "    def ship(order_id, [*], express=False):",
            ">       order = Order.objects.get(pk=order_id)",
            "shop/tasks.py:*",
            "*django/db/models/manager.py:*: in manager_method",
            "    return getattr(*",
            "E   shop.models.Order.DoesNotExist: Order matching query does not exist.",
        ]
    )


def test_of_many_failures_each_is_named_and_three_are_shown_in_full(run: Run) -> None:
    result = run("""
        from shop.tasks import fail

        def test_it(celery_worker):
            for number in range(5):
                fail.delay(f"boo {number}")
        """)
    result.stdout.fnmatch_lines(
        ["5 tasks failed and the test never looked at them:"]
        + [
            f"  shop.tasks.fail('boo {number}') [[]*]: ValueError: boo {number}"
            for number in range(5)
        ]
    )
    result.stdout.fnmatch_lines(["... and 2 more"])
    assert str(result.stdout).count(">       raise ValueError(text)") == 3


def test_a_test_that_fails_shows_what_its_tasks_raised(run: Run) -> None:
    """``get()`` raises a copy out of the result backend, which knows nothing of the task."""
    result = run("""
        from unittest import TestCase

        import pytest
        from shop.tasks import fail

        def test_get(celery_worker):
            fail.delay("boo").get()

        def test_assertion(celery_worker):
            with pytest.raises(ValueError):
                fail.delay("boo").get()
            assert "unrelated" == "failure"

        @pytest.mark.usefixtures("celery_worker")
        class TestClass(TestCase):
            def test_method(self):
                with self.assertRaises(ValueError):
                    fail.delay("boo").get()
                self.fail("unrelated")
        """)
    result.assert_outcomes(failed=3)
    for _ in range(3):
        result.stdout.fnmatch_lines(
            [
                "*--- celery: tasks that failed in this test ---*",
                "shop.tasks.fail('boo') [[]*]",
                *OWN_TRACEBACK,
            ]
        )
    assert str(result.stdout).count("celery: tasks that failed in this test") == 3


def test_an_error_that_eager_mode_raises_at_the_call_is_not_shown_twice(run: Run) -> None:
    result = run("""
        import pytest
        from shop.tasks import fail

        @pytest.mark.celery(task_eager_propagates=True)
        def test_it(celery_eager):
            fail.delay("boo")
        """)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E * ValueError: boo"])
    result.stdout.no_fnmatch_line("*celery: tasks that failed*")


def test_warn_and_ignore_let_the_test_pass(run: Run) -> None:
    result = run(
        """
        import pytest
        from shop.tasks import fail

        @pytest.mark.celery_unhandled_failures("warn")
        def test_warn(celery_worker):
            fail.delay("warned")

        @pytest.mark.celery_unhandled_failures("ignore")
        def test_ignore(celery_worker):
            fail.delay("ignored")
        """,
        "-W",
        "default::pytest_djcelery.UnhandledTaskFailureWarning",
    )
    result.assert_outcomes(passed=2, warnings=1)
    result.stdout.fnmatch_lines(["*UnhandledTaskFailureWarning: A task failed *", "*'warned'*"])
    result.stdout.no_fnmatch_line("*'ignored'*")


def test_an_outcome_that_differs_names_the_task_what_was_expected_and_what_happened(
    run: Run,
) -> None:
    result = run("""
        import pytest
        from celery import group
        from pytest_djcelery import Failure, Revoked, Success
        from shop.tasks import add, fail, flaky

        def test_failure(celery_worker, celery_results):
            assert celery_results[fail.delay("boo")] == Success(4)

        def test_reversed(celery_worker, celery_results):
            assert Revoked() == celery_results[add.delay(1, 2)]

        def test_retries(celery_worker, celery_results):
            assert celery_results[flaky.delay()] == Success("ok", retries=1)

        def test_match(celery_worker, celery_results):
            assert celery_results[fail.delay("boo")] == Failure((ValueError, KeyError), match="bar")

        def test_all_of_a_task(celery_worker, celery_results):
            add.delay(1, 2)
            add.delay(3, 4)
            assert celery_results.of(add) == [Success(3), Success(8)]

        def test_group(celery_worker, celery_results):
            assert celery_results[group(add.s(1, 2), fail.s())()] == Success([3, 4])

        def test_now(celery_outbox, celery_results):
            assert celery_results.now(add.delay(1, 2)) == Success(3)
        """)
    result.assert_outcomes(failed=7)
    for lines in (
        [
            "E  *assert Failure(ValueError('boo'), retries=0) == Success(4)",
            "E  *shop.tasks.fail('boo') [[]*]",
            "E  *expected: Success(4)",
            "E  *happened: Failure(ValueError('boo'), retries=0)",
            "E  *at shop/tasks.py:* in fail: raise ValueError(text)",
        ],
        ["E  *expected: Revoked()", "E  *happened: Success(3, retries=0)"],
        ["E  *retries: expected 1, happened 2"],
        [
            "E  *expected: Failure((ValueError, KeyError), match='bar')",
            "E  *match: 'bar' was searched in 'boo'",
        ],
        [
            "E  *[[]1] shop.tasks.add(3, 4) [[]*]",
            "E  *expected: Success(8)",
            "E  *happened: Success(7, retries=0)",
        ],
        [
            "E  *shop.tasks.fail() [[]*]",
            "E  *expected: Success([[]3, 4])",
            "E  *happened: Failure(ValueError('boom'), retries=0)",
        ],
        ["E  *happened: Pending()", "E  *now() does not wait; *"],
    ):
        pytest.LineMatcher(result.outlines).fnmatch_lines(lines)
    result.stdout.no_fnmatch_line("E  *[[]0] shop.tasks.add(1, 2)*")


def test_an_explanation_that_pytest_cuts_short_stands_in_full_in_a_section(run: Run) -> None:
    result = run("""
        from pytest_djcelery import Success
        from shop.tasks import add

        def test_it(celery_worker, celery_results):
            for number in range(5):
                add.delay(number, 0)
            assert celery_results.of(add) == [Success(-1)] * 5
        """)
    result.stdout.fnmatch_lines(
        [
            "E  *Full output truncated*",
            "*--- celery: the comparison in full ---*",
            "[[]4] shop.tasks.add(4, 0) [[]*]",
            "  expected: Success(-1)",
            "  happened: Success(4, retries=0)",
        ]
    )


def test_a_wait_in_vain_says_what_the_worker_and_the_queues_are_at(project: Project) -> None:
    project.ini("djcelery_timeout = 0.5")
    result = project.run("""
        from shop.tasks import add

        def test_no_worker(celery_outbox, celery_results):
            celery_results[add.delay(1, 2)]

        def test_get_without_a_worker(celery_app):
            add.delay(1, 2).get()

        def test_another_queue(celery_worker):
            add.apply_async((1, 2), queue="mail").get()

        def test_message(celery_outbox):
            add.delay(1, 3)
            celery_outbox.wait_for(add.s(1, 2))
        """)
    result.assert_outcomes(failed=4)
    for lines in (
        [
            "E *WaitTimeoutError: shop.tasks.add(1, 2) [[]*] has no outcome yet.",
            (
                "E *No worker runs in this test (messages in queues: 1 in 'celery'). Ask for "
                "celery_worker, or celery_eager, to have tasks run."
            ),
        ],
        [
            "E *WaitTimeoutError: No result for * after 0.5 s.",
            "E *No worker runs in this test *",
            "E *A longer wait: get(timeout=*), or djcelery_timeout for the whole run.",
        ],
        [
            "E *The embedded worker consumes from: celery.",
            (
                "E *Queue 'mail' has 1 message(s), which no worker consumes from "
                "(celery_worker_parameters: queues)."
            ),
        ],
        ["E *wait_for(shop.tasks.add.s(1, 2)): not sent within 0.5 seconds*"],
    ):
        pytest.LineMatcher(result.outlines).fnmatch_lines(lines)
