"""What `celery_results` says of every state that a task can be in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project


TASKS = """
import threading

go = threading.Event()
there = threading.Event()


@shared_task(bind=True, track_started=True)
def slow(self):
    there.set()
    go.wait(10)
    self.update_state(state="PROGRESS", meta={"done": 1})
    there.set()
    go.clear()
    go.wait(10)
    return "done"


@shared_task(bind=True)
def patient(self):
    raise self.retry(exc=KeyError("later"), countdown=3600)


@shared_task(ignore_result=True)
def silent(ok=True):
    if not ok:
        raise ValueError("loud")
    return "unheard"


@shared_task
def total(numbers):
    return sum(numbers)


@shared_task(bind=True)
def leaves(self, how):
    from celery.exceptions import Ignore, Reject

    if how == "begin":
        self.update_state(state="BEGUN", meta={"at": 1})
    if how == "end":
        self.update_state(state="SUCCESS", meta="early")
    raise (Reject("no thanks", requeue=False) if how == "reject" else Ignore())
"""


IMPORTS = """
import celery
import pytest
from celery import chain, chord, group
from celery.exceptions import Reject
from celery.exceptions import TimeoutError as CeleryTimeoutError
from shop import tasks
from shop.tasks import add, fail, leaves, patient, silent, slow, total

from pytest_djcelery import (
    BadOptionError,
    Failure,
    NeverReadyError,
    Pending,
    Progress,
    Retrying,
    Revoked,
    Started,
    Success,
    UnknownResultError,
    WaitTimeoutError,
    worker,
)
"""


def test_every_state_has_its_outcome(project: Project) -> None:
    project.tasks(TASKS)
    result = project.run(
        """
        def test_a_running_task(celery_app, celery_results):
            result = slow.delay()
            assert celery_results.now(result) == Pending()
            with worker(pool="threads", concurrency=2):
                assert tasks.there.wait(10)
                assert celery_results.now(result) == Started()
                tasks.there.clear()
                tasks.go.set()
                assert tasks.there.wait(10)
                assert celery_results.now(result) == Progress({"done": 1})
                tasks.go.set()
                assert celery_results[result] == Success("done", retries=0)
            states = [change.state for change in celery_results.history(result)]
            assert states == ["STARTED", "PROGRESS", "SUCCESS"]


        def test_a_task_that_waits_for_its_next_attempt(celery_worker, celery_results):
            result = patient.delay()
            celery_worker.wait_until_idle()
            assert celery_results.now(result) == Retrying(KeyError)
            assert celery_results.now(result.id) == Retrying()


        def test_groups(celery_worker, celery_results):
            both = group(add.s(1, 1), add.s(2, 2)).delay()
            assert celery_results[both] == [Success(2), Success(4)]
            assert celery_results.now(both) == Success([2, 4])


        def test_expired(celery_worker, celery_results):
            assert celery_results[add.apply_async((1, 2), expires=-1)] == Revoked()
        """,
        "--djcelery-timeout=1",
        "-W",
        "ignore::celery.exceptions.AlwaysEagerIgnored",
        preamble=IMPORTS,
    )
    result.assert_outcomes(passed=4)


def test_tasks_that_store_nothing_end_a_wait_with_the_reason(project: Project) -> None:
    project.tasks(TASKS)
    result = project.run(
        """
        def not_stored(results, result):
            why = "ended as (IGNORED|REJECTED), which stores no result"
            with pytest.raises(NeverReadyError, match=why):
                results[result]
            with pytest.raises(NeverReadyError, match=why):
                result.get(timeout=60)
            return results.now(result)


        def test_tasks_that_store_nothing(celery_worker, celery_results):
            assert celery_results[silent.delay()] == Success("unheard")
            assert celery_results[silent.delay(ok=False)] == Failure(ValueError, match="loud")
            assert not_stored(celery_results, leaves.delay("ignore")) == Pending()
            rejected = leaves.delay("reject")
            if celery.VERSION < (5, 7):
                assert not_stored(celery_results, rejected) == Pending()
            else:
                assert celery_results[rejected] == Failure(Reject, match="no thanks")
            assert not_stored(celery_results, leaves.delay("begin")) == Progress({"at": 1}, "BEGUN")
            assert celery_results[leaves.delay("end")] == Success("early")
            assert celery_results.of(silent)[1] == Failure(ValueError)
        """,
        "--djcelery-timeout=1",
        "-W",
        "ignore::celery.exceptions.AlwaysEagerIgnored",
        preamble=IMPORTS,
    )
    result.assert_outcomes(passed=1)


def test_a_result_is_found_by_its_id_and_one_of_no_message_is_refused(project: Project) -> None:
    project.tasks(TASKS)
    result = project.run(
        """
        def test_ids_and_other_things(celery_outbox, celery_results):
            result = add.delay(1, 2)
            with pytest.raises(UnknownResultError, match="No message of this test has the id 'x'"):
                celery_results["x"]
            with pytest.raises(BadOptionError, match="expected what delay"):
                celery_results[3]
            with pytest.raises(WaitTimeoutError, match="No worker runs in this test") as caught:
                celery_results[result]
            assert isinstance(caught.value, TimeoutError)  # Python's, as well as Celery's
            assert isinstance(caught.value, CeleryTimeoutError)
            assert celery_results.history(result) == []


        @pytest.mark.parametrize("name", ["celery_worker", "celery_inline", "celery_app"])
        @pytest.mark.parametrize("look", ["__getitem__", "now", "history"])
        def test_a_result_of_no_message_is_refused_as_its_id_is(name, look, request):
            request.getfixturevalue(name)
            results = request.getfixturevalue("celery_results")
            told = []
            for unknown in ("x", add.AsyncResult("x")):
                with pytest.raises(UnknownResultError, match="has the id 'x'") as caught:
                    getattr(results, look)(unknown)
                told.append(str(caught.value))
            assert told[0] == told[1]


        @pytest.mark.parametrize("name", ["celery_worker", "celery_inline"])
        def test_the_id_of_a_message_to_come_is_known(name, request):
            request.getfixturevalue(name)
            results = request.getfixturevalue("celery_results")
            for named in (lambda it: it, lambda it: it.id, lambda it: add.AsyncResult(it.id)):
                sent = chain(add.s(1, 1), add.s(2)).delay()
                assert results[named(sent)] == Success(4)
                sent = chord([add.s(1, 1), add.s(1, 1)], total.s()).delay()
                assert results[named(sent)] == Success(4)


        def test_what_is_stored_elsewhere_is_found_by_its_id(celery_app, celery_results):
            celery_app.backend.store_result("elsewhere", 42, "SUCCESS")
            assert celery_results["elsewhere"] == Success(42)
            assert celery_results[celery_app.AsyncResult("elsewhere")] == Success(42)
            celery_app.AsyncResult("elsewhere").forget()
            with pytest.raises(UnknownResultError, match="none"):
                celery_results.now("elsewhere")
        """,
        "--djcelery-timeout=1",
        "-W",
        "ignore::celery.exceptions.AlwaysEagerIgnored",
        preamble=IMPORTS,
    )
    result.assert_outcomes(passed=13)


def test_eager_mode_has_nothing_to_wait_for(project: Project) -> None:
    project.tasks(TASKS)
    result = project.run(
        """
        def test_eager_mode_has_nothing_to_wait_for(celery_eager, celery_results):
            assert celery_results[fail.delay("seen")] == Failure(ValueError, match="seen")
            sent = celery_eager.send_task("shop.tasks.add", (1, 2))
            with pytest.raises(WaitTimeoutError, match="publishes even in eager mode"):
                celery_results[sent]
        """,
        "--djcelery-timeout=1",
        "-W",
        "ignore::celery.exceptions.AlwaysEagerIgnored",
        preamble=IMPORTS,
    )
    result.assert_outcomes(passed=1)


def test_sqlite_held_by_an_open_transaction_is_an_error_that_says_what_to_do(
    project: Project,
) -> None:
    result = project.run(
        """
        import pytest
        from django.db import transaction
        from shop.models import Order
        from shop.tasks import count_orders

        from pytest_djcelery import Failure

        pytestmark = [
            pytest.mark.django_db(transaction=True),
            pytest.mark.celery_sent_in_transaction("ignore"),
        ]


        def test_waiting_inside_the_transaction(celery_worker, celery_results):
            with transaction.atomic():
                Order.objects.create()
                result = count_orders.delay()
                assert celery_results[result] == Failure(Exception, match="wait after the block")
        """,
        "--djcelery-timeout=2",
    )
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("backend", "raises"), [(None, False), ("rpc://", False), ("redis://192.0.2.1/0", True)]
)
def test_a_task_called_as_a_function_updates_its_state_as_with_the_projects_backend(
    project: Project, backend: str | None, *, raises: bool
) -> None:
    project.settings(f"CELERY_RESULT_BACKEND = {backend!r}")
    project.tasks("""
        @shared_task(bind=True)
        def progress(self):
            self.update_state(state="PROGRESS")
            return "done"
        """)
    result = project.run(f"""
        import contextlib

        import pytest
        from shop.tasks import progress

        EXPECTED = pytest.raises(ValueError) if {raises} else contextlib.nullcontext()

        def test_without_a_fixture():
            with EXPECTED:
                assert progress() == "done"

        def test_with_one(celery_app):
            with EXPECTED:
                assert progress() == "done"

        def test_as_a_task(celery_inline, celery_results):
            sent = progress.delay()
            assert sent.get() == "done"
            assert "PROGRESS" in [each.state for each in celery_results.history(sent)]
    """)
    result.assert_outcomes(passed=3)


def test_outcomes_where_the_settings_of_the_project_are_eager(project: Project) -> None:
    project.settings("CELERY_TASK_ALWAYS_EAGER = True")
    result = project.run("""
        from pytest_djcelery import Failure, Success
        from shop.tasks import add, fail, flaky

        def test_they_are_there_and_nothing_warns(celery_results):
            assert celery_results[add.delay(1, 2)] == Success(3)
            assert celery_results[add.delay(1, 2).id] == Success(3)
            assert celery_results.now(add.delay(1, 2).id) == Success(3)
            assert celery_results[flaky.delay().id] == Success("ok", retries=2)
            assert celery_results[fail.delay().id] == Failure(ValueError, match="boom")
    """)
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("way", ["celery_inline", "celery_worker"])
def test_outcomes_of_a_project_that_has_no_result_backend(project: Project, way: str) -> None:
    project.settings("CELERY_RESULT_BACKEND = None")
    project.ini("djcelery_result_backend = project")
    result = project.run(f"""
        import pytest
        from pytest_djcelery import Failure, Pending, Success, UnknownResultError
        from shop.tasks import add, fail, flaky

        def test_they_are_what_happened({way}, celery_results):
            assert celery_results[add.delay(1, 2)] == Success(3, retries=0)
            assert celery_results[flaky.delay()] == Success("ok", retries=2)
            assert celery_results[fail.delay()] == Failure(ValueError, match="boom")
            assert celery_results.of(fail) == [Failure(ValueError)]
            assert celery_results.now(add.apply_async((1, 2), countdown=60)) == Pending()
            with pytest.raises(UnknownResultError):
                celery_results["unknown"]

        def test_celery_says_that_there_are_no_results_to_get({way}):
            with pytest.raises(NotImplementedError, match="No result backend is configured"):
                add.delay(1, 2).get()
    """)
    result.assert_outcomes(passed=2)
