"""The table of the page "Which worker do I need?", row by row: how ways to run tasks differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project

TASKS = """
    import time

    from celery.exceptions import Reject

    log = []


    @shared_task(bind=True)
    def tell(self, *args):
        log.append(args)
        request = self.request
        return {"args": repr(args), "is_eager": request.is_eager, "from": bool(request.origin)}


    @shared_task
    def pair():
        return (1, 2)


    @shared_task(bind=True)
    def back_off(self):
        log.append(self.request.retries)
        if self.request.retries < 2:
            raise self.retry(countdown=3600)


    @shared_task(bind=True, acks_late=True)
    def rejects(self):
        log.append("rejects")
        if len(log) < 3:
            raise Reject("again", requeue=True)


    @shared_task
    def gets():
        return tell.delay().get(timeout=5)


    @shared_task(soft_time_limit=0.01, time_limit=0.02)
    def slow():
        time.sleep(0.05)
        return "to its end"


    @shared_task
    def insert(pk):
        Order.objects.create(pk=pk)
"""

TESTS = """
    import warnings
    from datetime import timedelta

    import pytest
    from celery import chain, signals
    from django.db import IntegrityError, connection
    from django.utils import timezone
    from pytest_djcelery import Success
    from shop.models import Order
    from shop.tasks import (
        back_off, count_orders, fail, gets, insert, log, pair, rejects, slow, tell,
    )

    EAGER, INLINE, EMBEDDED = (each == "KIND" for each in ("eager", "inline", "worker"))
    SIGNALS = (
        "before_task_publish", "after_task_publish", "task_received",
        "task_prerun", "task_success", "task_postrun",
    )

    @pytest.fixture(autouse=True)
    def work(celery_KIND):
        log.clear()
        return celery_KIND

    def settle(work):
        if not EAGER:
            work.run() if INLINE else work.wait_until_idle()

    def test_arguments_and_results():
        assert tell.delay((1, 2)).get()["args"] == "([1, 2],)"
        assert pair.delay().get() == ((1, 2) if EAGER else [1, 2])

    def test_the_request():
        request = tell.delay().get()
        assert request["is_eager"] is EAGER
        assert request["from"] is not EAGER

    def test_retries_and_the_clock(work, celery_results):
        began = timezone.now()
        result = back_off.delay()
        if EAGER:
            assert log == [0, 1, 2]
        elif INLINE:
            assert work.run().retried == 1
            assert log == [0]
            assert work.run(until=timedelta(hours=3)).succeeded == 1
            assert celery_results[result] == Success(None, retries=2)
            assert timezone.now() - began >= timedelta(hours=3)
        else:
            work.wait_until_idle()
            assert log == [0]

    def test_a_countdown(work):
        tell.apply_async(("later",), countdown=3600)
        settle(work)
        assert log == ([("later",)] if EAGER else [])

    def test_canvas():
        if EAGER:
            with pytest.raises(ValueError, match="at the call"):
                chain(fail.s("at the call"), tell.s()).delay()
        else:
            result = chain(fail.s("later"), tell.s()).delay()
            with pytest.raises(ValueError, match="later"):
                result.get()

    def test_signals(work):
        told = []
        receivers = {
            name: lambda sender=None, name=name, **_: told.append(name) for name in SIGNALS
        }
        for name, receiver in receivers.items():
            getattr(signals, name).connect(receiver)
        tell.delay()
        settle(work)
        for name, receiver in receivers.items():
            getattr(signals, name).disconnect(receiver)
        assert told == list(SIGNALS[3:] if EAGER else SIGNALS)

    def test_redelivery():
        rejects.delay().get()
        assert len(log) == (1 if EAGER else 3)

    def test_get_in_a_task(celery_results):
        with pytest.raises(RuntimeError, match="Never call result.get"):
            gets.delay().get()

    def test_time_limits():
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            assert slow.delay().get() == "to its end"
        names = {each.category.__name__ for each in told}
        assert names == ({"LimitNotEnforcedWarning"} if INLINE else set())

    def test_a_message_sent_by_name(celery_app, work, recwarn):
        result = celery_app.send_task("shop.tasks.tell")
        settle(work)
        assert result.state == ("PENDING" if EAGER else "SUCCESS")
        assert len(recwarn) == EAGER  # Celery's own warning

    @pytest.mark.django_db
    def test_rows():
        Order.objects.create()
        assert count_orders.delay().get() == 1
        assert connection.in_atomic_block is not EMBEDDED

    @pytest.mark.django_db
    def test_a_database_error():
        order = Order.objects.create()
        with pytest.raises(IntegrityError):
            insert.delay(order.pk).get()
        assert connection.needs_rollback is EAGER
"""


@pytest.mark.parametrize("kind", ["eager", "inline", "worker"])
def test_each_row(project: Project, kind: str) -> None:
    project.tasks(TASKS)
    result = project.run(TESTS.replace("KIND", kind))
    result.assert_outcomes(passed=12)
