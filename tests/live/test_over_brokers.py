"""All kinds of worker in one run, over a broker that is a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.services import require, url

if TYPE_CHECKING:
    from tests.support.project import Project, Run


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_workers_take_turns(run: Run, project: Project, broker: str) -> None:
    require(broker)
    project.ini(f"djcelery_broker = {url(broker)}")
    result = run("""
        import pytest
        from celery import chord
        from shop.models import Order
        from shop.tasks import add, count_orders, fail, flaky, ship

        from pytest_djcelery import Success

        pids = []

        def test_live(celery_live_worker, celery_app, celery_results):
            pids.append(celery_live_worker.pid)
            assert celery_app.conf.broker_url.startswith(("redis:", "amqp:"))
            assert celery_results[flaky.delay()] == Success("ok", retries=2)
            assert chord([add.s(1, 2), add.s(3, 4)])(add.s([1])).get() == [3, 7, 1]

        @pytest.mark.django_db(transaction=True)
        def test_no_worker_takes_what_is_sent_without_one(celery_outbox):
            add.delay(1, 2)
            assert celery_outbox == [add.s(1, 2)]

        def test_the_same_live_worker(celery_live_worker, celery_outbox):
            assert pids == [celery_live_worker.pid]
            assert ship.delay(Order.objects.create().pk).get() == "shipped"
            assert count_orders.delay().get() == 1
            assert celery_live_worker.log.count(" received") == 2
            assert celery_outbox.count(add.s(1, 2)) == 0

        @pytest.mark.django_db(transaction=True)
        def test_embedded(celery_worker):
            assert ship.delay(Order.objects.create().pk).get() == "shipped"

        @pytest.mark.django_db(transaction=True)
        def test_inline_has_its_messages_in_memory(celery_inline, celery_app):
            add.delay(1, 2)
            assert celery_inline.run().succeeded == 1
            add.delay(3, 4)

        @pytest.mark.django_db(transaction=True)
        def test_and_nothing_of_the_test_before(celery_inline):
            assert celery_inline.pending == []

        def test_live_again(celery_live_worker):
            assert add.delay(1, 2).get() == 3
    """)
    result.assert_outcomes(passed=7)


def test_the_first_remote_control_command_is_obeyed(run: Run, project: Project) -> None:
    require("redis")
    project.ini(f"djcelery_broker = {url('redis')}")
    project.tasks("""
        import time

        from celery import signals


        @signals.worker_init.connect
        def on_init(**kwargs):
            # After what tells the test that the worker is ready, before the worker's first look
            # at Redis, where nobody keeps what is sent to those who haven't subscribed.
            signals.worker_ready.connect(lambda **kwargs: time.sleep(1), weak=False)
        """)
    run("""
        def test_it(celery_live_worker, celery_app):
            assert celery_app.control.ping(limit=1)
    """).assert_outcomes(passed=1)
