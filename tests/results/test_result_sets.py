"""Results of several tasks at a time, and what is told while they are waited for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.services import require, url

if TYPE_CHECKING:
    from tests.support.project import Project, Run

WORKERS = ("celery_inline", "celery_worker")
#: What Celery calls of redis-py is deprecated there.
DEPRECATED = ("-W", "ignore:Call to deprecated:DeprecationWarning")


@pytest.fixture(params=["memory", "redis"])
def results(project: Project, request: pytest.FixtureRequest) -> str:
    """Where the results of a project are."""
    if request.param == "redis":
        require("redis")
        project.ini(f"djcelery_result_backend = {url('redis')}")
    return str(request.param)


@pytest.mark.parametrize("worker", WORKERS)
def test_a_set_of_results_is_read_as_a_group_is(run: Run, results: str, worker: str) -> None:
    result = run(
        """
        import pytest
        from celery.result import ResultSet
        from shop.tasks import add, fail

        from pytest_djcelery import Failure, Success

        READS = {
            "get": lambda r: r.get(),
            "join": lambda r: r.join(),
            "join_native": lambda r: r.join_native(),
            "get in seconds": lambda r: r.get(timeout=5),
        }

        @pytest.mark.parametrize("read", list(READS))
        def test_values(WORKER, read):
            results = ResultSet([add.delay(1, 1), add.delay(2, 2)])
            results.add(add.delay(3, 3))
            assert READS[read](results) == [2, 4, 6]

        def test_one_after_the_other(WORKER):
            results = ResultSet([add.delay(1, 1), add.delay(2, 2)])
            read = {task_id: meta["result"] for task_id, meta in results.iter_native()}
            assert read == {results[0].id: 2, results[1].id: 4}

        @pytest.mark.parametrize("read", list(READS))
        def test_a_failure(WORKER, read):
            results = ResultSet([add.delay(1, 1), fail.delay("of the set")])
            with pytest.raises(ValueError, match="of the set"):
                READS[read](results)

        def test_questions(WORKER):
            results = ResultSet([add.delay(1, 1), fail.delay()])
            results.get(propagate=False)
            assert results.failed()
            assert not results.successful()
            assert results.completed_count() == 1
            with pytest.raises(ValueError):
                results.maybe_throw()

        def test_outcomes(WORKER, celery_results):
            outcomes = celery_results[ResultSet([add.delay(1, 1), fail.delay("told")])]
            assert outcomes == [Success(2), Failure(ValueError, match="told")]
        """.replace("WORKER", worker),
        *DEPRECATED,
    )
    result.assert_outcomes(passed=11)


@pytest.mark.parametrize("worker", WORKERS)
def test_the_result_of_a_nested_group_arrives(run: Run, results: str, worker: str) -> None:
    result = run(
        """
        from celery import chain, group
        from shop.tasks import add

        def nested():
            inner = chain(add.si(2, 2), group(add.si(3, 3), add.si(4, 4)))
            return group(add.si(1, 1), inner)

        def test_waited_for(WORKER):
            assert nested().delay().get(timeout=10) == [2, [6, 8]]

        def test_waited_for_without_a_time(WORKER):
            assert nested().delay().get() == [2, [6, 8]]

        def test_one_after_the_other(WORKER):
            result = nested().delay()
            read = dict(result.iter_native())
            assert read[result[0].id]["result"] == 2
            assert [each.get() for each in read[result[1].id]] == [6, 8]
        """.replace("WORKER", worker),
        *DEPRECATED,
    )
    result.assert_outcomes(passed=3)


@pytest.mark.parametrize("worker", WORKERS)
def test_each_state_is_reported_while_a_result_is_waited_for(
    project: Project, run: Run, results: str, worker: str
) -> None:
    project.tasks("""
        @shared_task(bind=True)
        def slow(self):
            for at in range(3):
                self.update_state(state="PROGRESS", meta={"at": at})
            return "end"
        """)
    result = run(
        """
        from shop.tasks import add, slow

        def test_it(WORKER):
            told = []
            assert slow.apply_async().get(timeout=10, on_message=told.append) == "end"
            # What is stored before the wait begins is told by luck, of a worker of its own.
            states = [(meta["status"], meta["result"]) for meta in told]
            every = [("PROGRESS", {"at": at}) for at in range(3)] + [("SUCCESS", "end")]
            assert states == every[len(every) - len(states):]
            assert states or "WORKER" == "celery_worker"

        class Stopped(Exception):
            pass

        def test_what_raises_in_it_is_raised(WORKER):
            def stop(meta):
                raise Stopped(meta["status"])

            try:
                slow.apply_async().get(timeout=10, on_message=stop)
            except Stopped as error:
                assert error.args[0] in {"PROGRESS", "SUCCESS"}
        """.replace("WORKER", worker),
        *DEPRECATED,
    )
    result.assert_outcomes(passed=2)


def test_a_backend_that_reports_no_states_refuses_as_in_production(
    project: Project, run: Run
) -> None:
    project.ini("djcelery_result_backend = db+sqlite:///results.sqlite3")
    result = run("""
        import pytest
        from celery.exceptions import ImproperlyConfigured
        from shop.tasks import add

        def test_it(celery_worker):
            with pytest.raises(ImproperlyConfigured, match="on_message"):
                add.delay(1, 1).get(on_message=print)
    """)
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("worker", WORKERS)
def test_a_chord_whose_header_fails_raises_the_headers_error_each_time(
    project: Project, run: Run, worker: str
) -> None:
    """And never the body's `ChordError`, which is stored just after it."""
    project.tasks("""
        @shared_task
        def collect(values):
            return values
        """)
    result = run(
        """
        import pytest
        from celery import chord
        from shop.tasks import add, collect, fail

        @pytest.mark.parametrize("header", [[add.si(1, 1), fail.si("it")], [fail.si("it")]])
        def test_it(WORKER, header):
            for _ in range(40):
                with pytest.raises(ValueError, match="^it$"):
                    chord(header, collect.s()).delay().get(timeout=10)
        """.replace("WORKER", worker)
    )
    result.assert_outcomes(passed=2)


def test_what_is_revoked_before_it_is_sent_does_not_run(run: Run) -> None:
    """Queues are served in the order of publication, that of remote control included."""
    result = run("""
        import pytest
        from celery.exceptions import TaskRevokedError
        from shop.tasks import add

        def test_it(celery_worker, celery_app):
            assert celery_app.control.inspect(timeout=5, limit=1).ping()
            for _ in range(30):
                signature = add.si(1, 1)
                result = signature.freeze()
                result.revoke()
                signature.apply_async()
                with pytest.raises(TaskRevokedError):
                    result.get(timeout=5)
    """)
    result.assert_outcomes(passed=1)


def test_what_is_revoked_while_another_task_runs_does_not_run(run: Run) -> None:
    """Under prefork remote control is obeyed while the pool is busy, whatever waits for it."""
    result = run("""
        import pytest
        from celery.exceptions import TaskRevokedError
        from celery.signals import task_prerun
        from shop.tasks import add
        from threading import Event

        def test_it(celery_worker):
            running, go_on = Event(), Event()

            def hold(**_):
                running.set()
                assert go_on.wait(10)

            task_prerun.connect(hold)
            busy = add.delay(1, 1)
            assert running.wait(10)
            waits, revoked = add.delay(2, 2), add.delay(3, 3)
            revoked.revoke()
            go_on.set()
            assert [busy.get(timeout=5), waits.get(timeout=5)] == [2, 4]
            with pytest.raises(TaskRevokedError):
                revoked.get(timeout=5)
    """)
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize(
    "read", ["celery_results[each]", "celery_results.history(each)", "each.get()"]
)
def test_an_outcome_costs_the_same_after_many_messages(run: Run, read: str) -> None:
    result = run(
        f"""
        import sys

        from shop.tasks import add

        def cost(celery_results, results):
            results = list(results)
            calls = 0

            def count(frame, event, argument):
                nonlocal calls
                calls += event == "call"

            sys.setprofile(count)
            try:
                for each in results:
                    {read}
            finally:
                sys.setprofile(None)
            return calls / len(results)

        def test_it(celery_inline, celery_results):
            first = [add.delay(1, 1) for _ in range(20)]
            celery_inline.run()
            few = cost(celery_results, first)
            more = [add.delay(1, 1) for _ in range(200)]
            celery_inline.run()
            many = cost(celery_results, more)
            assert many < 1.5 * few
        """
    )
    result.assert_outcomes(passed=1)


def test_all_outcomes_of_a_task_cost_for_each_what_one_costs(run: Run) -> None:
    result = run("""
        import sys

        from shop.tasks import add

        def cost(celery_results):
            calls = 0

            def count(frame, event, argument):
                nonlocal calls
                calls += event == "call"

            sys.setprofile(count)
            try:
                outcomes = celery_results.of(add)
            finally:
                sys.setprofile(None)
            return calls / len(outcomes)

        def test_it(celery_inline, celery_results):
            for _ in range(20):
                add.delay(1, 1)
            celery_inline.run()
            few = cost(celery_results)
            for _ in range(200):
                add.delay(1, 1)
            celery_inline.run()
            assert cost(celery_results) < 1.5 * few
    """)
    result.assert_outcomes(passed=1)


def test_a_set_of_eager_results_is_read_like_any_other(run: Run) -> None:
    result = run(
        """
        import pytest
        from celery.result import EagerResult, ResultSet
        from shop.tasks import add, fail

        @pytest.mark.parametrize("read", ["get", "join", "join_native"])
        def test_values(celery_eager, read):
            results = ResultSet([add.delay(1, 1)])
            results.add(add.delay(2, 2))
            assert getattr(results, read)() == [2, 4]
            assert results.ready()
            assert sorted(meta["result"] for _, meta in results.iter_native()) == [2, 4]

        def test_a_failure(celery_eager):
            results = ResultSet([add.delay(1, 1), fail.delay("of the set")])
            with pytest.raises(ValueError, match="of the set"):
                results.join()
            assert results.failed()

        def test_celery_is_left_as_it_was():
            assert EagerResult.backend is None
        """
    )
    result.assert_outcomes(passed=5)
