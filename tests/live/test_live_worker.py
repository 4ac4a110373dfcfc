"""`celery_live_worker`: what a test sees of the worker's processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project, Run

TASKS = """
import os

from django.db import transaction


@shared_task
def tell_pids():
    return [os.getpid(), os.getppid()]


@shared_task
def order(name):
    with transaction.atomic():
        made = Order.objects.create(name=name)
        ship.delay_on_commit(made.pk)
    return made.pk


@shared_task
def give_back(value):
    return value
"""


LIVE = """
import os
import re
from datetime import timedelta

import pytest
from celery import chain, chord, group
from shop.models import Order
from shop.tasks import add, count_orders, fail, flaky, give_back, order, ship, tell_pids

from pytest_djcelery import Failure, StateChange, Success

@pytest.fixture(scope="module")
def pids():
    return set()
"""


def test_one_process_serves_tests_until_it_has_a_message_for_later(
    run: Run, project: Project
) -> None:
    project.tasks(TASKS)
    result = run(
        """
        def test_it_runs_elsewhere(celery_live_worker, celery_results, pids):
            child, parent = tell_pids.delay().get()
            assert parent == celery_live_worker.pid != os.getpid()
            assert child != parent
            pids.add(celery_live_worker.pid)

        def test_nothing_is_left_of_the_test_before(celery_live_worker, celery_outbox, pids):
            assert count_orders.delay().get() == 0
            assert celery_outbox == [count_orders.s()]
            assert pids == {celery_live_worker.pid}  # it is the same worker

        def test_an_eta_is_not_waited_for(celery_live_worker, celery_results):
            result = add.apply_async((1, 2), countdown=3600)
            celery_live_worker.wait_until_idle()
            assert result.state == "PENDING"

        def test_nor_left_to_the_next_test(celery_live_worker, pids):
            assert add.delay(1, 2).get() == 3
            assert celery_live_worker.pid not in pids
        """,
        preamble=LIVE,
    )
    result.assert_outcomes(passed=4)


def test_outcomes_rows_and_messages(run: Run, project: Project) -> None:
    project.tasks(TASKS)
    result = run(
        """
        def test_it_sees_rows_and_the_test_sees_its_rows(celery_live_worker, celery_results):
            made = Order.objects.create(name="new")
            assert celery_results[ship.delay(made.pk, express=True)] == Success("express")
            made.refresh_from_db()
            assert made.name == "express"

        def test_what_tasks_publish_is_in_the_outbox(celery_live_worker, celery_outbox):
            result = order.delay("it")
            celery_live_worker.wait_until_idle()
            assert Order.objects.get().name == "shipped"
            assert celery_outbox == [order.s("it"), ship.s(Order.objects.get().pk)]
            assert celery_outbox.after_commit == [ship.s(Order.objects.get().pk)]
            assert celery_outbox[1].location.function == "order"
            assert celery_outbox[1].parent_id == result.id

        def test_a_failure(celery_live_worker, celery_results):
            assert celery_results[fail.delay("bad")] == Failure(ValueError, match="bad")
            with pytest.raises(ValueError, match="worse"):
                fail.delay("worse").get()
        """,
        preamble=LIVE,
    )
    result.assert_outcomes(passed=3)


def test_canvas_the_log_remote_control_and_settings(run: Run, project: Project) -> None:
    project.tasks(TASKS)
    result = run(
        """
        def test_canvas_and_retries(celery_live_worker, celery_results):
            assert chain(add.s(1, 2), add.s(3))().get() == 6
            assert chord(group(give_back.s(each) for each in range(10)))(give_back.s()).get() == [
                *range(10)
            ]
            result = flaky.delay()
            assert celery_results[result] == Success("ok", retries=2)
            assert StateChange("RETRY") in [
                StateChange(each.state) for each in celery_results.history(result)
            ]

        def test_the_log(celery_live_worker):
            result = add.delay(1, 2)
            celery_live_worker.wait_until_idle()
            assert f"Task shop.tasks.add[{result.id}] succeeded" in celery_live_worker.log
            assert "give_back" not in celery_live_worker.log  # of a test before
            assert celery_live_worker.queues == ["celery"]

        def test_remote_control(celery_live_worker, celery_app):
            [answer] = celery_app.control.ping(timeout=1)
            assert list(answer.values()) == [{"ok": "pong"}]

        @pytest.mark.celery(task_time_limit=77)
        @pytest.mark.celery_live_worker(pool="threads", concurrency=3, queues=["celery", "mail"])
        def test_other_settings(celery_results, celery_live_worker, celery_app, pids):
            assert add.apply_async((1, 2), queue="mail").get() == 3
            [told] = celery_app.control.inspect(timeout=1).stats().values()
            assert told["pool"]["max-concurrency"] == 3
            assert celery_live_worker.queues == ["celery", "mail"]
        """,
        preamble=LIVE,
    )
    result.assert_outcomes(passed=4)


def test_the_context_manager_with_and_without_a_database(run: Run) -> None:
    result = run("""
        import pytest
        from pytest_djcelery import live_worker
        from shop.tasks import add

        def test_the_context_manager():
            with pytest.raises(RuntimeError, match="Database access not allowed"):
                with live_worker():
                    pass

        @pytest.mark.django_db(transaction=True)
        def test_the_context_manager_with_a_database():
            with live_worker(concurrency=1, loglevel="debug") as worker:
                assert add.delay(1, 2).get() == 3
                assert "DEBUG" in worker.log
    """)
    result.assert_outcomes(passed=2)


@pytest.mark.usefixtures("fresh_processes")
def test_the_command_of_the_tutorial(run: Run, project: Project) -> None:
    project.ini("djcelery_live_concurrency = 1", "djcelery_live_queues = celery, mail")
    result = run("""
        from pathlib import Path

        def test_it(celery_live_worker, pytestconfig):
            line = Path(f"/proc/{celery_live_worker.pid}/cmdline").read_text().split("\\0")
            line = line[line.index("-A") :]
            assert " ".join(line[:5]) == "-A proj worker -l INFO"
            assert " ".join(line[5:11]) == "-P prefork -c 1 -Q celery,mail"
    """)
    result.assert_outcomes(passed=1)


def test_a_temporary_folder_whose_path_is_too_long_for_a_socket(
    run: Run, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = project.path / ("long" * 25)
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    run("""
        from shop.tasks import add

        def test_it(celery_live_worker):
            assert add.delay(1, 2).get() == 3
    """).assert_outcomes(passed=1)
    assert list(folder.iterdir()) == []


def test_a_failing_test_shows_log_and_traceback(run: Run) -> None:
    result = run("""
        from shop.tasks import add, fail

        def test_unseen(celery_live_worker):
            fail.delay("unseen")

        def test_wrong(celery_live_worker):
            assert add.delay(1, 2).get() == 4
    """)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines([
        "A task failed and the test never looked at it:",
        "  shop.tasks.fail('unseen') [[]*[]]: ValueError: unseen",
        "Traceback (most recent call last):",
        '*File "*tasks.py", line *, in fail',
        "    raise ValueError(text)",
        "ValueError: unseen",
        "*celery: log of the live worker*",
        "*Task shop.tasks.fail[[]*[]] raised unexpected: ValueError('unseen')*",
        ">       assert add.delay(1, 2).get() == 4",
        "*celery: log of the live worker*",
        "*Task shop.tasks.add[[]*[]] succeeded in *: 3",
    ])  # fmt: skip


def test_a_message_sent_inside_a_transaction_of_a_task(run: Run, project: Project) -> None:
    project.tasks("""
        from django.db import transaction


        @shared_task
        def hasty():
            with transaction.atomic():
                ship.delay(Order.objects.create(name="new").pk)
    """)
    test = """
        import pytest
        from shop.tasks import hasty

        @pytest.mark.celery_unhandled_failures("ignore")
        def test_it(celery_live_worker):
            hasty.delay()
            celery_live_worker.wait_until_idle()

        @pytest.mark.celery_sent_in_transaction("error")
        def test_error(celery_live_worker):
            with pytest.raises(Exception, match="was sent inside an open transaction"):
                hasty.delay().get()
    """
    result = run(test, "-W", "always::pytest_djcelery.SentInTransactionWarning")
    result.assert_outcomes(passed=2, warnings=1)
    result.stdout.fnmatch_lines(["*SentInTransactionWarning: shop.tasks.ship(*"])


def test_a_race_that_the_task_itself_has_caught_fails_the_test(run: Run, project: Project) -> None:
    project.tasks("""
        from contextlib import suppress

        from django.db import transaction


        @shared_task
        def careless():
            with transaction.atomic():
                pk = Order.objects.create(name="new").pk
                with suppress(Exception):
                    ship.delay(pk)
            return "done"


        @shared_task
        def hasty():
            with transaction.atomic():
                ship.delay(Order.objects.create(name="new").pk)
    """)
    test = """
        import pytest
        from shop.tasks import careless, hasty

        pytestmark = pytest.mark.celery_sent_in_transaction("error")

        def test_caught(celery_live_worker):
            assert careless.delay().get() == "done"

        def test_of_the_next_task(celery_live_worker):
            with pytest.raises(Exception, match="was sent inside an open transaction"):
                hasty.delay().get()
    """
    result = run(test)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines([
        "SentInTransactionError was raised, but the code under test caught it, *",
        "  caught at: *careless*",
        "shop.tasks.ship(1) was sent inside an open transaction of the database 'default'*",
        "FAILED *::test_caught*",
    ])  # fmt: skip


def test_no_mail_leaves(run: Run, project: Project) -> None:
    project.settings("""
        SMTP = "django.core.mail.backends.smtp.EmailBackend"
        if django.VERSION >= (6, 1):
            MAILERS = {"default": {"BACKEND": SMTP, "OPTIONS": {"host": "192.0.2.1"}}}
        else:
            EMAIL_BACKEND, EMAIL_HOST, EMAIL_TIMEOUT = SMTP, "192.0.2.1", 1
    """)
    project.tasks("""
        from django.core import mail


        @shared_task
        def send():
            mail.send_mail("subject", "text", "a@example.org", ["b@example.org"])
            return len(mail.outbox)
    """)
    run("""
        from shop.tasks import send

        def test_it(celery_live_worker):
            assert send.delay().get() == 1
    """).assert_outcomes(passed=1)


def test_unittest_style(run: Run) -> None:
    result = run("""
        import pytest
        from django.test import TestCase, TransactionTestCase
        from shop.models import Order
        from shop.tasks import ship

        @pytest.mark.usefixtures("celery_live_worker")
        class Real(TransactionTestCase):
            def test_it(self):
                order = Order.objects.create(name="new")
                assert ship.delay(order.pk).get() == "shipped"

        @pytest.mark.usefixtures("celery_live_worker")
        class Wrapped(TestCase):
            def test_it(self):
                pass
    """)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*celery_live_worker in a test that is wrapped in a transaction*"])


@pytest.mark.long
def test_xdist(run: Run) -> None:
    result = run("""
        import pytest
        from shop.models import Order
        from shop.tasks import add, count_orders, ship

        @pytest.mark.parametrize("number", range(6))
        def test_it(celery_live_worker, celery_outbox, number):
            assert ship.delay(Order.objects.create().pk).get() == "shipped"
            assert count_orders.delay().get() == 1
            assert len(celery_outbox) == 2
    """, "-n", "2")  # fmt: skip
    result.assert_outcomes(passed=6)


def test_attempts_that_end_before_the_one_that_led_to_them(run: Run, project: Project) -> None:
    """In another process the next attempt may be over before this one has said what it did."""
    project.tasks("""
        import time

        from celery import signals
        from celery.utils.dispatch.signal import NONE_ID


        @signals.worker_process_init.connect
        def on_process_init(**kwargs):
            for signal in (signals.task_retry, signals.task_postrun):
                # Before what tells the test of it.
                signal.receivers.insert(0, ((None, NONE_ID), linger))


        def linger(state=None, **kwargs):
            if state in (None, "IGNORED"):
                time.sleep(0.5)


        @shared_task(bind=True, ignore_result=True, default_retry_delay=0)
        def second_time(self, error=None):
            if not self.request.retries:
                raise self.retry()
            if error:
                raise ValueError(error)


        @shared_task(bind=True, ignore_result=True)
        def replaced(self):
            raise self.replace(second_time.si().set(ignore_result=True))
    """)
    result = run("""
        from shop.tasks import replaced, second_time

        from pytest_djcelery import Failure, Success

        def test_retry(celery_live_worker, celery_results):
            assert celery_results[second_time.delay()] == Success(None, retries=1)

        def test_failure(celery_live_worker):
            second_time.delay("unseen")

        def test_replace(celery_live_worker, celery_results):
            assert celery_results[replaced.delay()] == Success(None, retries=1)

        def test_idle(celery_live_worker, celery_results, celery_outbox):
            replaced.delay()
            celery_live_worker.wait_until_idle()
            assert len(celery_outbox) == 3
    """)
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["*shop.tasks.second_time('unseen')*attempt 2: ValueError: unseen"])


def test_an_unregistered_task_is_reported_as_celery_reports_it(run: Run) -> None:
    result = run("""
        def test_it(celery_live_worker, celery_app):
            celery_app.send_task("no.such.task")
    """)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*no.such.task() [[]*[]]: NotRegistered: 'no.such.task'"])


def test_a_live_worker_asked_for_by_name_has_the_database_too(run: Run) -> None:
    result = run("""
        import pytest
        from shop.models import Order
        from shop.tasks import count_orders


        @pytest.mark.django_db  # pytest-django makes the databases that tests ask for in advance
        def test_the_database():
            assert not Order.objects.exists()


        @pytest.mark.parametrize("turn", [1, 2])
        def test_it(request, turn):
            request.getfixturevalue("celery_live_worker")
            Order.objects.create()
            assert count_orders.delay().get() == 1
        """)
    result.assert_outcomes(passed=3)


def test_a_late_report_on_a_task_does_not_reach_the_next_test(run: Run) -> None:
    run("""
        from pytest_djcelery import Failure
        from pytest_djcelery.messages.events import Ended
        from shop.tasks import add, fail

        ended = []

        def test_one(celery_live_worker, celery_results):
            assert celery_results[fail.delay()] == Failure(ValueError)
            celery_live_worker.wait_until_idle()
            ended.extend(celery_live_worker._sandbox.journal.events(Ended))

        def test_next(celery_live_worker, celery_results):
            [failure] = ended
            celery_live_worker.processes._record(failure)
            assert celery_results[add.delay(1, 2)].value == 3
    """).assert_outcomes(passed=2)
