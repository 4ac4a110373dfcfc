"""What `celery_inline` can't do is said at once, with what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project, Run


def test_values_that_make_no_sense(run: Run) -> None:
    result = run("""
        from datetime import datetime, timedelta, timezone

        import pytest
        from pytest_djcelery import BadOptionError
        from shop.tasks import add

        WRONG = [
            (dict(until=timedelta(seconds=-1)), "negative: the clock of a test only goes forward"),
            (dict(until=datetime(2001, 1, 1, tzinfo=timezone.utc)), "until=2001-.* has passed"),
            (dict(until=datetime(2999, 1, 1)), "has no time zone, and USE_TZ is on"),
            (dict(until=5), "expected a timedelta or a datetime"),
            (dict(queues=["celerie"]), "no queue 'celerie' is declared. There are: celery"),
            (dict(limit=-1), "limit=-1: expected how many messages"),
        ]

        @pytest.mark.parametrize(("arguments", "text"), WRONG)
        def test_run(celery_inline, arguments, text):
            add.delay(1, 2)
            with pytest.raises(BadOptionError, match=text):
                celery_inline.run(**arguments)
            assert len(celery_inline.pending) == 1

        def test_advance(celery_inline):
            with pytest.raises(BadOptionError, match="negative"):
                celery_inline.advance(timedelta(days=-1))
            with pytest.raises(BadOptionError, match=r"advance.5.: expected a timedelta"):
                celery_inline.advance(5)

        def test_redeliver(celery_inline):
            with pytest.raises(BadOptionError, match="takes a message of the outbox"):
                celery_inline.redeliver("add")
    """)
    result.assert_outcomes(passed=8)


def test_a_time_without_zone_is_local_where_the_project_has_no_zones(
    run: Run, project: Project
) -> None:
    project.settings("USE_TZ = False")
    result = run("""
        from datetime import datetime, timedelta
        from shop.tasks import add

        def test_it(celery_inline):
            end = datetime.now() + timedelta(hours=1)
            add.apply_async((1, 2), countdown=60)
            assert celery_inline.run(until=end).succeeded == 1
            assert datetime.now() == end
    """)
    result.assert_outcomes(passed=1)


def test_it_does_not_deliver_inside_a_delivery_or_a_coroutine(run: Run, project: Project) -> None:
    project.tasks("""
        run = None

        @shared_task
        def run_inside():
            run()
    """)
    result = run("""
        import asyncio
        import threading

        import pytest
        from pytest_djcelery import InlineError
        from shop import tasks
        from shop.tasks import add, run_inside

        def test_inside_a_task(celery_inline, monkeypatch):
            monkeypatch.setattr(tasks, "run", celery_inline.run)
            run_inside.delay()
            with pytest.raises(InlineError, match="inside a task"):
                celery_inline.run()
            add.delay(1, 2)
            assert celery_inline.run().succeeded == 1

        def test_in_a_coroutine(celery_inline):
            async def deliver():
                celery_inline.run()
            with pytest.raises(InlineError, match=r"await celery_inline.arun\\(\\)"):
                asyncio.run(deliver())

        def test_two_threads(celery_inline, monkeypatch):
            caught = []

            def elsewhere():
                try:
                    celery_inline.run()
                except InlineError as error:
                    caught.append(str(error))

            def in_another_thread():
                thread = threading.Thread(target=elsewhere)
                thread.start()
                thread.join()

            monkeypatch.setattr(tasks, "run", in_another_thread)
            run_inside.delay()
            celery_inline.run()
            assert "already delivers, in another thread" in caught[0]
    """)
    result.assert_outcomes(passed=3)


def test_it_delivers_neither_beside_another_worker_nor_over_another_broker(run: Run) -> None:
    result = run("""
        import pytest
        from pytest_djcelery import FixtureConflictError, InlineError, app, eager, inline, worker

        @pytest.mark.parametrize("other", [worker, eager])
        def test_another_way_to_run_tasks(celery_inline, other):
            with pytest.raises(FixtureConflictError, match="celery_inline is in use"), other():
                pass

        def test_another_broker():
            with app(broker_url="redis://127.0.0.1/0"), pytest.raises(
                InlineError, match="takes messages off the in-memory broker"
            ), inline():
                pass
    """)
    result.assert_outcomes(passed=3)


def test_a_run_that_never_ends(run: Run, project: Project) -> None:
    project.tasks("""
        @shared_task(bind=True)
        def again(self, seconds=0):
            again.apply_async((seconds,), countdown=seconds or None)

        @shared_task(bind=True, acks_late=True)
        def put_back(self):
            from celery.exceptions import Reject
            raise Reject("later", requeue=True)

        @shared_task(bind=True, max_retries=None)
        def once_more(self):
            raise self.retry(countdown=0)

        @shared_task
        def explode():
            explode.delay()
            explode.delay()
    """)
    result = run("""
        from datetime import timedelta

        import pytest
        from pytest_djcelery import NeverEndsError
        from pytest_djcelery.workers.inline import deliveries
        from shop.tasks import again, explode, once_more, put_back

        @pytest.fixture(autouse=True)
        def sooner(monkeypatch):
            monkeypatch.setattr(deliveries, "_ENDLESS", 50)

        @pytest.mark.parametrize("task", [again, put_back, once_more])
        def test_now(celery_inline, task):
            task.delay()
            with pytest.raises(NeverEndsError, match=r"run\\(limit=…\\)"):
                celery_inline.run()

        def test_later(celery_inline):
            again.delay(60)
            with pytest.raises(NeverEndsError, match="nearer moment"):
                celery_inline.run(until=timedelta(days=1))

        def test_more_and_more(celery_inline, celery_outbox):
            explode.delay()
            with pytest.raises(NeverEndsError, match="explode"):
                celery_inline.run()
            assert len(celery_outbox) < 2 * (2**11 + 51)

        def test_with_a_limit(celery_inline):
            again.delay()
            assert celery_inline.run(limit=100).succeeded == 100

        def test_get(celery_inline):
            result = put_back.delay()
            with pytest.raises(NeverEndsError):
                result.get()
    """)
    result.assert_outcomes(passed=7)


@pytest.mark.long
def test_a_run_that_ends_is_not_an_error_however_many_messages_it_delivers(
    run: Run, project: Project
) -> None:
    project.tasks("""
        @shared_task
        def send(count):
            for number in range(count):
                add.delay(number, 1)

        @shared_task
        def split(levels):
            if levels:
                split.delay(levels - 1)
                split.delay(levels - 1)
    """)
    result = run("""
        from datetime import timedelta

        from shop.tasks import add, flaky, send, split

        def test_one_task_publishes_them_all(celery_inline):
            send.delay(10_001)
            assert celery_inline.run().succeeded == 10_002

        def test_a_tree(celery_inline, monkeypatch):
            from pytest_djcelery.workers.inline import deliveries
            monkeypatch.setattr(deliveries, "_ENDLESS", 50)
            split.delay(10)
            for _ in range(20):
                flaky.delay()
            summary = celery_inline.run(until=timedelta(days=1))
            assert summary.succeeded == 2**11 - 1 + 20
    """)
    result.assert_outcomes(passed=2)


def test_results_that_never_come(run: Run, project: Project) -> None:
    project.tasks("""
        from celery.exceptions import Ignore

        @shared_task
        def ignored():
            raise Ignore

        @shared_task(ignore_result=True)
        def without_result():
            return 1
    """)
    result = run("""
        import pytest
        from celery.exceptions import TimeoutError
        from pytest_djcelery import NeverReadyError
        from shop.tasks import add, fail, ignored, without_result

        def never(result):
            with pytest.raises(TimeoutError) as caught:
                result.get(timeout=60)
            assert isinstance(caught.value, NeverReadyError)
            return str(caught.value)

        def test_scheduled(celery_inline):
            text = never(add.apply_async((1, 2), countdown=3600))
            assert "it is scheduled for" in text
            assert "celery_inline.run(until=timedelta(…))" in text

        def test_no_such_task(celery_app, celery_inline):
            assert "no message with this id was sent" in never(celery_app.AsyncResult("nothing"))

        def test_ignored(celery_inline):
            assert "it ended as IGNORED, which stores no result" in never(ignored.delay())

        def test_an_ignored_result_is_none_as_in_celery(celery_app, celery_inline):
            assert without_result.delay().get() is None
            result = celery_app.AsyncResult(celery_inline.pending[0].id)
            assert "it succeeded, and ignores its result" in never(result)

        def test_results_view(celery_inline, celery_results):
            result = add.apply_async((1, 2), countdown=3600)
            with pytest.raises(NeverReadyError, match="scheduled for"):
                celery_results[result]

        def test_a_chain_that_failed_raises_what_it_failed_with(celery_inline):
            with pytest.raises(ValueError, match="first"):
                (fail.s("first") | add.s(1)).delay().get()
    """)
    result.assert_outcomes(passed=6)
