"""`celery_inline` delivers messages through Celery's own code, in the test's thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.project import Project, Run


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
            assert celery_inline.run().executions == []  # as a test may write it
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


def test_whatever_reads_an_outcome_has_looked_at_it(run: Run) -> None:
    result = run("""
        import pytest
        from celery import group
        from shop.tasks import fail

        READERS = [
            lambda result: isinstance(result.info, ValueError),
            lambda result: result.traceback,
            lambda result: result.failed(),
            lambda result: pytest.raises(ValueError, result.maybe_throw),
            lambda result: pytest.raises(ValueError, result.maybe_reraise),
            lambda result: list(result.collect(propagate=False)),
        ]
        OF_GROUPS = [
            lambda result: pytest.raises(ValueError, result.maybe_throw),
            lambda result: pytest.raises(ValueError, result.join),
            lambda result: result.failed(),
            lambda result: not result.successful(),
        ]

        @pytest.mark.parametrize("reads", READERS)
        def test_inline(celery_inline, reads):
            result = fail.delay()
            celery_inline.run(raise_failures=False)
            assert reads(result)

        @pytest.mark.parametrize("reads", READERS)
        def test_eager(celery_eager, reads):
            assert reads(fail.delay())

        @pytest.mark.parametrize("reads", [*OF_GROUPS, lambda result: list(result.iter_native())])
        def test_inline_group(celery_inline, reads):
            result = group([fail.s(), fail.s()])()
            celery_inline.run(raise_failures=False)
            assert reads(result)

        @pytest.mark.parametrize("reads", OF_GROUPS)
        def test_eager_group(celery_eager, reads):
            assert reads(group([fail.s(), fail.s()])())
    """)
    result.assert_outcomes(passed=21)


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


def test_results_that_are_messages_themselves(run: Run, project: Project) -> None:
    project.ini("djcelery_result_backend = rpc://")
    run("""
        from celery import group
        from shop.tasks import add, flaky

        from pytest_djcelery import Success

        def test_a_group(celery_inline):
            assert group(add.s(each, each) for each in range(3))().get() == [0, 2, 4]

        def test_one_after_the_other(celery_inline):
            first, second = add.delay(1, 1), add.delay(2, 2)
            assert second.get() == 4
            assert first.get() == 2

        def test_outcomes(celery_inline, celery_results):
            results = group(add.s(each, each) for each in range(2))()
            assert celery_results[results] == [Success(0), Success(2)]

        def test_history(celery_inline, celery_results):
            result = flaky.delay()
            celery_inline.run()
            states = [each.state for each in celery_results.history(result)]
            assert states == ["RETRY", "RETRY", "SUCCESS"]
    """).assert_outcomes(passed=4)


def test_messages_of_one_id_are_distinguished_by_their_contents(run: Run, project: Project) -> None:
    project.tasks("""
        @shared_task(bind=True)
        def again(self, left):
            if left:
                raise self.replace(again.si(left - 1))
            return "done"
    """)
    result = run("""
        from datetime import timedelta

        import pytest
        from shop.tasks import add, again, fail

        def test_by_what_they_say(celery_inline, celery_outbox):
            for number in (1, 2, 3):
                add.apply_async((number, number), task_id="x", countdown=60 * (4 - number))
            fail.apply_async(("a",), task_id="y")
            fail.apply_async(("b",), task_id="y")
            assert celery_inline.pending == [fail.s("a"), fail.s("b")]
            for text in "ab":
                with pytest.raises(ValueError, match=text) as caught:
                    celery_inline.run()
                assert caught.value.__notes__ == [
                    f"in the task shop.tasks.fail({text!r}) [y], attempt 1"
                ]
            later = [add.s(3, 3), add.s(2, 2), add.s(1, 1)]
            assert celery_inline.scheduled == later
            executions = celery_inline.run(until=timedelta(hours=1)).executions
            assert [each.message for each in executions] == later
            assert [each.value for each in executions] == [6, 4, 2]

        @pytest.mark.celery(task_protocol=1)
        def test_by_the_first_protocol(celery_inline):
            add.apply_async((1, 1), task_id="x", countdown=60)
            add.apply_async((2, 2), task_id="x")
            assert celery_inline.run().executions[0].message == add.s(2, 2)

        def test_a_task_that_replaces_itself(celery_inline, celery_outbox):
            again.delay(2)
            executions = celery_inline.run().executions
            assert [id(each.message) for each in executions] == [*map(id, celery_outbox)]
            assert [each.message.args for each in executions] == [(2,), (1,), (0,)]
    """)
    result.assert_outcomes(passed=3)


def test_messages_of_one_id_with_the_same_contents_are_taken_in_the_order_of_sending(
    run: Run,
) -> None:
    result = run("""
        import pytest
        from shop.tasks import add

        def test_first_come_first_served_where_they_say_the_same(celery_inline, celery_outbox):
            for _ in range(3):
                add.apply_async((1, 1), task_id="x")
            first, second, third = celery_outbox
            assert [id(each) for each in celery_inline.pending] == [*map(id, celery_outbox)]
            assert celery_inline.step().message is first
            assert celery_inline.pending[0] is second
            executions = celery_inline.run().executions
            assert [id(each.message) for each in executions] == [id(second), id(third)]
            celery_inline.redeliver(third)
            assert celery_inline.step().message == add.s(1, 1)

        def test_one_that_was_not_sent(celery_inline, celery_outbox, monkeypatch):
            from pytest_djcelery.brokers.memory.queues import Broker

            def refuse(self, *args, **kwargs):
                raise OSError("full")

            with monkeypatch.context() as patch:
                patch.setattr(Broker, "put", refuse)
                with pytest.raises(OSError, match="full"):
                    add.apply_async((1, 1), task_id="x")
            add.apply_async((1, 1), task_id="x")
            [sent] = celery_outbox
            assert celery_inline.step().message is sent
    """)
    result.assert_outcomes(passed=2)
