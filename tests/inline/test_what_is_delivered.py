"""Which message is next, what a run counts, and what it leaves as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.project import Project, Run


def test_a_summary_counts_every_end(run: Run, project: Project) -> None:
    project.tasks("""
        from celery.exceptions import Ignore, Reject

        @shared_task(bind=True)
        def end(self, how):
            if how == "fail":
                raise ValueError(how)
            if how == "retry" and not self.request.retries:
                raise self.retry(countdown=0)
            if how == "ignore":
                raise Ignore
            if how == "reject":
                raise Reject(how)
            return how
    """)
    result = run("""
        from datetime import timedelta

        import pytest
        from celery.exceptions import NotRegistered
        from django.utils import timezone
        from pytest_djcelery import Success
        from shop.tasks import end

        COUNTS = ("succeeded", "failed", "retried", "ignored", "rejected", "revoked", "expired",
                  "unknown", "scheduled")

        def test_all(celery_app, celery_inline):
            for how in ("succeed", "fail", "retry", "ignore", "reject"):
                end.delay(how)
            end.delay("revoked").revoke()
            end.apply_async(("expired",), expires=timezone.now() - timedelta(seconds=1))
            end.apply_async(("later",), countdown=60)
            celery_app.send_task("no.such.task")
            celery_app.send_task("shop.tasks.end", ("pickled",), serializer="pickle")
            summary = celery_inline.run(raise_failures=False)
            counts = {name: getattr(summary, name) for name in COUNTS}
            assert counts == dict(succeeded=2, failed=1, retried=1, ignored=1, rejected=2,
                                  revoked=1, expired=1, unknown=1, scheduled=1)
            assert repr(summary) == (
                "<Summary succeeded=2, failed=1, retried=1, ignored=1, rejected=2, revoked=1, "
                "expired=1, unknown=1, scheduled=1>"
            )
            states = [each.state for each in summary.executions]
            assert states == ["SUCCESS", "FAILURE", "RETRY", "IGNORED", "REJECTED", "REVOKED",
                              "REVOKED", "FAILURE", "REJECTED", "SUCCESS"]
            assert [each.attempt for each in summary.executions][-1] == 2
            with pytest.raises(AttributeError, match="no attribute 'sucseeded'"):
                summary.sucseeded

        def test_an_unknown_task_is_raised(celery_app, celery_inline):
            celery_app.send_task("no.such.task")
            with pytest.raises(NotRegistered, match="no.such.task"):
                celery_inline.run()

        def test_nothing(celery_inline):
            assert repr(celery_inline.run()) == "<Summary nothing was due>"
    """)
    result.assert_outcomes(passed=3)


def test_the_oldest_due_message_is_next_and_priority_counts_within_a_queue(run: Run) -> None:
    result = run("""
        import pytest
        from kombu import Queue
        from shop.tasks import add

        def order(messages):
            return [each.args[0] for each in messages]

        @pytest.mark.celery(task_queues=[Queue("celery"), Queue("slow"), Queue("ranked")])
        def test_oldest_first_and_priority_within_a_queue(celery_inline):
            add.delay(1, 0)
            add.apply_async((2, 0), queue="slow")
            add.apply_async((3, 0), queue="ranked", priority=1)
            add.apply_async((4, 0), queue="ranked", priority=9)
            add.delay(5, 0)
            assert order(celery_inline.pending) == [1, 2, 4, 3, 5]
            summary = celery_inline.run()
            assert order(each.message for each in summary.executions) == [1, 2, 4, 3, 5]

        @pytest.mark.celery_queues("even", "odd")
        def test_queues_and_limit(celery_inline):
            for number in range(4):
                add.apply_async((number, 0), queue="even" if number % 2 == 0 else "odd")
            odd = celery_inline.run(queues=["odd"]).executions
            assert order(each.message for each in odd) == [1, 3]
            even = celery_inline.run(queues="even", limit=1).executions
            assert order(each.message for each in even) == [0]
            assert order(celery_inline.pending) == [2]
            assert celery_inline.run(limit=0).executions == ()
            assert celery_inline.step().message.args[0] == 2
            assert celery_inline.step() is None

        def test_revoked_while_it_waits(celery_inline):
            from datetime import timedelta
            result = add.apply_async((1, 2), countdown=60)
            assert celery_inline.run().scheduled == 1
            result.revoke()
            assert celery_inline.run(until=timedelta(minutes=2)).revoked == 1
    """)
    result.assert_outcomes(passed=3)


NOTE = """
@shared_task
def note(name):
    return name
"""


ORDER = """
from datetime import timedelta

import pytest
from django.utils import timezone
from shop.tasks import note

def order(messages):
    return [each.args[0] for each in messages]

def delivered(worker, **options):
    pending = order(worker.pending)
    names = order(each.message for each in worker.run(**options).executions)
    assert not pending or pending == names
    return names

@pytest.fixture(params=[True, False], ids=["received", "not received"])
def listen(request, celery_inline):
    celery_inline.advance(timedelta(0))
    return celery_inline.run if request.param else lambda: None

def later(worker, seconds):
    worker.advance(timedelta(seconds=seconds))
"""


def test_messages_are_delivered_by_eta_as_by_a_worker_that_listened_throughout(
    run: Run, project: Project
) -> None:
    project.tasks(NOTE)
    result = run(
        """
        def test_by_eta(celery_inline, listen):
            for seconds in (60, 30, 90, 30):
                note.apply_async((seconds,), countdown=seconds)
            listen()
            later(celery_inline, 70)
            assert order(celery_inline.scheduled) == [90]
            assert delivered(celery_inline) == [30, 30, 60]
            later(celery_inline, 70)
            assert delivered(celery_inline) == [90]

        @pytest.mark.celery_queues("celery", "other")
        def test_without_an_eta_as_it_comes(celery_inline, listen):
            for seconds in (60, 30):
                note.apply_async((seconds,), countdown=seconds)
            listen()
            later(celery_inline, 45)
            note.delay("at 45")
            later(celery_inline, 45)
            note.apply_async(("urgent",), priority=9, queue="other")
            assert delivered(celery_inline) == [30, "at 45", 60, "urgent"]

        def test_longer_ago_than_the_machine_runs(celery_inline, listen):
            for seconds in (60, 30):
                note.apply_async((seconds,), countdown=seconds)
            listen()
            celery_inline.advance(timedelta(days=40_000))
            assert delivered(celery_inline) == [30, 60]

        def test_an_eta_that_had_passed_is_no_reason_to_overtake(celery_inline):
            celery_inline.advance(timedelta(0))
            note.delay("first")
            note.apply_async(("late",), eta=timezone.now() - timedelta(hours=1))
            note.delay("last")
            assert delivered(celery_inline) == ["first", "late", "last"]
        """,
        preamble=ORDER,
    )
    result.assert_outcomes(passed=7)


def test_messages_due_together_keep_their_order_whatever_their_priority_and_queue(
    run: Run, project: Project
) -> None:
    project.tasks(NOTE)
    result = run(
        """
        def test_priority_holds_nothing_back_that_was_due_before(celery_inline, listen):
            note.apply_async(("due at 30",), countdown=30)
            listen()
            later(celery_inline, 60)
            note.apply_async(("urgent",), priority=9)
            assert delivered(celery_inline) == ["due at 30", "urgent"]

        def test_equal_etas_in_publish_order(celery_inline, listen):
            for name, priority in [("a", 0), ("b", 9), ("c", 3), ("d", 0)]:
                note.apply_async((name,), countdown=60, priority=priority)
            listen()
            assert order(celery_inline.scheduled) == ["a", "b", "c", "d"]
            later(celery_inline, 60)
            assert delivered(celery_inline) == ["a", "b", "c", "d"]

        @pytest.mark.celery_queues("celery", "other")
        def test_equal_etas_on_two_queues(celery_inline, listen):
            note.apply_async(("a",), countdown=60, queue="other")
            note.apply_async(("b",), countdown=60)
            assert celery_inline.run(queues=["celery"]).scheduled == 2
            listen()
            assert delivered(celery_inline, until=timedelta(minutes=2)) == ["a", "b"]
        """,
        preamble=ORDER,
    )
    result.assert_outcomes(passed=6)


def test_messages_refused_on_receipt_are_reported(run: Run, project: Project) -> None:
    project.tasks(NOTE)
    result = run(
        """
        def test_what_is_refused_on_receipt_is_reported(celery_inline):
            note.delay("first")
            expired = note.apply_async((0,), countdown=60, expires=-1)
            revoked = note.apply_async((0,), countdown=60)
            revoked.revoke()
            found = [celery_inline.step() for _ in range(3)]
            assert {each.id: each.state for each in found if each.state != "SUCCESS"} == {
                expired.id: "REVOKED", revoked.id: "REVOKED"
            }
            assert celery_inline.step() is None
            assert celery_inline.scheduled == []
        """,
        preamble=ORDER,
    )
    result.assert_outcomes(passed=1)


def test_a_broadcast_by_a_route_is_delivered_even_as_the_first_message(
    run: Run, project: Project
) -> None:
    project.settings("""
        from kombu import Queue
        from kombu.common import Broadcast

        CELERY_TASK_QUEUES = [Queue("celery"), Broadcast("everywhere")]
        CELERY_TASK_ROUTES = {"shop.tasks.add": {"queue": "everywhere", "exchange": "everywhere"}}
        """)
    result = run("""
        import pytest
        from shop.tasks import add

        def test_by_hand(celery_inline):
            result = add.delay(1, 2)
            assert celery_inline.run().succeeded == 1
            assert result.get() == 3

        @pytest.mark.celery_inline(auto=True)
        def test_by_itself(celery_inline):
            assert add.delay(1, 2).result == 3
        """)
    result.assert_outcomes(passed=2)


WORLD = """
import logging
from datetime import timedelta

import pytest
from celery import _state, current_app, signals
from celery.app import trace
from celery.app.task import Task
from celery.worker import state
from kombu import pools
from pytest_djcelery import inline, worker
from shop.tasks import add, fail

LOGGERS = "celery.worker.strategy", "celery.app.trace"

def world(app):
    return dict(
        call=Task.__call__,
        protected=getattr(Task, "_stackprotected", None),
        localized=list(trace._localized),
        fast=app.use_fast_trace_task,
        default=_state.default_app,
        current=_state._tls.current_app,
        revoked=list(state.revoked),
        requests=dict(state.requests),
        tracers={name: task.__trace__ for name, task in app.tasks.items()},
        receivers=[len(getattr(signals, name).receivers or ()) for name in signals.__all__],
        conf=dict(app.conf.maps[0]),
        queues=dict(app.amqp.queues),
        levels=[logging.getLogger(name).level for name in LOGGERS],
        groups=len(pools.connections),
    )
"""


def test_the_state_of_celery_is_put_back_when_it_ends(run: Run, project: Project) -> None:
    project.ini("djcelery_unhandled_failures = ignore")
    result = run(
        """
        @pytest.mark.parametrize("raises", [False, True])
        def test_it(celery_app, celery_outbox, raises):
            add.delay(0, 0)  # what is made once on a first publish
            before = world(celery_app)
            try:
                with inline() as it:
                    add.delay(1, 2).revoke()
                    add.apply_async((1, 2), countdown=60)
                    fail.delay()
                    it.run(until=timedelta(hours=1), raise_failures=raises)
            except ValueError:
                assert raises
            after = world(celery_app)
            changed = [key for key in before if before[key] != after[key]]
            assert changed == [], [(before[key], after[key]) for key in changed]
        """,
        preamble=WORLD,
    )
    result.assert_outcomes(passed=2)


def test_an_unacknowledged_message_is_there_for_the_next_worker(run: Run, project: Project) -> None:
    project.ini("djcelery_unhandled_failures = ignore")
    result = run(
        """
        def test_what_was_not_acknowledged_is_there_again(celery_app, celery_outbox):
            with inline() as it:
                later = add.apply_async((1, 2), countdown=60)
                it.run()
                assert it._runs.worker.broker.depths() == {}
            with inline() as it:
                assert [each.id for each in it.scheduled] == [later.id]
        """,
        preamble=WORLD,
    )
    result.assert_outcomes(passed=1)


def test_it_can_be_used_between_tests_that_share_an_embedded_worker(
    run: Run, project: Project
) -> None:
    project.ini("djcelery_unhandled_failures = ignore")
    result = run(
        """
        def test_beside_an_embedded_worker_that_is_held(celery_worker):
            assert add.delay(1, 2).get() == 3

        def test_inline_between(celery_inline):
            result = add.delay(1, 2)
            assert result.state == "PENDING"
            assert result.get() == 3

        def test_and_the_worker_again(celery_worker):
            assert add.delay(1, 2).get() == 3
        """,
        preamble=WORLD,
    )
    result.assert_outcomes(passed=3)


def test_settings_that_change_between_two_deliveries(run: Run, project: Project) -> None:
    project.tasks("""
        @shared_task
        def tell():
            from celery.worker import state
            [request] = state.requests.values()
            qos = request.message.channel.qos
            return len(qos._delivered) - len(qos._dirty)
    """)
    result = run("""
        import pytest
        from pytest_djcelery import InlineError
        from shop.tasks import add, tell

        def test_they_are_followed(celery_inline, settings):
            assert tell.delay().get() == 0
            settings.CELERY_TASK_ACKS_LATE = True
            assert tell.delay().get() == 1
            settings.CELERY_ACCEPT_CONTENT = ["pickle"]
            add.delay(1, 2)
            assert celery_inline.run().rejected == 1

        def test_another_broker(celery_inline, settings):
            settings.CELERY_BROKER_URL = "redis://127.0.0.1:1/0"
            with pytest.raises(InlineError, match="publishes to 'redis://127.0.0.1:1/0'"):
                celery_inline.run()
    """)
    result.assert_outcomes(passed=2)


def test_a_failure_in_automatic_mode_that_nobody_looked_at_fails_the_test(run: Run) -> None:
    result = run("""
        import pytest
        from shop.tasks import fail

        @pytest.mark.celery_inline(auto=True)
        def test_it():
            fail.delay("unseen")
    """)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*A task failed and the test never looked at it:*"])


def test_what_a_report_shows(run: Run) -> None:
    result = run("""
        from shop.tasks import add, fail

        def test_raised(celery_inline):
            fail.delay("boom")
            celery_inline.run()

        def test_never(celery_inline):
            add.apply_async((1, 2), countdown=60).get()
    """)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "*celery_inline.run()",
            ">*raise ValueError(text)",
            "E *ValueError: boom",
            "E *in the task shop.tasks.fail('boom') [[]*[]], attempt 1",
            "E *NeverReadyError: shop.tasks.add(1, 2) * will not be ready: it is scheduled for *",
        ]
    )
