"""`celery_faults` and `faults()` in tests of every kind, with the workers of one process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.services import require, url

if TYPE_CHECKING:
    from tests.support.project import Project

TASKS = """
    from django.db import transaction

    from shop import gateway


    @shared_task(acks_late=True, reject_on_worker_lost=True)
    def pay(name):
        with transaction.atomic():
            order = Order.objects.create(name=name)
            transaction.on_commit(lambda: add.delay(1, 2))
            gateway.charge(name)
        return order.name


    @shared_task
    def buy(name, robust=False):
        with transaction.atomic():
            Order.objects.create(name=name)
            transaction.on_commit(lambda: add.delay(1, 2), robust=robust)
    """
GATEWAY = """
    charged = []


    def charge(name):
        charged.append(name)
    """


def prepare(project: Project) -> None:
    project.tasks(TASKS)
    project.write(**{"shop/gateway": GATEWAY})


def test_under_celery_inline(project: Project) -> None:
    prepare(project)
    project.settings("""
        CELERY_BEAT_SCHEDULE = {"every": {"task": "shop.tasks.add", "schedule": 60, "args": (1, 2)}}
        """)
    result = project.run("""
        from datetime import timedelta

        import pytest
        from kombu.exceptions import OperationalError
        from shop import gateway
        from shop.models import Order
        from shop.tasks import add, buy, fail, pay

        pytestmark = pytest.mark.django_db


        @pytest.fixture(autouse=True)
        def nothing_charged():
            gateway.charged.clear()


        def test_rows_and_hooks_of_a_lost_worker(
            celery_inline, celery_faults, celery_outbox, celery_on_commit
        ):
            celery_faults.lose_worker(pay.s("ada"), at=gateway.charge)
            pay.delay("ada")
            assert celery_inline.step().lost
            assert (gateway.charged, Order.objects.count()) == (["ada"], 0)
            assert len(celery_on_commit.discarded) == 1
            assert celery_outbox == [pay.s("ada")]
            summary = celery_inline.run()
            assert (gateway.charged, Order.objects.count()) == (["ada", "ada"], 1)
            assert (summary.lost, summary.succeeded) == (0, 2)
            assert [run.redelivered for run in summary.executions] == [True, False]


        @pytest.mark.celery_inline(auto=True)
        def test_automatically(celery_faults):
            fault = celery_faults.duplicate(add)
            assert add.delay(1, 2).get() == 3
            assert fault.fired == 1


        @pytest.mark.parametrize("robust", [True, False])
        def test_a_broker_that_is_down_in_a_hook(
            celery_inline, celery_faults, celery_outbox, robust
        ):
            celery_faults.broker_down()
            if robust:
                buy("ada", robust=True)
            else:
                with pytest.raises(OperationalError):
                    buy("ada")
            assert Order.objects.count() == 1  # committed, and its message is lost
            assert celery_outbox == []


        def test_a_broker_that_is_down_in_a_run_of_beat(
            celery_inline, celery_beat, celery_faults, celery_outbox
        ):
            fault = celery_faults.broker_down()
            celery_beat.run(until=timedelta(minutes=3))
            assert fault.fired == 1
            assert len(celery_outbox) == 2


        def test_retries_that_wait_are_not_waited_for(celery_inline, celery_faults):
            policy = {"max_retries": 60, "interval_start": 10, "interval_max": 10}
            with celery_faults.broker_down(), pytest.raises(OperationalError):
                add.apply_async((1, 2), retry=True, retry_policy=policy)


        @pytest.fixture
        def gateway_is_down(celery_faults):
            celery_faults.fail(pay, ConnectionError("down"))
            yield
            assert [fault.fired for fault in celery_faults.fired] == [1]


        def test_in_a_fixture(celery_inline, gateway_is_down):
            result = pay.delay("ada")
            assert celery_inline.run(raise_failures=False).failed == 1


        def test_in_a_method_of_the_project(celery_inline, celery_faults, mocker_free):
            celery_faults.time_out(pay, at=gateway.charge, soft=False)
            pay.delay("ada")
            assert celery_inline.run(raise_failures=False).failed == 1
            mocker_free.assert_not_called()


        @pytest.fixture
        def mocker_free(monkeypatch):
            from unittest import mock

            double = mock.Mock()
            monkeypatch.setattr(gateway, "charge", double)
            return double
        """)
    result.assert_outcomes(passed=8)


def test_in_blocks_of_unittest_hypothesis_and_fixtures(project: Project) -> None:
    prepare(project)
    project.ini("djcelery_mode = inline")
    result = project.run("""
        from contextlib import ExitStack

        import pytest
        from celery.exceptions import WorkerLostError
        from django.test import TestCase
        from hypothesis import given, settings, strategies
        from pytest_djcelery import FaultNotFiredError, faults, inline
        from shop.tasks import add, fail


        class Tests(TestCase):
            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                cls.stack = ExitStack()
                cls.faults = cls.stack.enter_context(faults())
                cls.stub = cls.faults.stub(add, returns="stubbed")

            @classmethod
            def tearDownClass(cls):
                cls.stack.close()
                super().tearDownClass()

            def test_a_stub_of_the_class(self):
                assert add.delay(1, 2).get() == "stubbed"

            def test_and_again(self):
                with self.faults.fail(add, OSError), self.assertRaises(OSError):
                    add.delay(1, 2).get()
                assert add.delay(3, 4).get() == "stubbed"
                assert add.s(3, 4) in self.stub.calls


        class Plain(TestCase):
            def test_a_block(self):
                with faults() as broken:
                    broken.lose_worker(add)
                    with self.assertRaises(WorkerLostError):
                        add.delay(1, 2).get()
                assert add.delay(1, 2).get() == 3

            def test_one_that_never_fired(self):
                with self.assertRaises(FaultNotFiredError), faults() as broken:
                    broken.fail(fail, OSError)


        @given(strategies.integers(0, 3))
        @settings(max_examples=8, deadline=None)
        def test_examples(times):
            with inline() as worker, faults() as broken:
                if times:
                    broken.fail(add, OSError, times=times)
                for _ in range(5):
                    add.delay(1, 2)
                assert worker.run(raise_failures=False).failed == times


        def test_by_the_mode(celery_faults):
            celery_faults.fail(add, OSError("away"))
            with pytest.raises(OSError, match="away"):
                add.delay(1, 2).get()


        @pytest.mark.django_db
        def test_nothing_is_left(celery_app):
            assert add.delay(1, 2).get() == 3
        """)
    result.assert_outcomes(passed=7)


@pytest.mark.parametrize("broker", ["memory", "redis", "rabbitmq"])
def test_under_celery_worker(project: Project, broker: str) -> None:
    prepare(project)
    if broker != "memory":
        require(broker)
        project.ini(f"djcelery_broker = {url(broker)}")
    result = project.run("""
        import pytest
        from celery import chain
        from celery.exceptions import TimeLimitExceeded, WorkerLostError
        from pytest_djcelery import Failure, NeverReadyError, Success
        from shop import gateway
        from shop.models import Order
        from shop.tasks import add, pay

        pytestmark = pytest.mark.django_db(transaction=True)


        @pytest.fixture(params=["solo", "threads"], autouse=True)
        def celery_worker_pool(request):
            return request.param


        @pytest.fixture(autouse=True)
        def nothing_charged():
            gateway.charged.clear()


        def test_failures_and_limits(celery_worker, celery_faults, celery_results):
            celery_faults.fail(add, OSError("away"))
            assert celery_results[add.delay(1, 2)] == Failure(OSError, match="away")
            celery_faults.time_out(add, soft=False)
            assert celery_results[add.delay(1, 2)] == Failure(TimeLimitExceeded)
            assert celery_results[add.delay(1, 2)] == Success(3)


        def test_a_lost_child(celery_worker, celery_faults, celery_results):
            celery_faults.lose_worker(pay, at=gateway.charge)
            assert celery_results[pay.delay("ada")] == Success("ada")
            assert (gateway.charged, Order.objects.count()) == (["ada", "ada"], 1)
            celery_faults.lose_worker(add.s(3, 4))
            assert celery_results[add.delay(3, 4)] == Failure(WorkerLostError)


        def test_a_lost_host(celery_worker, celery_faults, celery_results):
            celery_faults.lose_worker(pay, at="end", host=True)
            assert celery_results[pay.delay("ada")] == Success("ada")
            assert (gateway.charged, Order.objects.count()) == (["ada", "ada"], 2)
            celery_faults.lose_worker(add.s(5, 5), host=True)
            with pytest.raises(NeverReadyError, match="its worker was lost after"):
                add.delay(5, 5).get()
            assert celery_results[add.delay(1, 2)] == Success(3)


        def test_duplicates(celery_worker, celery_faults):
            fault = celery_faults.duplicate(pay, times=2)
            for name in ("ada", "bob", "eve"):
                pay.delay(name)
            celery_worker.wait_until_idle()
            assert sorted(gateway.charged) == ["ada", "ada", "bob", "bob", "eve"]
            assert fault.fired == 2


        def test_stubs_and_results(celery_worker, celery_faults, celery_app):
            stub = celery_faults.stub("billing.invoice", side_effect=lambda x: x * 10)
            invoice = celery_app.signature("billing.invoice")
            assert chain(add.s(1, 2), invoice, add.s(4)).delay().get() == 34
            assert stub.calls == [celery_app.signature("billing.invoice", args=(3,))]
            celery_faults.results_down()
            result = add.delay(1, 2)
            celery_worker.wait_until_idle()
            assert result.state == "FAILURE"


        def test_a_block_waits_for_what_was_sent_in_it(celery_worker, celery_faults):
            with celery_faults.fail(add, OSError) as fault:
                add.delay(1, 2)
            assert fault.fired == 1
        """)
    result.assert_outcomes(passed=12)
