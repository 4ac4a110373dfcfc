"""What a person reads when a task failed, an outcome differs or a wait was in vain."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project, Run

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


def test_a_class_in_place_of_an_outcome_is_explained(run: Run) -> None:
    result = run("""
        from pytest_djcelery import Failure, Progress, Success
        from shop.tasks import add, fail

        def test_failure(celery_worker, celery_results):
            assert celery_results[fail.delay("boo")] == Failure

        def test_reversed(celery_worker, celery_results):
            assert Success == celery_results[add.delay(1, 2)]

        def test_another(celery_worker, celery_results):
            assert celery_results[fail.delay("boo")] == Success

        def test_in_a_list(celery_worker, celery_results):
            add.delay(1, 2)
            assert celery_results.of(add) == [Success]

        def test_not_yet_over(celery_outbox, celery_results):
            assert celery_results.now(add.delay(1, 2)) == Progress
        """)
    result.assert_outcomes(failed=5)
    is_a_class = "E  *To fix: {0} is a class: compare with an instance, such as {1}."
    for lines in (
        [
            "E  *assert Failure(ValueError('boo'), retries=0) == <class '*.Failure'>",
            "E  *shop.tasks.fail('boo') [[]*]",
            "E  *expected: <class '*.Failure'>",
            "E  *happened: Failure(ValueError('boo'), retries=0)",
            "E  *at shop/tasks.py:* in fail: raise ValueError(text)",
            is_a_class.format("Failure", "Failure(ValueError('boo'))"),
        ],
        [
            "E  *assert <class '*.Success'> == Success(3, retries=0)",
            "E  *happened: Success(3, retries=0)",
            is_a_class.format("Success", "Success(3)"),
        ],
        [
            "E  *expected: <class '*.Success'>",
            "E  *happened: Failure(ValueError('boo'), retries=0)",
            is_a_class.format("Success", "Success(...)"),
        ],
        [
            "E  *[[]0] shop.tasks.add(1, 2) [[]*]",
            is_a_class.format("Success", "Success(3)"),
        ],
        [
            "E  *happened: Pending()",
            is_a_class.format("Progress", "Progress(...)"),
        ],
    ):
        result.stdout.fnmatch_lines(lines)
    result.stdout.no_fnmatch_line("*descriptor*")


def _assert_texts(result: pytest.RunResult, *texts: list[str]) -> None:
    """Find each text, in whatever order the tests that print them ran."""
    for lines in texts:
        pytest.LineMatcher(result.outlines).fnmatch_lines(lines)


OUTCOMES = """
import pytest
from celery import group
from pytest_djcelery import Failure, Pending, Revoked, Success
from shop.tasks import add, fail, flaky
"""


@pytest.mark.parametrize("verbosity", ["-q", "-vv"])
def test_an_outcome_that_differs_names_the_task_what_was_expected_what_happened_and_the_remedy(
    run: Run, verbosity: str
) -> None:
    result = run(
        """
        def test_value(celery_worker, celery_results):
            assert celery_results[add.delay(1, 2)] == Success(4)

        def test_plain_value(celery_worker, celery_results):
            assert celery_results[add.delay(1, 2)] == 3

        def test_tuple(celery_worker, celery_results):
            assert celery_results[add.delay([1], [2])] == Success((1, 2))

        def test_in(celery_worker, celery_results):
            add.delay(1, 2)
            assert Success(4) in celery_results.of(add)
        """,
        verbosity,
        preamble=OUTCOMES,
    )
    result.assert_outcomes(failed=4)
    _assert_texts(
        result,
        [
            "E  *assert Success(3, retries=0) == Success(4)",
            "E  *shop.tasks.add(1, 2) [[]*]",
            "E  *expected: Success(4)",
            "E  *happened: Success(3, retries=0)",
            (
                "E  *To fix: If what happened is right, expect Success(3); if not, change the "
                "task at shop/tasks.py:* in add."
            ),
        ],
        [
            "E  *expected: 3",
            (
                "E  *To fix: celery_results has outcomes: compare with Success(...), "
                "Failure(...) or Revoked(); result.get() returns the value itself."
            ),
        ],
        [
            "E  *happened: Success([[]1, 2], retries=0)",
            (
                "E  *To fix: A result goes through the serializer, which for example turns a "
                "tuple into a list: expect what result.get() returns."
            ),
        ],
        [
            "E  *assert Success(4) in [[]Success(3, retries=0)]",
            "E  *expected: Success(4)",
            "E  *happened:",
            "E  *shop.tasks.add(1, 2) [[]*]: Success(3, retries=0)",
            "E  *To fix: If what happened is right, expect Success(3); *",
        ],
    )


@pytest.mark.parametrize("verbosity", ["-q", "-vv"])
def test_an_error_that_differs_comes_with_the_expectation_that_would_hold(
    run: Run, verbosity: str
) -> None:
    result = run(
        """
        def test_failure(celery_worker, celery_results):
            assert celery_results[fail.delay("boo")] == Success(4)

        def test_match(celery_worker, celery_results):
            assert celery_results[fail.delay("boo")] == Failure((ValueError, KeyError), match="bar")

        def test_no_pattern(celery_worker, celery_results):
            assert celery_results[fail.delay("f(1)")] == Failure(ValueError, match="f(1)")

        def test_arguments(celery_worker, celery_results):
            assert celery_results[fail.delay("boo")] == Failure(ValueError("bar"))
        """,
        verbosity,
        preamble=OUTCOMES,
    )
    result.assert_outcomes(failed=4)
    _assert_texts(
        result,
        [
            "E  *assert Failure(ValueError('boo'), retries=0) == Success(4)",
            "E  *shop.tasks.fail('boo') [[]*]",
            "E  *expected: Success(4)",
            "E  *happened: Failure(ValueError('boo'), retries=0)",
            "E  *at shop/tasks.py:* in fail: raise ValueError(text)",
            (
                "E  *To fix: If the failure is meant, expect Failure(ValueError); if not, start "
                "at the line that raised it."
            ),
        ],
        [
            "E  *expected: Failure((ValueError, KeyError), match='bar')",
            "E  *match: 'bar' was searched in 'boo'",
            (
                "E  *To fix: If the failure is meant, expect Failure(ValueError, match='boo'); "
                "if not, start at the line that raised it."
            ),
        ],
        ["E  *To fix: match is a regular expression: write match=re.escape('f(1)')."],
        [
            "E  *expected: Failure(ValueError('bar'))",
            ("E  *To fix: Where its arguments don't matter, expect the type: Failure(ValueError)."),
        ],
    )


@pytest.mark.parametrize("verbosity", ["-q", "-vv"])
def test_a_state_or_a_number_of_retries_that_differs_comes_with_the_remedy(
    run: Run, verbosity: str
) -> None:
    result = run(
        """
        def test_reversed(celery_worker, celery_results):
            assert Revoked() == celery_results[add.delay(1, 2)]

        def test_revoked(celery_inline, celery_results):
            result = add.delay(1, 2)
            result.revoke()
            assert celery_results[result] == Success(3)

        def test_retries(celery_worker, celery_results):
            assert celery_results[flaky.delay()] == Success("ok", retries=1)
        """,
        verbosity,
        preamble=OUTCOMES,
    )
    result.assert_outcomes(failed=3)
    _assert_texts(
        result,
        [
            "E  *expected: Revoked()",
            "E  *happened: Success(3, retries=0)",
            (
                "E  *To fix: A worker finishes what it has begun: call result.revoke(), or let "
                "expires pass, before the message is delivered."
            ),
        ],
        [
            "E  *happened: Revoked(retries=0)",
            (
                "E  *To fix: Nothing ran: find the revoke(), or the expires that passed before "
                "the delivery."
            ),
        ],
        [
            "E  *retries: expected 1, happened 2",
            (
                "E  *To fix: If 2 is right, expect retries=2; a number that is not named is not "
                "compared. celery_results.history(result) has the states in between."
            ),
        ],
    )


@pytest.mark.parametrize("verbosity", ["-q", "-vv"])
def test_outcomes_that_differ_are_compared_one_by_one(run: Run, verbosity: str) -> None:
    result = run(
        """
        def test_all_of_a_task(celery_worker, celery_results):
            add.delay(1, 2)
            add.delay(3, 4)
            assert celery_results.of(add) == [Success(3), Success(8)]

        def test_fewer(celery_worker, celery_results):
            add.delay(1, 2)
            assert celery_results.of(add) == [Success(3), Success(3)]

        def test_group(celery_worker, celery_results):
            assert celery_results[group(add.s(1, 2), fail.s())()] == Success([3, 4])

        def test_group_of_more(celery_worker, celery_results):
            assert celery_results[group(add.s(1, 2), add.s(1, 3))()] == [Success(3)]
        """,
        verbosity,
        preamble=OUTCOMES,
    )
    result.assert_outcomes(failed=4)
    _assert_texts(
        result,
        [
            "E  *[[]1] shop.tasks.add(3, 4) [[]*]",
            "E  *expected: Success(8)",
            "E  *happened: Success(7, retries=0)",
            "E  *To fix: If what happened is right, expect Success(7); *",
        ],
        [
            "E  *Outcomes: expected 2, happened 1",
            "E  *happened: nothing",
            (
                "E  *To fix: Each message that was sent has one outcome: see celery_outbox for "
                "what was sent."
            ),
        ],
        [
            "E  *shop.tasks.fail() [[]*]",
            "E  *expected: Success([[]3, 4])",
            "E  *happened: Failure(ValueError('boom'), retries=0)",
            "E  *To fix: If the failure is meant, expect Failure(ValueError); *",
        ],
        [
            "E  *Outcomes: expected 1, happened 2",
            (
                "E  *To fix: A group has an outcome for each of its tasks; Success([[]...]) "
                "stands for the whole."
            ),
        ],
    )
    result.stdout.no_fnmatch_line("E  *[[]0] shop.tasks.add(1, 2)*")


@pytest.mark.parametrize("verbosity", ["-q", "-vv"])
def test_an_outcome_of_this_moment_that_differs_says_how_tasks_are_run(
    run: Run, verbosity: str
) -> None:
    result = run(
        """
        def test_now(celery_outbox, celery_results):
            assert celery_results.now(add.delay(1, 2)) == Success(3)

        def test_now_inline(celery_inline, celery_results):
            assert celery_results.now(add.delay(1, 2)) == Success(3)

        def test_over(celery_eager, celery_results):
            assert celery_results.now(add.delay(1, 2)) == Pending()
        """,
        verbosity,
        preamble=OUTCOMES,
    )
    result.assert_outcomes(failed=3)
    _assert_texts(
        result,
        [
            "E  *happened: Pending()",
            (
                "E  *To fix: No worker runs in this test (messages in queues: 1 in 'celery'). "
                "Ask for celery_inline or celery_worker to have tasks run."
            ),
        ],
        [
            "E  *happened: Pending()",
            (
                "E  *To fix: now() delivers nothing: celery_inline.run() does, and "
                "celery_results[[]result], until the final outcome."
            ),
        ],
        [
            "E  *expected: Pending()",
            (
                "E  *To fix: It is over: look before a worker runs it. celery_inline delivers "
                "when the test says so."
            ),
        ],
    )


def test_a_history_that_differs_names_each_state_that_does(project: Project) -> None:
    project.tasks(
        """
        @shared_task(bind=True)
        def half(self):
            self.update_state(state="HALF", meta=50)
        """
    )
    result = project.run(
        """
        from pytest_djcelery import StateChange
        from shop.tasks import half

        def history(celery_results):
            result = half.delay()
            result.get()
            return celery_results.history(result)

        def test_meta(celery_inline, celery_results):
            assert history(celery_results) == [StateChange("HALF", 51), StateChange("SUCCESS")]

        def test_states(celery_inline, celery_results):
            assert [StateChange("SUCCESS")] == history(celery_results)

        def test_started(celery_inline, celery_results):
            assert history(celery_results) == [StateChange("STARTED"), StateChange("SUCCESS")]

        def test_none(celery_inline, celery_results):
            assert celery_results.history(half.delay()) == [StateChange("HALF", 50)]
        """
    )
    result.assert_outcomes(failed=4)
    for lines in (
        [
            "E *[[]0] expected: StateChange(state='HALF', meta=51)",
            "E *    happened: StateChange(state='HALF', meta=50)",
            "E *To fix: Where what comes with a state doesn't matter, write mock.ANY for it.",
        ],
        [
            "E *States: expected 1, happened 2",
            "E *[[]0] expected: StateChange(state='SUCCESS', meta=None)",
            "E *    happened: StateChange(state='HALF', meta=50)",
            "E *[[]1] expected: nothing",
            "E *    happened: StateChange(state='SUCCESS', meta=None)",
            "E *To fix: If what happened is right, expect the states HALF, SUCCESS.",
        ],
        [
            (
                "E *To fix: Celery only stores STARTED with task_track_started: "
                "@pytest.mark.celery(task_track_started=True)."
            ),
        ],
        [
            "E *    happened: nothing",
            "E *To fix: No state was stored: the task has not run yet, or it ignores its result.",
        ],
    ):
        pytest.LineMatcher(result.outlines).fnmatch_lines(lines)


def test_a_list_of_messages_that_differs_comes_with_the_remedy(run: Run) -> None:
    result = run(
        """
        from shop.tasks import add, ship

        def test_equal(celery_outbox):
            add.apply_async((1, 2), queue="x")
            ship.delay(1)
            assert celery_outbox == [add.s(1, 3).set(queue="y", priority=3)]
        """,
        "-vv",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E *assert celery_outbox == [[]shop.tasks.add.s(1, 3).set(queue='y', priority=3)]",
            "E *",
            "E *0 of 1 as expected; 2 sent.",
            "E *  [[]0] argument y: expected 3, sent 2",
            "E *  [[]0] queue: expected 'y', sent 'x'",
            "E *  … and 2 more",
            "E *To fix:",
            (
                "E *  - If what was sent is right, expect shop.tasks.add.s(1, 2).set(queue='x'); "
                "if not, change the call at test_it.py:5 in test_equal, or task_routes."
            ),
            (
                "E *  - Options that are not named are not compared: name those that this test "
                "is about."
            ),
            (
                "E *  - Add what is meant to be sent to the list; or compare this task's alone: "
                "celery_outbox.of('shop.tasks.add')."
            ),
            "E *",
            "E *Sent otherwise:",
            "E *  [[]0] shop.tasks.add.s(1, 3).set(queue='y', priority=3)",
            "E *      Nearest miss:",
            "E *        [[]0] shop.tasks.add.s(1, 2)  (test_it.py:5 in *, outside any transaction)",
            "E *              argument y: expected 3, sent 2",
            "E *              queue: expected 'y', sent 'x'",
            "E *              priority: expected 3, sent None",
            "E *Sent, but not expected:",
            "E *  [[]1] shop.tasks.ship.s(1)  (test_it.py:6 in *, outside any transaction)",
        ],
        consecutive=True,
    )


def test_a_message_that_differs_comes_with_the_remedy(run: Run) -> None:
    result = run(
        """
        from unittest.mock import ANY

        from shop.tasks import add

        def test_not_in(celery_outbox):
            add.delay(1, 2)
            assert add.s(ANY, ANY) not in celery_outbox

        def test_message(celery_outbox):
            add.delay(1, 2)
            assert celery_outbox[0] == add.s(1, 3)

        def test_count(celery_outbox):
            add.delay(1, 2)
            assert celery_outbox.count(add.s(1, 3)) == 1
        """,
        "-vv",
    )
    result.assert_outcomes(failed=3)
    for lines in (
        [
            "E *assert shop.tasks.add.s(<ANY>, <ANY>) not in celery_outbox",
            "E *",
            "E *Expected no message like: shop.tasks.add.s(<ANY>, <ANY>)",
            "E *Sent:",
            "E *  [[]0] shop.tasks.add.s(1, 2)  (test_it.py:7 in *, outside any transaction)",
            (
                "E *To fix: Keep test_it.py:7 in test_not_in from sending it; if that is "
                "only set-up, look at the rest of the test alone: celery_outbox.clear() before "
                "it, or with celery_outbox.record() as sent: ..."
            ),
        ],
        [
            "E *assert shop.tasks.add.s(1, 2) == shop.tasks.add.s(1, 3)",
            "E *",
            "E *Expected: shop.tasks.add.s(1, 3)",
            "E *Sent:     shop.tasks.add.s(1, 2)  (test_it.py:11 in *, outside any transaction)",
            "E *  argument y: expected 3, sent 2",
            (
                "E *To fix: If what was sent is right, expect shop.tasks.add.s(1, 2); if not, "
                "change the call at test_it.py:11 in test_message."
            ),
        ],
        [
            "E *assert celery_outbox.count(shop.tasks.add.s(1, 3)) == 1: 0 messages match",
            "E *",
            "E *Expected: shop.tasks.add.s(1, 3)",
            "E *Nearest miss:",
            "E *  [[]0] shop.tasks.add.s(1, 2)  (test_it.py:15 in *, outside any transaction)",
            "E *        argument y: expected 3, sent 2",
            (
                "E *To fix: If what was sent is right, expect shop.tasks.add.s(1, 2); if not, "
                "change the call at test_it.py:15 in test_count."
            ),
        ],
    ):
        pytest.LineMatcher(result.outlines).fnmatch_lines(lines, consecutive=True)


def test_an_explanation_that_pytest_cuts_short_stands_in_full_in_a_section(run: Run) -> None:
    result = run("""
        from pytest_djcelery import Success
        from shop.tasks import add

        def test_it(celery_worker, celery_results):
            for number in range(100):
                add.delay(number, 0)
            assert celery_results.of(add) == [Success(-1)] * 100
        """)
    result.stdout.fnmatch_lines(
        [
            "E  *Full output truncated*",
            "*--- celery: the comparison in full ---*",
            "[[]Success(0, retries=0), *, Success(9, retries=0), … 90 more] == *, … 90 more]",
            "[[]9] shop.tasks.add(9, 0) [[]*]",
            "  expected: Success(-1)",
            "  happened: Success(9, retries=0)",
            "… and 90 more",
            "To fix:",
            "  - If what happened is right, expect Success(0); *",
            "  - If what happened is right, expect Success(1); *",
            "  - If what happened is right, expect Success(2); *",
        ]
    )


def test_a_wait_in_vain_says_what_the_worker_and_the_queues_are_at(project: Project) -> None:
    project.ini("djcelery_timeout = 0.5")
    result = project.run("""
        import pytest
        from shop.tasks import add

        def test_no_worker(celery_outbox, celery_results):
            celery_results[add.delay(1, 2)]

        def test_get_without_a_worker(celery_app):
            add.delay(1, 2).get()

        @pytest.mark.filterwarnings("default::pytest_djcelery.QueueNotConsumedWarning")
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
                "celery_inline or celery_worker to have tasks run."
            ),
        ],
        [
            "E *WaitTimeoutError: No result for * after 0.5 s.",
            "E *No worker runs in this test *",
            "E *A longer wait: get(timeout=*), or djcelery_timeout for the whole run.",
        ],
        [
            "E *NeverReadyError: No result for * will come.",
            "E *No worker consumes the queue that a message was sent to, so it stays there:",
            "E *shop.tasks.add(1, 2) [[]*] is in the queue 'mail'",
            "E *djcelery_queues = celery, mail *",
        ],
        ["E *wait_for(shop.tasks.add.s(1, 2)): not sent within 0.5 seconds*"],
    ):
        pytest.LineMatcher(result.outlines).fnmatch_lines(lines)


def test_what_holds_is_not_explained_where_another_part_fails(project: Project) -> None:
    result = project.run("""
        from pytest_djcelery import Success
        from shop.tasks import add


        def test_nothing_sent(celery_outbox):
            assert celery_outbox == [] and len(celery_outbox) == 7


        def test_sent(celery_outbox):
            add.delay(1, 2)
            assert celery_outbox == [add.s(1, 2)] and add.s(1, 2) in celery_outbox and not "other"


        def test_outcome(celery_inline, celery_results):
            assert celery_results[add.delay(1, 2)] == Success(3) and not "other"
        """)
    result.assert_outcomes(failed=3)
    for line in ("*To fix:*", "*Expected*", "*ValueError*"):
        result.stdout.no_fnmatch_line(line)
    result.stdout.fnmatch_lines(["E * 0 == 7)"])
