"""`celery_inline` delivers messages through Celery's own code, in the test's thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Project

Run = Callable[..., pytest.RunResult]


def test_run_delivers_what_is_due_in_the_tests_own_transaction(run: Run) -> None:
    result = run("""
        import pytest
        from shop.models import Order
        from shop.tasks import add, count_orders, ship

        @pytest.mark.django_db
        def test_it(celery_inline, celery_results, celery_outbox):
            order = Order.objects.create()
            result = ship.delay(order.pk, express=True)
            assert [each.task for each in celery_inline.pending] == ["shop.tasks.ship"]
            summary = celery_inline.run()
            assert (summary.succeeded, summary.failed) == (1, 0)
            assert summary.executions[0].value == "express"
            assert summary.executions[0].message is celery_outbox[0]
            order.refresh_from_db()
            assert order.name == "express"
            assert result.get() == "express"
            assert celery_inline.pending == []

        def test_no_database(celery_inline):
            assert add.delay(1, 2).get() == 3
            assert celery_inline.run().executions == ()
    """)
    result.assert_outcomes(passed=2)


def test_a_failure_is_raised_and_the_rest_stays_queued(run: Run) -> None:
    result = run("""
        import pytest
        from shop.tasks import add, fail
        from pytest_djcelery import Failure, Success

        def test_it(celery_inline, celery_results):
            failing, after = fail.delay("oh"), add.delay(1, 2)
            with pytest.raises(ValueError, match="oh") as caught:
                celery_inline.run()
            [note] = caught.value.__notes__
            assert note == f"in the task shop.tasks.fail('oh') [{failing.id}], attempt 1"
            assert [each.id for each in celery_inline.pending] == [after.id]
            assert celery_results[failing] == Failure(ValueError, match="oh")
            assert celery_results[after] == Success(3)

        def test_all(celery_inline):
            fail.delay("a"); add.delay(1, 2); fail.delay("b")
            summary = celery_inline.run(raise_failures=False)
            assert (summary.succeeded, summary.failed) == (1, 2)
            assert [str(each.exception) for each in summary.executions if each.failed] == ["a", "b"]

        def test_unlooked(celery_inline):
            fail.delay("never looked at")
            celery_inline.run(raise_failures=False)
    """)
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*A task failed and the test never looked at it:*"])


def test_the_clock_goes_from_eta_to_eta(run: Run, project: Project) -> None:
    project.tasks("""
        import time
        from datetime import datetime
        from django.utils import timezone

        @shared_task(bind=True, max_retries=5)
        def backing_off(self):
            seen.append((timezone.now(), datetime.now().timestamp(), time.time()))
            if self.request.retries < 3:
                raise self.retry(countdown=600 * 2 ** self.request.retries)
            return "ok"

        seen = []
    """)
    result = run("""
        import time
        from datetime import timedelta

        import pytest
        import time_machine
        from django.utils import timezone
        from pytest_djcelery import NeverReadyError, Success
        from shop.tasks import add, backing_off, seen

        def test_it(celery_inline, celery_results):
            real = time.time()
            result = backing_off.delay()
            summary = celery_inline.run()
            assert (summary.retried, summary.scheduled) == (1, 1)
            with pytest.raises(NeverReadyError, match="is scheduled for"):
                result.get()
            began = timezone.now()
            summary = celery_inline.run(until=timedelta(hours=2))
            assert (summary.retried, summary.succeeded) == (2, 1)
            assert celery_results[result] == Success("ok", retries=3)
            assert abs(timezone.now() - began - timedelta(hours=2)) < timedelta(seconds=1)
            for aware, naive, stamp in seen:
                assert abs(aware.timestamp() - stamp) < 0.01 and abs(naive - stamp) < 0.01
            gaps = [round(b[2] - a[2]) for a, b in zip(seen, seen[1:])]
            assert gaps == [600, 1200, 2400]

        def test_next(celery_inline):
            assert not time_machine.escape_hatch.is_travelling()

        def test_advance(celery_inline):
            result = add.apply_async((1, 2), countdown=60)
            assert celery_inline.run().scheduled == 1
            celery_inline.advance(timedelta(seconds=59))
            assert celery_inline.step() is None
            celery_inline.advance(timedelta(seconds=1.5))
            assert [each.id for each in celery_inline.pending] == [result.id]
            assert celery_inline.step().value == 3
    """)
    result.assert_outcomes(passed=3)
