"""`inline()` inside ``@given``: each example is a test of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Project

Run = Callable[..., pytest.RunResult]


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


def test_any_mix_of_tasks_runs_the_same_way_each_time(run: Run, project: Project) -> None:
    """Each message once per delivery, in ETA order, and nothing is left behind."""
    project.tasks("""
        @shared_task(bind=True, max_retries=10)
        def retrying(self, times, seconds):
            if self.request.retries < times:
                raise self.retry(countdown=seconds)
            return times
    """)
    result = run("""
        from datetime import datetime, timedelta, timezone

        import time_machine
        from celery import chain
        from hypothesis import given, settings, strategies as st
        from pytest_djcelery import inline
        from pytest_djcelery import scope as scopes
        from pytest_djcelery.journal import Ended, Published, Received, Started
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

        def tell(work):
            names = {}
            with time_machine.travel(datetime(2026, 1, 1, tzinfo=timezone.utc), tick=False):
                with inline() as worker:
                    before = len(worker._worker.broker.queues)
                    for what in work:
                        publish(what)
                    summary = worker.run(until=timedelta(days=2))
                    assert worker.pending == worker.scheduled == []
                    assert worker._worker.broker.depths() == {}
                    journal = scopes.current().journal
                    events = [
                        (type(event).__name__, names.setdefault(event.task_id, len(names)),
                         getattr(event, "state", ""))
                        for event in journal.events((Received, Started, Ended))
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
            assert tell(work) == tell(work)
            assert not time_machine.escape_hatch.is_travelling()
    """)
    result.assert_outcomes(passed=1)
