"""`inline()` inside ``@given``: each example is a test of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.project import Project, Run


def test_each_example_starts_clean(run: Run) -> None:
    result = run("""
        from datetime import timedelta

        import pytest
        import time_machine
        from hypothesis import given, settings, strategies as st
        from hypothesis.extra.django import TestCase
        from pytest_djcelery import inline, outbox
        from shop.models import Order
        from shop.tasks import add, ship

        fast = settings(max_examples=15, deadline=None, database=None)

        @pytest.mark.django_db
        @fast
        @given(st.booleans(), st.integers(0, 3))
        def test_rollback_test(express, left):
            with inline() as worker, outbox() as sent:
                assert not time_machine.escape_hatch.is_travelling()
                assert Order.objects.count() == 0
                assert sent == [] and worker.pending == worker.scheduled == []
                order = Order.objects.create()
                ship.delay(order.pk, express=express)
                assert worker.run().executions[0].value == ("express" if express else "shipped")
                worker.advance(timedelta(days=1))
                for number in range(left):
                    add.delay(number, 1)
                assert len(worker.pending) == left

        class TestDjango(TestCase):
            @fast
            @given(st.integers(0, 5))
            def test_it(self, count):
                with inline() as worker:
                    assert Order.objects.count() == 0
                    for _ in range(count):
                        ship.delay(Order.objects.create().pk)
                    assert worker.run().succeeded == count

        @pytest.mark.django_db
        def test_outside_hypothesis_what_was_written_stays():
            with inline() as worker:
                order = Order.objects.create()
                ship.delay(order.pk)
                worker.run()
            assert Order.objects.get().name == "shipped"
    """)
    result.assert_outcomes(passed=3)


MIXED_TASKS = """
from datetime import datetime, timedelta, timezone

import time_machine
from celery import chain
from hypothesis import given, settings, strategies as st
from pytest_djcelery import inline
from pytest_djcelery.session.session import current_sandbox
from pytest_djcelery.messages.events import Ended, StateStored
from shop.tasks import add, retrying

seconds = st.integers(0, 3600)
plain = st.tuples(st.just("add"), seconds)
retries = st.tuples(st.just("retry"), st.integers(0, 4), seconds)
chains = st.tuples(st.just("chain"), st.integers(1, 4), seconds)

def publish(what):
    if what[0] == "add":
        return add.apply_async((1, 2), countdown=what[1])
    if what[0] == "retry":
        return retrying.delay(*what[1:])
    return chain(add.si(n, 1) for n in range(what[1])).apply_async(countdown=what[2])
"""


def test_any_mix_of_tasks_runs_the_same_way_each_time(run: Run, project: Project) -> None:
    """Each message once per delivery, in ETA order, and nothing is left behind."""
    project.tasks("""
        @shared_task(bind=True, max_retries=10)
        def retrying(self, times, seconds):
            if self.request.retries < times:
                raise self.retry(countdown=seconds)
            return times
    """)
    result = run(
        """
        def events_of(work):
            names = {}
            with time_machine.travel(datetime(2026, 1, 1, tzinfo=timezone.utc), tick=False):
                with inline() as worker:
                    before = len(worker._runs.worker.broker.queues)
                    for what in work:
                        publish(what)
                    summary = worker.run(until=timedelta(days=2))
                    assert worker.pending == worker.scheduled == []
                    assert worker._runs.worker.broker.depths() == {}
                    journal = current_sandbox().journal
                    events = [
                        (type(event).__name__, names.setdefault(event.task_id, len(names)),
                         getattr(event, "state", ""))
                        for event in journal.events((StateStored, Ended))
                    ]
                    published = journal.published()
                    assert len(published) == len(summary.executions)
                    keys = [(each.id, each.attempt) for each in summary.executions]
                    assert len(keys) == len(set(keys))
                    etas = [each.message.eta or each.message.sent_at for each in summary.executions]
                    assert etas == sorted(etas)
                    assert summary.failed == summary.unknown == summary.rejected == 0
                    return events

        @settings(max_examples=60, deadline=None, database=None)
        @given(st.lists(st.one_of(plain, retries, chains), max_size=8))
        def test_it(work):
            assert events_of(work) == events_of(work)
            assert not time_machine.escape_hatch.is_travelling()
        """,
        preamble=MIXED_TASKS,
    )
    result.assert_outcomes(passed=1)


MARKED = """
    from datetime import timedelta

    import pytest
    import time_machine
    from django.db import transaction
    from hypothesis import given, settings, strategies as st
    from pytest_djcelery import Success, inline, on_commit, outbox, results
    from shop.models import Order
    from shop.tasks import add, fail, ship

    fast = settings(max_examples=5, deadline=None, database=None)
    numbers = st.integers(0, 3)

    def check_example(app):
        '''One example, which leaves behind whatever it can.'''
        with inline() as worker, outbox(whole_test=True) as sent, results() as outcomes:
            assert not time_machine.escape_hatch.is_travelling()
            assert sent == worker.pending == worker.scheduled == outcomes.of(add) == []
            assert app.conf.task_default_priority is None
            app.conf.task_default_priority = 3
            with on_commit(whole_test=True) as hooks, transaction.atomic():
                assert hooks.ran == hooks.discarded == []
                order = Order.objects.create()
                ship.delay_on_commit(order.pk)
            assert len(hooks.ran) == 1
            add.delay(1, 2)
            assert worker.run().succeeded == 2
            assert outcomes.of(add) == [Success(3)]
            order.refresh_from_db()
            assert order.name == "shipped"
            add.apply_async((3, 4), countdown=60)
            worker.run(until=timedelta(seconds=30))
            assert len(worker.scheduled) == 1
            add.delay(5, 6)
            with transaction.atomic():
                add.delay_on_commit(7, 8)
                transaction.set_rollback(True)
            assert len(hooks.discarded) == 1
    """


MARKED_TESTS = """
import pytest
from pytest_djcelery import UnhandledTaskFailureError
from shop.example import *
"""


def test_each_example_of_a_marked_test_starts_clean_too(run: Run, project: Project) -> None:
    project.write(**{"shop/example": MARKED})
    result = run(
        """
        @pytest.mark.django_db
        @pytest.mark.celery(task_acks_late=True)
        @fast
        @given(numbers)
        def test_settings(celery_session_app, number):
            assert Order.objects.count() == 0
            check_example(celery_session_app)
            assert celery_session_app.conf.task_acks_late is True
            assert Order.objects.count() == 0

        @pytest.mark.django_db
        @pytest.mark.celery_unhandled_failures("ignore")
        @pytest.mark.celery_sent_in_transaction("ignore")
        @fast
        @given(numbers)
        def test_policies(celery_session_app, number):
            check_example(celery_session_app)
            with inline() as worker, transaction.atomic():
                fail.delay()
                Order.objects.create()
                worker.run(raise_failures=False)

        @pytest.mark.django_db(transaction=True)
        @pytest.mark.celery(task_acks_late=True)
        @fast
        @given(numbers)
        def test_real_transactions(celery_session_app, number):
            check_example(celery_session_app)

        def test_nothing_is_left(celery_inline, celery_outbox, db):
            assert celery_inline.pending == celery_inline.scheduled == celery_outbox == []
            assert Order.objects.count() == 0
        """,
        preamble=MARKED_TESTS,
    )
    result.assert_outcomes(passed=4)


def test_a_failure_is_reported_by_its_example(run: Run, project: Project) -> None:
    project.write(**{"shop/example": MARKED})
    result = run(
        """
        @pytest.mark.celery_unhandled_failures("error")
        @fast
        @given(numbers)
        def test_a_failure_is_of_its_example(number):
            with pytest.raises(UnhandledTaskFailureError, match="boom"):
                with inline() as worker:
                    fail.delay()
                    worker.run(raise_failures=False)
            with inline() as worker:
                add.delay(1, 2)
                worker.run()

        def test_nothing_is_left(celery_inline, celery_outbox, db):
            assert celery_inline.pending == celery_inline.scheduled == celery_outbox == []
            assert Order.objects.count() == 0
        """,
        preamble=MARKED_TESTS,
    )
    result.assert_outcomes(passed=2)


def test_examples_share_the_worker_that_the_test_has_chosen(run: Run, project: Project) -> None:
    project.write(**{"shop/example": MARKED})
    result = run(
        """
        @pytest.mark.django_db
        @fast
        @given(numbers)
        def test_where_the_test_has_chosen_who_runs_its_tasks_it_is_one_test(celery_inline, number):
            with outbox() as sent:
                ship.delay(Order.objects.create().pk)
            assert len(sent) == 1
            assert celery_inline.run().succeeded == 1
            assert Order.objects.latest("pk").name == "shipped"
            with inline() as same:
                assert same is celery_inline

        def test_nothing_is_left(celery_inline, celery_outbox, db):
            assert celery_inline.pending == celery_inline.scheduled == celery_outbox == []
            assert Order.objects.count() == 0
        """,
        preamble=MARKED_TESTS,
    )
    result.assert_outcomes(passed=2)


def test_each_example_starts_clean_with_automatic_delivery_too(run: Run, project: Project) -> None:
    project.ini("djcelery_mode = inline")
    project.write(**{"shop/example": MARKED})
    result = run("""
        import pytest
        from pytest_djcelery import eager
        from pytest_djcelery.session.session import current_sandbox
        from shop.example import *

        @pytest.mark.django_db
        @fast
        @given(numbers)
        def test_by_hand(celery_session_app, number):
            check_example(celery_session_app)

        @pytest.mark.django_db
        @fast
        @given(numbers)
        def test_by_itself(number):
            with outbox() as sent, results() as outcomes:
                assert Order.objects.count() == 0
                assert outcomes.of(add) == outcomes.of(ship) == []
                assert current_sandbox().runner.scheduled == []
                assert ship.delay(Order.objects.create().pk).result == "shipped"
                add.apply_async((1, 2), countdown=3600)
                assert len(current_sandbox().runner.scheduled) == 1
                assert [each.task for each in sent] == [ship.name, add.name]

        @fast
        @given(numbers)
        def test_eagerly(number):
            with eager(), outbox() as sent:
                assert add.delay(1, 2).get() == 3
                assert len(sent) == 1
    """)
    result.assert_outcomes(passed=3)
