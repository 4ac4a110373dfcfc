"""Celery's consumer is kept for the next test, unless a new one would be another."""

from __future__ import annotations

from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project, Run

# What serves the tests of a run, one after another. The objects are held, so that none takes the
# place of another.
PREAMBLE = """
    import logging

    import pytest
    from shop.tasks import add

    consumers = []

    def serve(celery_inline):
        assert add.delay(1, 2).get() == 3
        consumers.append(celery_inline._runs.worker._consumer)
        return consumers[-1]

    def test_first(celery_inline):
        serve(celery_inline)
"""


def test_the_next_test_has_the_same_consumer(run: Run) -> None:
    result = run(
        """
        def test_next(celery_inline, celery_outbox):
            assert serve(celery_inline) is consumers[0]
            assert celery_outbox == [add.s(1, 2)]

        @pytest.mark.django_db
        def test_with_a_database(celery_inline):
            assert serve(celery_inline) is consumers[0]

        def test_nothing_ran_here(celery_inline, celery_results):
            assert celery_results.of(add) == []
            assert celery_inline.pending == celery_inline.scheduled == []

        def test_after(celery_inline):
            serve(celery_inline)
            assert len(set(map(id, consumers))) == 1
        """,
        "-p",
        "no:randomly",
        preamble=PREAMBLE,
    )

    result.assert_outcomes(passed=5)


@pytest.mark.parametrize(
    "between",
    [
        """
        @pytest.mark.celery(task_acks_late=True)
        def test_between(celery_inline):
            serve(celery_inline)
        """,
        """
        def test_between(celery_inline, celery_app):
            serve(celery_inline)
            celery_app.control.broadcast("rate_limit", {"task_name": add.name, "rate_limit": 1})
            celery_inline.run()
        """,
        """
        def test_between(celery_inline):
            serve(celery_inline).initial_prefetch_count = 7
        """,
        """
        def test_between(celery_inline):
            serve(celery_inline).new = 7
        """,
        """
        def test_between(celery_inline):
            serve(celery_inline).steps.append(print)
        """,
        """
        def test_between(celery_inline, celery_faults):
            celery_faults.lose_worker(add, host=True)
            add.delay(1, 2)
            celery_inline.run(raise_failures=False)
        """,
        """
        def test_between(celery_inline):
            serve(celery_inline).connection.close()
        """,
        """
        def test_between():
            pass  # everything is put back for it
        """,
        """
        @pytest.fixture(scope="class")
        def logged():
            logger = logging.getLogger("celery.worker.consumer.consumer")
            logger.setLevel(logging.INFO)
            yield
            logger.setLevel(logging.NOTSET)

        @pytest.mark.usefixtures("logged")
        class TestBetween:
            def test_between(self, celery_inline):
                assert serve(celery_inline)._does_info
        """,
        """
        @pytest.fixture(scope="class")
        def changed(celery_session_app):
            celery_session_app.conf.broker_heartbeat_checkrate = 7
            yield
            del celery_session_app.conf.changes["broker_heartbeat_checkrate"]

        @pytest.mark.usefixtures("changed")
        class TestBetween:
            def test_between(self, celery_inline):
                assert serve(celery_inline).amqheartbeat_rate == 7
        """,
    ],
    ids=[
        "a setting", "remote control", "an attribute", "a new attribute", "a step", "a lost host",
        "a closed connection", "a test without", "a log level", "a setting of a class",
    ],
)  # fmt: skip
def test_a_test_that_leaves_or_finds_it_otherwise_has_the_next_one_begin_anew(
    run: Run, between: str
) -> None:
    result = run(
        dedent(between)
        + dedent("""
        def test_last(celery_inline):
            last = serve(celery_inline)
            assert all(last is not earlier for earlier in consumers[:-1])
            assert last.amqheartbeat_rate == consumers[0].amqheartbeat_rate
            assert last.initial_prefetch_count == 2
            assert last.steps == []
        """),
        "-p",
        "no:randomly",
        preamble=PREAMBLE,
    )

    result.assert_outcomes(passed=3)


def test_a_projects_boot_steps_and_receivers_see_each_worker_start(
    run: Run, project: Project
) -> None:
    project.write(
        steps="""
        from celery import bootsteps
        from celery.signals import worker_init

        seen = []

        @worker_init.connect
        def heard(sender, **_):
            seen.append("receiver")

        class Step(bootsteps.StartStopStep):
            def start(self, worker):
                seen.append("step")
        """
    )

    result = run(
        """
        from steps import Step, seen

        def test_next(celery_inline, celery_app):
            celery_app.steps["worker"].add(Step)
            seen.clear()
            serve(celery_inline)
            assert seen == ["receiver", "step"]

        def test_next_but_one(celery_inline, celery_app):
            serve(celery_inline)
            assert seen == ["receiver", "step"] * 2
            celery_app.steps["worker"].discard(Step)
        """,
        "-p",
        "no:randomly",
        preamble=PREAMBLE,
    )

    result.assert_outcomes(passed=3)


def test_a_task_is_run_as_the_test_finds_it(run: Run) -> None:
    result = run(
        """
        from celery.app.task import Task
        from celery.worker.request import Request

        class OwnRequest(Request):
            pass

        def test_mocked(celery_inline, monkeypatch):
            monkeypatch.setattr(add, "run", lambda x, y: "mocked")
            assert add.delay(1, 2).get() == "mocked"

        def test_late(celery_inline, monkeypatch):
            monkeypatch.setattr(add, "acks_late", True)
            monkeypatch.setattr(add, "Request", "test_it:OwnRequest")
            handled = []
            monkeypatch.setattr(
                OwnRequest, "on_accepted", lambda self, *_: handled.append(self.task.acks_late)
            )
            assert add.delay(1, 2).get() == 3
            assert handled == [True]

        def test_after(celery_inline):
            assert serve(celery_inline) is consumers[0]
        """,
        "-p",
        "no:randomly",
        preamble=PREAMBLE,
    )

    result.assert_outcomes(passed=4)


def test_the_next_test_is_not_traced_as_in_a_worker(run: Run) -> None:
    result = run(
        """
        from celery.app import trace
        from celery.app.task import Task

        call = vars(Task)["__call__"]

        def traced_as_outside(app):
            assert vars(Task)["__call__"] is call
            assert not hasattr(Task, "_stackprotected")
            assert not app.use_fast_trace_task
            assert trace._localized == []

        def test_inline(celery_inline, celery_app):
            traced_as_outside(celery_app)
            assert serve(celery_inline) is consumers[0]
            assert vars(Task)["__call__"] is not call

        def test_eager(celery_eager):
            traced_as_outside(celery_eager)
            assert add.delay(1, 2).get() == 3

        def test_last(celery_inline):
            assert serve(celery_inline) is consumers[0]
        """,
        "-p",
        "no:randomly",
        preamble=PREAMBLE,
    )

    result.assert_outcomes(passed=4)
