"""A forgotten `run()` is said where the test fails, and what our objects show of themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.project import Project, Run

SECTION = "*celery: messages that were not delivered*"


def test_a_failing_test_says_what_is_due_and_how_to_run_it(run: Run) -> None:
    result = run("""
        from datetime import timedelta
        from shop.models import Order
        from shop.tasks import add, ship

        def test_forgot(db, celery_inline):
            order = Order.objects.create()
            ship.delay(order.pk)
            add.apply_async((1, 2), countdown=60)
            order.refresh_from_db()
            assert order.name == "shipped"
    """)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            SECTION,
            "1 message was due when the test failed:",
            "  ①, sent at test_it.py:8 in test_forgot",
            "Deliver it first: celery_inline.run()",
            "1 message waits for its ETA:",
            "  ②, at 20* UTC, sent at test_it.py:9 in test_forgot",
            "Move the clock there: celery_inline.run(until=timedelta(…))",
        ]
    )


def test_many_are_counted(run: Run) -> None:
    result = run("""
        from shop.tasks import add

        def test_forgot(celery_inline):
            for number in range(30):
                add.delay(number, 0)
            raise KeyError("own")
    """)
    result.stdout.fnmatch_lines(
        [
            SECTION,
            "30 messages were due when the test failed:",
            "  ①, sent at *",
            "  … and 25 more",
            "Deliver them first: celery_inline.run()",
        ]
    )


def test_where_no_worker_runs_the_error_names_those_to_ask_for(run: Run) -> None:
    result = run("""
        from shop.tasks import add

        def test_forgot(celery_outbox):
            add.delay(1, 2)
            raise KeyError("own")
    """)
    result.stdout.fnmatch_lines(
        [
            SECTION,
            "1 message was due when the test failed:",
            "  ①, sent at test_it.py:5 in test_forgot",
            "No worker runs the tasks of this test: ask for celery_inline, and call its run()*",
        ]
    )


def test_automatic_delivery_reports_what_is_left_waiting(run: Run, project: Project) -> None:
    project.ini("djcelery_mode = inline")
    result = run("""
        from shop.tasks import add

        def test_countdown():
            add.delay(1, 2)
            add.apply_async((3, 4), countdown=60)
            raise KeyError("own")
    """)
    result.stdout.fnmatch_lines(
        [
            SECTION,
            "1 message waits for its ETA:",
            "  ②, *",
            "Move the clock there: ask for celery_inline, and call *run(until=timedelta(…))",
        ]
    )
    result.stdout.no_fnmatch_line("  ①, sent*")


def test_no_advice_is_given_where_it_does_not_apply(run: Run) -> None:
    result = run("""
        import pytest
        from shop.tasks import add, fail

        def test_nothing_sent(celery_inline):
            raise KeyError("own")

        def test_all_delivered(celery_inline):
            add.delay(1, 2)
            celery_inline.run()
            raise KeyError("own")

        def test_a_task_failed(celery_inline):
            fail.delay()
            add.delay(1, 2)
            celery_inline.run()

        def test_a_comparison(celery_outbox):
            add.delay(1, 2)
            assert celery_outbox == [add.s(1, 3)]

        def test_eager(celery_eager):
            add.delay(1, 2)
            raise KeyError("own")

        def test_worker(celery_worker):
            add.delay(1, 2).get()
            raise KeyError("own")

        def test_passes(celery_inline):
            add.delay(1, 2)
    """)
    result.assert_outcomes(failed=6, passed=1)
    result.stdout.no_fnmatch_line(SECTION)


def test_the_representations_show_the_state(run: Run, project: Project) -> None:
    project.settings("""
        CELERY_BEAT_SCHEDULE = {
            "hourly": {"task": "shop.tasks.count_orders", "schedule": 3600.0},
            "often": {"task": "shop.tasks.count_orders", "schedule": 60.0},
        }
    """)
    result = run("""
        from datetime import timedelta
        import pytest
        from shop.tasks import add, fail

        def test_inline(celery_inline):
            assert repr(celery_inline) == "<celery_inline: nothing to deliver>"
            add.delay(1, 2)
            add.delay(3, 4)
            add.apply_async((5, 6), countdown=60)
            assert repr(celery_inline) == (
                "<celery_inline: 2 due, 1 scheduled; next shop.tasks.add(1, 2)>"
            )
            celery_inline.run(until=timedelta(seconds=30))
            text = repr(celery_inline)
            assert text.startswith("<celery_inline: 1 scheduled; next shop.tasks.add(5, 6) at 20")
            assert " UTC; the clock is at 20" in text and text.endswith(" UTC>")

        kept = []

        def test_inline_that_is_kept(celery_inline):
            kept.append(celery_inline)
            add.delay(1, 2)

        def test_its_time_is_over():
            assert repr(kept[0]) == "<celery_inline: its test is over>"

        @pytest.mark.celery_inline(auto=True)
        def test_automatic(celery_inline):
            assert repr(celery_inline) == "<celery_inline, automatic: nothing to deliver>"

        @pytest.mark.celery_unhandled_failures("error")
        def test_results(celery_inline, celery_results):
            assert repr(celery_results) == "<celery_results: no messages>"
            fail.delay()
            add.delay(1, 2)
            add.delay(3, 4)
            add.delay(5, 6)
            celery_inline.run(limit=3, raise_failures=False)
            text = "<celery_results: 4 messages: 1 FAILURE, 1 PENDING, 2 SUCCESS>"
            assert repr(celery_results) == text

        def test_beat(celery_beat):
            text = repr(celery_beat)
            assert text.startswith("<celery_beat: 2 entries; next 'often' at 20")
            assert text.endswith(" UTC>")
    """)
    result.assert_outcomes(passed=5, failed=1)
    result.stdout.fnmatch_lines(["*A task failed and the test never looked at it:"])
