"""What goes wrong without a worker in the test's own thread, and with eager mode in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project, Run


def test_pitfalls_3_and_4_a_task_sees_the_rows_of_the_tests_own_transaction(run: Run) -> None:
    result = run("""
        import pytest
        from django.db import connection
        from shop.models import Order
        from shop.tasks import ship

        @pytest.mark.django_db
        @pytest.mark.parametrize("number", range(3))
        def test_it(celery_inline, number):
            orders = [Order.objects.create() for _ in range(20)]
            for order in orders:
                ship.delay(order.pk)
            assert celery_inline.run().succeeded == 20
            assert connection.in_atomic_block
            assert set(Order.objects.values_list("name", flat=True)) == {"shipped"}

        @pytest.mark.django_db
        def test_nothing_is_left():
            assert not Order.objects.exists()
    """)
    result.assert_outcomes(passed=4)


@pytest.mark.long
def test_pitfalls_8_33_and_52_retries_run_one_by_one_and_without_recursion(
    run: Run, project: Project
) -> None:
    project.tasks("""
        @shared_task(bind=True, max_retries=None)
        def wait_for(self, name):
            try:
                return Order.objects.get(name=name).pk
            except Order.DoesNotExist as error:
                raise self.retry(exc=error, countdown=10)

        @shared_task(bind=True, max_retries=None)
        def many(self, times):
            if self.request.retries < times:
                raise self.retry(countdown=0)
            return self.request.retries
    """)
    result = run("""
        import sys
        from datetime import timedelta

        import pytest
        from pytest_djcelery import Success
        from shop.models import Order
        from shop.tasks import many, wait_for

        @pytest.mark.django_db
        def test_the_world_changes_between_two_attempts(celery_inline, celery_results):
            result = wait_for.delay("late")
            first = celery_inline.step()
            assert (first.state, first.attempt) == ("RETRY", 1)
            assert isinstance(first.exception, Exception)
            assert celery_inline.step() is None  # it waits for its countdown
            order = Order.objects.create(name="late")
            celery_inline.advance(timedelta(seconds=10))
            second = celery_inline.step()
            assert (second.state, second.value, second.attempt) == ("SUCCESS", order.pk, 2)
            assert celery_results[result] == Success(order.pk, retries=1)

        def test_more_retries_than_python_has_frames(celery_inline):
            times = sys.getrecursionlimit() + 100
            assert many.delay(times).get() == times
    """)
    result.assert_outcomes(passed=2)


def test_pitfall_10_handlers_come_before_the_failure_is_raised(run: Run, project: Project) -> None:
    project.tasks("""
        from celery import Task

        told = []

        class Told(Task):
            def on_failure(self, exc, task_id, args, kwargs, einfo):
                told.append(f"on_failure {exc}")

        @shared_task(base=Told)
        def failing():
            raise ValueError("no")

        @shared_task
        def errback(request, exc, traceback):
            told.append(f"errback {exc}")
    """)
    result = run("""
        import pytest
        from pytest_djcelery import Failure
        from shop.tasks import errback, failing, told

        def test_it(celery_inline, celery_results):
            result = failing.apply_async(link_error=errback.s())
            with pytest.raises(ValueError, match="no"):
                celery_inline.run()
            assert told == ["errback no", "on_failure no"]  # Celery's own order
            assert celery_results.now(result) == Failure(ValueError, match="no")
    """)
    result.assert_outcomes(passed=1)


def test_pitfall_13_tasks_that_a_view_sent_are_run_without_a_handle(
    run: Run, project: Project
) -> None:
    project.write(**{
        "proj/urls": """
            from django.urls import path
            from shop.views import order

            urlpatterns = [path("order/", order)]
            """,
        "shop/views": """
            from django.http import HttpResponse
            from shop.models import Order
            from shop.tasks import ship


            def order(request):
                ship.delay_on_commit(Order.objects.create().pk)
                return HttpResponse()
            """,
    })  # fmt: skip
    result = run("""
        import pytest
        from shop.models import Order
        from shop.tasks import ship

        @pytest.mark.django_db
        def test_it(client, celery_inline, celery_results):
            client.get("/order/")
            assert celery_inline.run().succeeded == 1
            assert [each.value for each in celery_results.of(ship)] == ["shipped"]
    """)
    result.assert_outcomes(passed=1)


def test_pitfalls_23_and_24_canvas_is_real_messages_and_get_in_a_task_is_refused(
    run: Run, project: Project
) -> None:
    project.tasks("""
        @shared_task
        def total(numbers):
            return sum(numbers)

        @shared_task
        def waits():
            return add.delay(1, 2).get()
    """)
    result = run("""
        import pytest
        from celery import chain, chord
        from pytest_djcelery import Failure
        from shop.tasks import add, fail, total, waits

        def test_a_failing_chain_raises_when_it_runs_and_not_at_the_call(celery_inline):
            chain(fail.s("x"), add.s(1)).delay()
            with pytest.raises(ValueError, match="x"):
                celery_inline.run()
            assert celery_inline.pending == []

        def test_a_failing_chord(celery_inline):
            result = chord([add.s(1, 1), fail.s("x")], total.s()).delay()
            celery_inline.run(raise_failures=False).executions
            with pytest.raises(Exception, match="x"):
                result.get()

        def test_each_step_is_a_message(celery_inline, celery_outbox):
            assert chain(add.s(1, 1), add.s(1)).delay().get() == 3
            assert [each.task for each in celery_outbox] == ["shop.tasks.add"] * 2

        def test_get_in_a_task(celery_inline, celery_results):
            assert celery_results[waits.delay()] == Failure(RuntimeError, match="Never call")
    """)
    result.assert_outcomes(passed=4)


def test_pitfalls_25_26_and_27_send_task_signals_and_options_are_those_of_a_worker(
    run: Run, project: Project
) -> None:
    project.tasks("""
        @shared_task(bind=True)
        def tell(self):
            return self.request.delivery_info["routing_key"]
    """)
    result = run("""
        from datetime import timedelta

        import pytest
        from celery import signals
        from shop.tasks import tell

        def test_send_task(celery_app, celery_inline):
            assert celery_app.send_task("shop.tasks.add", (1, 2)).get() == 3

        def test_signals(celery_inline):
            told = []
            def publish(sender, **_): told.append(("publish", sender))
            def received(request, **_): told.append(("received", request.name))
            signals.before_task_publish.connect(publish)
            signals.task_received.connect(received)
            try:
                tell.delay()
                assert told == [("publish", "shop.tasks.tell")]
                celery_inline.run()
                assert told[1:] == [("received", "shop.tasks.tell")]
            finally:
                signals.before_task_publish.disconnect(publish)
                signals.task_received.disconnect(received)

        @pytest.mark.celery_queues("celery", "slow")
        def test_options(celery_inline):
            sent = tell.apply_async(countdown=60, queue="slow")
            expired = tell.apply_async(countdown=60, expires=30)
            assert [each.id for each in celery_inline.scheduled] == [sent.id, expired.id]
            summary = celery_inline.run(until=timedelta(minutes=2))
            assert (summary.succeeded, summary.expired) == (1, 1)
            assert sent.get() == "slow"
    """)
    result.assert_outcomes(passed=3)


TASKS_WITH_LIMITS = """
import time

from celery.exceptions import SoftTimeLimitExceeded

@shared_task(soft_time_limit=5)
def limited():
    try:
        return work()
    except SoftTimeLimitExceeded:
        return "gave up"

def work():
    return "done"

@shared_task(rate_limit="10/m")
def rated():
    return "done"

@shared_task
def slow():
    time.sleep(0.05)
"""


LIMITS = """
import warnings

import pytest
from pytest_djcelery import LimitNotEnforcedWarning
from shop import tasks
from celery.exceptions import SoftTimeLimitExceeded
from shop.tasks import add, limited, rated, slow
"""


def test_pitfall_28_a_limit_that_is_not_enforced_is_reported_once(
    run: Run, project: Project
) -> None:
    project.settings("CELERY_TASK_TIME_LIMIT = 30 * 60")
    project.tasks(TASKS_WITH_LIMITS)
    result = run(
        """
        def test_said_once(celery_inline):
            limited.delay()
            with pytest.warns(LimitNotEnforcedWarning, match="limited has soft_time_limit=5"):
                celery_inline.run()
            limited.delay()
            assert celery_inline.run().succeeded == 1

        def test_of_a_message(celery_inline):
            add.apply_async((1, 2), time_limit=7)
            with pytest.warns(LimitNotEnforcedWarning, match="time_limit=7"):
                celery_inline.run()

        def test_a_rate(celery_inline):
            rated.delay()
            with pytest.warns(LimitNotEnforcedWarning, match="rate_limit='10/m'"):
                celery_inline.run()

        def test_as_an_error_it_loses_no_message(celery_inline):
            slow.apply_async(soft_time_limit=9)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                with pytest.raises(LimitNotEnforcedWarning):
                    celery_inline.run()
            assert celery_inline.run().succeeded == 1

        def test_what_the_task_does_about_it(celery_inline, monkeypatch):
            def exceeded():
                raise SoftTimeLimitExceeded
            monkeypatch.setattr(tasks, "work", exceeded)
            assert limited.delay().get() == "gave up"
        """,
        preamble=LIMITS,
    )
    result.assert_outcomes(passed=5)


def test_pitfall_28_the_projects_own_limit_is_reported_when_it_is_exceeded(
    run: Run, project: Project
) -> None:
    project.settings("CELERY_TASK_TIME_LIMIT = 30 * 60")
    project.tasks(TASKS_WITH_LIMITS)
    result = run(
        """
        def test_the_projects_own_default_is_no_difference_until_it_is_exceeded(celery_inline):
            add.delay(1, 2)
            assert celery_inline.run().succeeded == 1

        @pytest.mark.celery(task_time_limit=0.01)
        def test_exceeded(celery_inline):
            slow.delay()
            with pytest.warns(LimitNotEnforcedWarning, match="time_limit=0.01, and it took 0.1 s"):
                celery_inline.run()
        """,
        preamble=LIMITS,
    )
    result.assert_outcomes(passed=2)


def test_pitfall_30_a_beat_entry_that_points_nowhere_is_named(run: Run, project: Project) -> None:
    project.settings("""
        CELERY_BEAT_SCHEDULE = {
            "renamed": {"task": "shop.tasks.count_order", "schedule": 60},
            "changed": {"task": "shop.tasks.ship", "schedule": 60, "kwargs": {"expres": True}},
            "astray": {"task": "shop.tasks.fail", "schedule": 60, "options": {"queue": "fails"}},
            "fine": {"task": "shop.tasks.count_orders", "schedule": 60},
        }
        """)
    result = run("""
        def test_it(celery_beat):
            celery_beat.check()
    """)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E *BadScheduleError: Entries of the beat schedule that no worker could run:",
            "E *'renamed' sends shop.tasks.count_order, * Did you mean 'shop.tasks.count_orders'?",
            "E *'changed' sends shop.tasks.ship(expres=True): missing *: 'order_id'; the task is *",
            "E *'astray' goes to queue 'fails', which no worker consumes; they consume 'celery'.*",
            "E *Correct them where they are*",
        ],
        consecutive=True,
    )
    assert not [line for line in result.outlines if line.startswith("E ") and "'fine'" in line]


def test_pitfall_32_a_result_that_cannot_be_stored_fails_the_task(
    run: Run, project: Project
) -> None:
    project.tasks("""
        @shared_task
        def get_order(pk):
            return Order.objects.get(pk=pk)
    """)
    result = run("""
        import pytest
        from shop.models import Order
        from shop.tasks import get_order

        @pytest.mark.django_db
        def test_it(celery_inline):
            get_order.delay(Order.objects.create().pk)
            with pytest.raises(Exception, match="Order is not JSON serializable"):
                celery_inline.run()
    """)
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("backend", ["django-db", "django-cache"])
def test_pitfall_42_chords_over_djangos_backends(run: Run, project: Project, backend: str) -> None:
    project.settings(f"""
        INSTALLED_APPS += ["django_celery_results"]
        CELERY_RESULT_BACKEND = {backend!r}
        CELERY_CACHE_BACKEND = "default"
        """)
    project.tasks("""
        @shared_task
        def total(numbers):
            return sum(numbers)
    """)
    result = run("""
        import pytest
        from celery import chord
        from pytest_djcelery import NeverReadyError, Success
        from shop.tasks import add, total

        @pytest.mark.django_db
        def test_it(celery_inline, celery_results):
            result = chord([add.s(n, n) for n in range(5)], total.s()).delay()
            assert celery_results[result] == Success(20)

        @pytest.mark.django_db
        def test_one_that_is_stuck_says_what_it_waits_for(celery_inline):
            late = add.s(1, 1).set(countdown=3600)
            result = chord([add.s(1, 1), late], total.s()).delay()
            with pytest.raises(NeverReadyError, match=r"Scheduled: .*shop.tasks.add\\(1, 1\\)"):
                result.get()
    """)
    result.assert_outcomes(passed=2)


def test_pitfall_50_a_message_is_delivered_again_by_hand(run: Run, project: Project) -> None:
    project.tasks("""
        delivered = []

        @shared_task(bind=True, acks_late=True)
        def tell(self, what, *, twice=False):
            request = self.request
            delivered.append((what, twice, request.id, request.delivery_info["redelivered"]))
            return what
    """)
    result = run("""
        from celery import chain
        from shop.tasks import add, delivered, tell

        def test_it(celery_inline, celery_outbox):
            result = tell.delay("it", twice=True)
            celery_inline.run()
            celery_inline.redeliver(celery_outbox[0])
            assert celery_inline.pending == [tell.s("it", twice=True)]
            assert celery_inline.run().executions[0].message is celery_outbox[0]
            assert delivered == [("it", True, result.id, False), ("it", True, result.id, True)]

        def test_what_follows_comes_again_too(celery_inline, celery_outbox):
            chain(add.s(1, 2), add.s(10)).delay()
            celery_inline.run()
            celery_inline.redeliver(celery_outbox[0])
            summary = celery_inline.run()
            assert [each.value for each in summary.executions] == [3, 13]
    """)
    result.assert_outcomes(passed=2)
