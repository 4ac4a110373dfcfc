"""Exploration works with whatever pytest and Django know as a test, and with all of Celery."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.project import Project, Run


def test_each_kind_of_test_begins_each_schedule_as_new(project: Project, run: Run) -> None:
    result = run(
        """
        import asyncio
        import logging
        from datetime import timedelta
        from unittest import mock

        import pytest
        import time_machine
        from django.db import transaction
        from django.test import TestCase, TransactionTestCase
        from pytest_djcelery import Success
        from shop.models import Order
        from shop.tasks import add, count_orders, flaky, ship

        explore = pytest.mark.celery_explore
        two = {}

        def send_two(name):
            "Send two messages, on a database that no other schedule has touched."
            assert not Order.objects.exists(), name
            assert not time_machine.escape_hatch.is_travelling()
            two[name] = two.get(name, 0) + 1
            for text in "ab":
                ship.delay(Order.objects.create(name=text).pk)

        @explore
        @pytest.mark.django_db
        class TestClass:
            def setup_method(self):
                self.fresh = True

            @pytest.mark.parametrize("number", [1, 2])
            def test_parameters(self, celery_inline, number, tmp_path, caplog, monkeypatch):
                assert not hasattr(self, "ran")
                self.ran = True
                assert self.fresh and not list(tmp_path.iterdir()) and not caplog.records
                self.fresh = False
                (tmp_path / "file").touch()
                logging.getLogger("x").warning("hello")
                monkeypatch.setattr(Order, "marked", True, raising=False)
                send_two(f"parameters-{number}")
                celery_inline.run(until=timedelta(hours=1))

        @explore
        @pytest.mark.celery_inline
        class TestUnittest(TestCase):
            @classmethod
            def setUpTestData(cls):
                cls.name = "unittest"

            def setUp(self):
                self.fresh = True

            def test_it(self):
                assert self.fresh
                self.fresh = False
                send_two(self.name)
                from pytest_djcelery import inline
                with inline() as worker:
                    worker.run()

            def test_fails(self):
                send_two("fails")
                from pytest_djcelery import inline
                with inline() as worker:
                    first = worker.step()
                self.assertEqual(first.message.args[0], Order.objects.first().pk)

        @explore
        @pytest.mark.celery_inline
        class TestTransactions(TransactionTestCase):
            def test_it(self):
                send_two("transactions")
                from pytest_djcelery import inline
                with inline() as worker:
                    worker.run()

        @explore
        @pytest.mark.django_db(transaction=True)
        def test_real_transactions(celery_inline):
            send_two("real")
            celery_inline.run()

        @explore
        @pytest.mark.django_db
        @pytest.mark.celery_inline(auto=True)
        def test_auto():
            with transaction.atomic():
                send = [Order.objects.create().pk for _ in range(2)]
                for pk in send:
                    ship.delay_on_commit(pk)
            two["auto"] = two.get("auto", 0) + 1
            assert {order.name for order in Order.objects.all()} == {"shipped"}

        @explore
        def test_get(celery_inline, celery_results):
            results = [add.delay(1, 2), add.delay(3, 4)]
            two["get"] = two.get("get", 0) + 1
            assert [result.get() for result in results] == [3, 7]

        @explore(examples=20)
        def test_retries(celery_inline, celery_results):
            results = [flaky.delay(1), flaky.delay(1)]
            celery_inline.run(until=timedelta(hours=1))
            two["retries"] = two.get("retries", 0) + 1
            assert all(celery_results[result] == Success("ok") for result in results)

        @explore
        @pytest.mark.skip
        def test_skipped(celery_inline):
            pass

        @explore
        def test_skips(celery_inline):
            pytest.skip("not here")

        @explore
        @pytest.mark.xfail(strict=True)
        def test_expected(celery_inline):
            add.delay(1, 2)
            add.delay(3, 4)
            assert celery_inline.step().value == 3

        @pytest.fixture
        def checked():
            ran = []
            yield ran
            assert ran[0] == 3

        @explore
        def test_teardown(celery_inline, checked):
            for x in (3, 7):
                add.delay(x, 0)
            checked += [run.value for run in celery_inline.run().executions]

        @explore
        @pytest.mark.celery_redeliver
        def test_redelivered(celery_inline):
            for x in (3, 7):
                add.delay(x, 0)
            assert celery_inline.run().succeeded == 2

        @explore
        def test_faults(celery_inline, celery_faults):
            celery_faults.fail(add, ValueError)
            for x in (3, 7):
                add.delay(x, 0)
            assert celery_inline.run(raise_failures=False).failed == 1

        def test_counts():
            assert two == {
                "parameters-1": 2, "parameters-2": 2, "unittest": 2, "fails": 2,
                "transactions": 2, "real": 2, "auto": 1, "get": 2, "retries": two["retries"],
            }
            assert two["retries"] == 6
        """,
        "-v",
    )
    result.assert_outcomes(passed=12, failed=1, errors=1, skipped=2, xfailed=1)
    result.stdout.fnmatch_lines(
        [
            "*TestClass::test_parameters[[]2] PASSED (2 schedules, all there are)*",
            "*TestUnittest::test_fails FAILED*",
            "*test_teardown PASSED (2 schedules, all there are)*",
            "*test_teardown ERROR*",
            ">  *assert ran[[]0] == 3",
            "E   *ScheduleFailedError: 1 of 2 schedules fail; the least that does:",
            "E     1  add(7, 0)   delivered before add(3, 0)",
            "E   *ScheduleFailedError: 1 of 2 schedules fail; the least that does:",
            "E     1  ship(2)   delivered before ship(1)",
        ]
    )
