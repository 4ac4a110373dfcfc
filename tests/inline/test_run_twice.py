"""Messages that are run twice: what the second run did is reported, and taken back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project, Run

pytestmark = pytest.mark.usefixtures("users")

TASKS = """
    from celery.exceptions import Ignore, Reject
    from celery.result import allow_join_result
    from django.contrib.auth.models import Group, User
    from django.core.mail import send_mail
    from django.db import transaction
    from django.utils import timezone


    @shared_task
    def charge(order_id):
        Order.objects.create(name="payment")
        Order.objects.filter(pk=order_id).update(name="paid")  # as it is already, the second time
        Order.objects.filter(name="audit").first().delete()
        send_mail("Welcome, ada", "Hello", None, ["ada@example.com"])
        transaction.on_commit(lambda: add.delay(1, 2))
        ship.delay(order_id)


    @shared_task
    def extend(order_id):
        order = Order.objects.get(pk=order_id)
        order.name += "!"
        order.save()


    @shared_task
    def insert():
        Order.objects.create(name="new")


    @shared_task(bind=True, throws=(KeyError,), max_retries=2)
    def end(self, how):
        \"\"\"Succeed, and end differently when it is delivered again.\"\"\"
        if not self.request.delivery_info["redelivered"]:
            return how
        if how == "throws":
            raise KeyError(how)
        if how == "raises":
            raise ValueError("gone\\nfor good")
        if how == "ignores":
            raise Ignore
        if how == "requeues":
            raise Reject(how, requeue=True)
        raise self.retry(exc=OSError("down"), countdown=60)


    @shared_task
    def stamp(order_id):
        Order.objects.filter(pk=order_id).update(name=timezone.now().isoformat())
        Group.objects.get_or_create(name="stamped")


    @shared_task(bind=True)
    def wait(self):
        self.update_state(state="PROGRESS", meta=1)
        with allow_join_result():
            return add.delay(2, 2).get() + add.delay(3, 3).get()
    """
BEGINS = """
    import asyncio
    from datetime import timedelta

    import pytest
    from celery import chain, chord, group
    from pytest_djcelery import NotIdempotentError, Success, inline
    from shop.models import Order
    from shop.tasks import add, charge, end, extend, insert, ship, stamp, wait

    pytestmark = pytest.mark.django_db
    """


@pytest.fixture
def shop(project: Project) -> Project:
    """A project with tasks that are safe to run twice, and others."""
    project.tasks(TASKS)
    return project


def test_a_test_fails_by_what_the_second_run_does_and_goes_on_as_after_the_first(
    shop: Project, run: Run
) -> None:
    result = run(
        """
        @pytest.mark.celery_redeliver
        def test_charge(
            celery_inline, celery_outbox, celery_on_commit, celery_results, mailoutbox
        ):
            order = Order.objects.create(name="new")
            Order.objects.bulk_create([Order(name="audit"), Order(name="audit")])
            result = charge.delay(order.pk)
            summary = celery_inline.run()
            assert (summary.succeeded, summary.failed) == (3, 0)
            first, second, *_ = summary.executions
            assert (first.redelivered, second.redelivered) == (False, True)
            assert first.message is second.message
            assert celery_outbox == [charge.s(order.pk), add.s(1, 2), ship.s(order.pk)]
            assert [mail.subject for mail in mailoutbox] == ["Welcome, ada"]
            assert len(celery_on_commit.ran) == 1
            assert [change.state for change in celery_results.history(result)] == ["SUCCESS"]
            assert celery_results[result] == Success(None)
            names = ["audit", "payment", "shipped"]
            assert sorted(Order.objects.values_list("name", flat=True)) == names
            assert not celery_inline.pending

        @pytest.mark.celery_redeliver("error")
        def test_its_own_error_comes_first(celery_inline):
            insert.delay()
            celery_inline.run()
            assert not 1
        """,
        preamble=BEGINS,
    )
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "NotIdempotentError: A task is not safe to run twice. Its message was delivered *",
            "  shop.tasks.charge(1) [[]*], sent at test_it.py:* in test_charge",
            "    INSERT shop_order: 1 row",
            "    DELETE shop_order: 1 row",
            "    published shop.tasks.add(1, 2)",
            "    published shop.tasks.ship(1)",
            '    mail "Welcome, ada" to ada@example.com',
            "  @pytest.mark.celery_redeliver(exempt=[[]charge])",
            "  djcelery_redeliver_exempt = shop.tasks.charge",
            "FAILED test_it.py::test_charge - pytest_djcelery.NotIdempotentError: A*",
            "FAILED test_it.py::test_its_own_error_comes_first - assert not 1",
        ]
    )
    result.stdout.no_fnmatch_line("*def pytest_runtest_call*")


def test_what_makes_no_difference_passes(shop: Project, run: Run) -> None:
    result = run(
        """
        pytestmark = [pytestmark, pytest.mark.celery_redeliver]

        def test_a_canvas_goes_on_once(celery_inline, celery_results):
            sums = chain(add.s(1, 1), group(add.s(2), add.s(3)), add.si(4, 5)).delay()
            order = Order.objects.create()
            body = chord([add.s(1, 1), add.s(2, 2)])(ship.si(order.pk))
            add.apply_async((1, 1), link=add.s(5), link_error=add.si(0, 0))
            summary = celery_inline.run()
            assert (summary.succeeded, len(summary.executions)) == (9, 18)
            assert (celery_results[sums], celery_results[body]) == (Success(9), Success("shipped"))

        @pytest.mark.parametrize("how", ["throws", "ignores"])
        def test_an_end_that_is_no_failure(celery_inline, celery_results, how):
            result = end.delay(how)
            add.delay(1, 1)
            assert celery_inline.run().succeeded == 2
            assert celery_results[result] == Success(how)

        def test_what_comes_at_the_same_moment_of_the_clock(celery_inline):
            order = Order.objects.create()
            stamp.delay(order.pk)
            celery_inline.run()
            stamp.apply_async((order.pk,), countdown=60, expires=90)
            assert celery_inline.run(until=timedelta(minutes=2)).succeeded == 1

        @pytest.mark.celery_redeliver(exempt=[insert, "shop.tasks.extend"])
        def test_an_exempt_task(celery_inline):
            insert.delay()
            extend.delay(Order.objects.create().pk)
            extend.map([Order.objects.create().pk]).delay()
            assert len(celery_inline.run().executions) == 3

        @pytest.mark.celery_redeliver("off")
        def test_off(celery_inline):
            insert.delay()
            assert len(celery_inline.run().executions) == 1

        def test_only_runs_that_succeed_are_repeated_and_each_message_once(celery_inline):
            for number in range(3):
                add.delay(number, 0)
            assert (celery_inline.step().value, len(celery_inline.pending)) == (0, 2)
            first, second = celery_inline.run(limit=1).executions
            celery_inline.redeliver(first.message)
            assert len(celery_inline.run().executions) == 3

        @pytest.mark.xfail(raises=NotIdempotentError, strict=True)
        @pytest.mark.parametrize("how", ["raises", "requeues", "retries"])
        def test_a_worse_end(celery_inline, celery_results, how):
            result = end.delay(how)
            assert celery_inline.run(until=timedelta(hours=1)).succeeded == 1
            assert celery_results[result] == Success(how)

        @pytest.mark.xfail(raises=NotIdempotentError, strict=True)
        def test_a_task_that_waits_for_others_waits_twice(celery_inline, celery_outbox):
            result = wait.delay()
            summary = celery_inline.run()
            assert (result.get(), summary.succeeded, len(summary.executions)) == (10, 3, 6)
            assert celery_outbox == [wait.s(), add.s(2, 2), add.s(3, 3)]

        @pytest.mark.xfail(raises=NotIdempotentError, strict=True)
        @pytest.mark.celery_inline(auto=True)
        def test_automatic_delivery(django_capture_on_commit_callbacks):
            with django_capture_on_commit_callbacks() as hooks:
                insert.delay()
            assert (Order.objects.count(), hooks) == (1, [])

        def test_a_test_that_sends_nothing_here():
            assert add(1, 1) == 2
        """,
        preamble=BEGINS,
    )
    result.assert_outcomes(passed=8, xfailed=5)


def test_what_waits_for_its_time_or_for_the_test_comes_once(shop: Project, run: Run) -> None:
    shop.tasks(
        """
        @shared_task
        def plan():
            with transaction.atomic():
                Order.objects.create(name="planned")
                add.delay(8, 8)
            transaction.on_commit(lambda: add.delay(7, 7))
            add.apply_async((9, 9), countdown=60)
            with allow_join_result():
                return add.delay(1, 1).get()
        """
    )
    result = run(
        """
        import warnings

        from pytest_djcelery import SentInTransactionWarning
        from shop.tasks import plan

        @pytest.mark.celery_redeliver("report")
        @pytest.mark.parametrize("kept_by", ["test", "django"])
        def test_once(
            celery_inline, celery_on_commit, celery_outbox, django_capture_on_commit_callbacks,
            kept_by,
        ):
            plan.delay()
            with warnings.catch_warnings(record=True) as given:
                warnings.simplefilter("always", SentInTransactionWarning)
                if kept_by == "test":
                    with celery_on_commit.hold():
                        celery_inline.run()
                else:
                    with django_capture_on_commit_callbacks(execute=True) as hooks:
                        celery_inline.run()
                    assert len(hooks) == 1
            assert celery_inline.scheduled == [add.s(9, 9)]
            assert celery_inline.pending == [add.s(7, 7)]
            assert (len(celery_on_commit.ran), celery_on_commit.discarded) == (1, [])
            assert celery_outbox.count(add.s(7, 7)) == celery_outbox.count(add.s(9, 9)) == 1
            assert len(given) == 1
        """,
        preamble=BEGINS,
    )
    result.assert_outcomes(passed=2)


def test_in_real_transactions_the_rows_stay(shop: Project, run: Run) -> None:
    result = run(
        """
        pytestmark = pytest.mark.django_db(transaction=True)

        @pytest.mark.celery_redeliver("report")
        def test_charge(celery_inline, celery_outbox, celery_on_commit, mailoutbox):
            order = Order.objects.create(name="new")
            Order.objects.bulk_create([Order(name="audit"), Order(name="audit")])
            charge.delay(order.pk)
            assert celery_inline.run().succeeded == 3
            assert celery_outbox == [charge.s(order.pk), add.s(1, 2), ship.s(order.pk)]
            assert len(mailoutbox) == len(celery_on_commit.ran) == 1
            assert Order.objects.filter(name="payment").count() == 2

        @pytest.mark.celery_redeliver
        def test_no_difference(celery_inline):
            stamp.delay(Order.objects.create().pk)
            end.delay("throws")
            assert celery_inline.run().succeeded == 2
        """,
        preamble=BEGINS,
    )
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        [
            "*celery: tasks that are not safe to run twice*",
            "shop.tasks.charge  INSERT shop_order: 1 row",
            "                   DELETE shop_order: 1 row",
            "                   published shop.tasks.add(1, 2)",
            "                   and 2 more effects (-v)",
            "                   in test_it.py::test_charge",
            "3 messages of 3 tasks were run twice, in 1 test: 1 task is not safe.",
        ]
    )


SUITE = """
    def test_one(celery_inline):
        extend.delay(Order.objects.create(name="a").pk)
        insert.delay()
        celery_inline.run()

    @pytest.mark.parametrize("number", range(4))
    def test_two(celery_inline, number):
        insert.delay()
        assert asyncio.run(celery_inline.arun()).succeeded == 1

    def test_three(celery_inline, celery_beat):
        add.delay(1, 1)
        celery_beat.run(until=timedelta(minutes=1))

    def test_four(django_db_blocker):
        with inline() as worker:
            insert.delay()
            worker.run()
    """
REPORT = [
    "*celery: tasks that are not safe to run twice*",
    'shop.tasks.extend  UPDATE shop_order *: name "a!" → "a!!"',
    "                   in test_it.py::test_one",
    "shop.tasks.insert  INSERT shop_order: 1 row",
    "                   in test_it.py::test_*",
    "                   in test_it.py::test_*",
    "                   and 4 more tests (-v)",
    "8 messages of 3 tasks were run twice, in 7 tests: 2 tasks are not safe.",
    "Rows, messages and mails were compared, *",
]


def test_a_run_reports_one_row_for_each_task_under_xdist_too(shop: Project, run: Run) -> None:
    result = run(SUITE, "--djcelery-redeliver=report", preamble=BEGINS)
    result.assert_outcomes(passed=7)
    result.stdout.fnmatch_lines(REPORT)
    result = run(SUITE, "--djcelery-redeliver=report", "-n2", preamble=BEGINS)
    result.assert_outcomes(passed=7)
    result.stdout.fnmatch_lines(REPORT)
    shop.ini("djcelery_redeliver = error", "djcelery_redeliver_exempt = shop.tasks.extend")
    result = run(SUITE, "-v", preamble=BEGINS)
    result.assert_outcomes(passed=1, failed=6)
    result.stdout.no_fnmatch_line("*shop.tasks.extend*")
    result.stdout.no_fnmatch_line("*celery: tasks that are not safe*")


def test_automatic_delivery_of_the_whole_run(shop: Project, run: Run) -> None:
    shop.ini("djcelery_mode = inline", "djcelery_redeliver = error")
    result = run(
        """
        from django.test import TestCase
        from hypothesis import given, settings, strategies

        @pytest.mark.xfail(raises=NotIdempotentError, strict=True)
        def test_insert():
            insert.delay()
            assert Order.objects.count() == 1

        def test_add():
            assert add.delay(1, 1).get() == 2

        @pytest.mark.celery_redeliver(exempt=[insert])
        def test_exempt():
            insert.delay()

        class TestOfDjango(TestCase):
            def test_insert(self):
                insert.delay()

        @settings(max_examples=5, deadline=None)
        @given(number=strategies.integers(0, 9))
        def test_examples(number):
            with inline() as worker:
                order = Order.objects.create(name=str(number))
                (extend if number > 3 else ship).delay(order.pk)
                worker.run()
        """,
        "--hypothesis-seed=1",
        "-phypothesispytest",
        preamble=BEGINS,
    )
    result.assert_outcomes(passed=2, xfailed=1, failed=2)
    result.stdout.fnmatch_lines(
        [
            "NotIdempotentError: *",
            "    INSERT shop_order: 1 row",
            "E *NotIdempotentError: A task is not safe to run twice.*",
            'E *UPDATE shop_order *: name "4!" → "4!!"',
        ],
        consecutive=False,
    )


def test_beside_results_in_the_database_stand_ins_and_wider_blocks(shop: Project, run: Run) -> None:
    shop.settings(
        """
        INSTALLED_APPS += ["django_celery_results"]
        CELERY_RESULT_BACKEND = "django-db"
        CACHES = {
            "default": {
                "BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "cached"
            },
        }
        """
    )
    shop.tasks(
        """
        from uuid import uuid4

        from django.core.cache import cache


        @shared_task
        def remember():
            cache.set("seen", str(uuid4()))
            return Order.objects.count()
        """
    )
    result = run(
        """
        from django_celery_results.models import TaskResult
        from shop.tasks import remember

        pytestmark = [
            pytest.mark.django_db(transaction=True), pytest.mark.celery_redeliver
        ]

        def test_results_and_caches_are_left_alone(celery_inline, celery_results):
            results = [remember.delay(), chord([add.s(1, 1), add.s(2, 2)])(end.si("throws"))]
            assert celery_inline.run().succeeded == 4
            assert [celery_results[result] for result in results] == [
                Success(0), Success("throws")
            ]
            assert TaskResult.objects.count() == 4

        def test_a_stand_in_answers_a_message_as_before(
            celery_inline, celery_faults, celery_results
        ):
            stub = celery_faults.stub(charge, side_effect=[1, 2])
            first, second = charge.delay(1), charge.delay(2)
            celery_inline.run()
            assert (celery_results[first], celery_results[second]) == (Success(1), Success(2))
            assert stub.calls == [charge.s(1), charge.s(2)]
            with celery_faults.duplicate(add):
                add.delay(1, 1)
                summary = celery_inline.run()
            assert (summary.succeeded, len(summary.executions)) == (2, 3)

        @pytest.fixture(scope="class")
        def wide():
            with inline() as worker:
                yield worker

        class TestWide:
            def test_twice(self, wide, celery_inline):
                add.delay(1, 1)
                assert len(wide.run().executions) == 2

            @pytest.mark.celery_redeliver(exempt=[add])
            def test_once(self, wide, celery_inline):
                add.delay(1, 1)
                assert len(wide.run().executions) == 1

            @pytest.mark.xfail(raises=NotIdempotentError, strict=True)
            def test_different(self, wide, celery_inline):
                insert.delay()
                wide.run()

            def test_no_longer(self, wide, celery_inline):
                pass
        """,
        preamble=BEGINS,
    )
    result.assert_outcomes(passed=5, xfailed=1)
