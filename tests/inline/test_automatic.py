"""Automatic delivery: in place of eager mode."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.project import Project, Run

NOTED = """
    noted = []

    @shared_task
    def note(what):
        noted.append((what, in_transaction()))

    def in_transaction():
        from django.db import connection
        return connection.in_atomic_block
"""


NOTES = """
import pytest
from django.db import transaction
from django.test import TestCase
from shop.models import Order
from shop.tasks import add, count_orders, flaky, note, noted

pytestmark = pytest.mark.celery_inline(auto=True)

@pytest.fixture(autouse=True)
def nothing_noted():
    noted.clear()
"""


def test_each_publish_is_delivered_after_its_commit(run: Run, project: Project) -> None:
    project.tasks(NOTED)
    result = run(
        """
        @pytest.mark.django_db
        @pytest.mark.celery_sent_in_transaction("ignore")
        def test_rollback_test(celery_outbox):
            with transaction.atomic():
                Order.objects.create()
                note.delay("at once")
                note.delay_on_commit("on commit")
                result = count_orders.delay()
                assert noted == []
            assert [what for what, _ in noted] == ["at once", "on commit"]
            assert result.get() == 1
            note.delay("outside")
            assert noted[-1][0] == "outside"

        @pytest.mark.django_db(transaction=True)
        @pytest.mark.celery_sent_in_transaction("ignore")
        def test_real_transactions():
            with transaction.atomic():
                Order.objects.create()
                note.delay("at once")
                with transaction.atomic():
                    note.delay("inner")
                assert noted == []
            assert noted == [("at once", False), ("inner", False)]

        @pytest.mark.django_db
        @pytest.mark.celery_sent_in_transaction("ignore")
        def test_a_block_that_rolls_back_has_sent_its_messages_all_the_same():
            with pytest.raises(ZeroDivisionError), transaction.atomic():
                note.delay("sent")
                note.delay_on_commit("never sent")
                1 / 0
            assert [what for what, _ in noted] == ["sent"]

        @pytest.mark.celery_inline(auto=True)
        class TestCases(TestCase):
            def test_it(self):
                with transaction.atomic():
                    note.delay_on_commit("after")
                    assert noted == []
                assert [what for what, _ in noted] == ["after"]
        """,
        preamble=NOTES,
    )
    result.assert_outcomes(passed=4)


def test_automatic_delivery_retries_at_once_and_raises_only_what_is_to_propagate(
    run: Run, project: Project
) -> None:
    project.tasks(NOTED)
    result = run(
        """
        def test_retries_that_are_due():
            assert flaky.delay().state == "SUCCESS"

        def test_a_failure_is_not_raised_at_the_call():
            from shop.tasks import fail
            result = fail.delay("told")
            with pytest.raises(ValueError, match="told"):
                result.get()

        @pytest.mark.celery(task_eager_propagates=True)
        def test_it_is_where_the_suite_wants_it_raised():
            from shop.tasks import fail
            with pytest.raises(ValueError, match="raised"):
                fail.delay("raised")
        """,
        preamble=NOTES,
    )
    result.assert_outcomes(passed=3)


def test_by_one_ini_line_in_place_of_eager_mode(run: Run, project: Project) -> None:
    project.tasks(NOTED)
    project.settings("CELERY_TASK_ALWAYS_EAGER = True")
    project.ini("djcelery_mode = inline")
    result = run("""
        import unittest
        import pytest
        from django.test import TestCase
        from pytest_djcelery import worker
        from shop.tasks import add, note, noted

        def test_no_fixture():
            result = add.delay(1, 2)
            assert result.result == 3
            assert type(result).__name__ == "AsyncResult"

        def test_eager(celery_eager):
            assert type(add.delay(1, 2)).__name__ == "EagerResult"

        def test_worker(celery_worker):
            assert add.delay(1, 2).get() == 3

        def test_by_hand(celery_inline):
            result = add.delay(1, 2)
            assert result.state == "PENDING"
            celery_inline.run()
            assert result.state == "SUCCESS"

        def test_worker_in_a_block():
            with worker():
                assert add.delay(1, 2).get() == 3
            assert add.delay(1, 2).state == "SUCCESS"

        def test_the_worker_that_was_started_in_there_serves_the_next_test(celery_worker):
            assert add.delay(1, 2).get() == 3

        class TestDjango(TestCase):
            def test_it(self):
                assert add.delay(1, 2).result == 3

        class TestPlain(unittest.TestCase):
            def test_it(self):
                assert add.delay(1, 2).result == 3
    """)
    result.assert_outcomes(passed=8)


def test_wrong_arguments_and_options_of_automatic_delivery_are_refused(
    run: Run, project: Project
) -> None:
    result = run("""
        import pytest

        @pytest.mark.celery_inline(automatic=True)
        def test_unknown(): ...

        @pytest.mark.celery_inline("auto")
        def test_positional(): ...
    """)
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(
        ["E *BadOptionError: @pytest.mark.celery_inline(automatic=True): expected nothing, or*"]
    )
    project.ini("djcelery_mode = eager")
    result = run("def test_it(): ...")
    result.stderr.fnmatch_lines(["ERROR: djcelery_mode = 'eager': expected 'inline', or nothing."])


def test_automatic_delivery_gives_way_to_what_a_class_has_started(
    run: Run, project: Project
) -> None:
    project.ini("djcelery_mode = inline")
    result = run("""
        from contextlib import ExitStack

        import pytest
        from django.test import TestCase, TransactionTestCase
        from pytest_djcelery import eager, inline, worker
        from shop.tasks import add

        class Started:
            @classmethod
            def setUpClass(cls):
                super().setUpClass()
                blocks = ExitStack()  # `enterClassContext` came with Python 3.11
                cls.addClassCleanup(blocks.close)
                cls.worker = blocks.enter_context(cls.way())

        class TestByHand(Started, TestCase):
            way = staticmethod(inline)

            def test_one(self):
                assert add.delay(1, 2).state == "PENDING"
                assert self.worker.run().succeeded == 1

            def test_two(self):
                assert self.worker.pending == []
                assert add.delay(1, 2).get() == 3

        class TestWorker(Started, TransactionTestCase):
            way = staticmethod(worker)

            def test_it(self):
                assert add.delay(1, 2).get() == 3
                self.worker.wait_until_idle()

        class TestEager(Started, TestCase):
            way = staticmethod(eager)

            def test_it(self):
                assert type(add.delay(1, 2)).__name__ == "EagerResult"

        def test_after_them():
            assert add.delay(1, 2).state == "SUCCESS"

        def test_what_it_asks_for_late(request):
            worker = request.getfixturevalue("celery_inline")
            assert add.delay(1, 2).state == "PENDING"
            assert worker.run().succeeded == 1
    """)
    result.assert_outcomes(passed=6)


VIEWS_THAT_PUBLISH = """
from django.db import transaction
from django.http import HttpResponse
from django.urls import path
from shop.models import Order
from shop.tasks import add, ship


def order(request):
    with transaction.atomic():
        created = Order.objects.create()
        ship.delay_on_commit(created.pk)
    return HttpResponse("ordered")


def count(request):
    add.delay(1, 2)
    return HttpResponse("counted")


urlpatterns = [path("order/", order), path("count/", count)]
"""


def test_what_a_live_server_publishes_is_delivered_before_it_answers(
    run: Run, project: Project
) -> None:
    project.write(**{"proj/urls": VIEWS_THAT_PUBLISH})
    project.settings('STATIC_URL = "static/"')
    project.ini("djcelery_mode = inline")
    result = run("""
        from concurrent.futures import ThreadPoolExecutor
        from urllib.request import urlopen

        import pytest
        from django.core.signals import request_finished, request_started
        from django.test import LiveServerTestCase
        from pytest_djcelery import Success
        from shop.models import Order
        from shop.tasks import add


        def listening():
            return len(request_started.receivers), len(request_finished.receivers)


        listeners = []


        @pytest.mark.celery_inline(auto=False)
        def test_before(celery_app):
            listeners.extend(listening())


        def test_one_request_after_the_other(live_server, celery_results):
            for _ in range(3):
                urlopen(f"{live_server}/order/").close()
            assert [each.name for each in Order.objects.all()] == ["shipped"] * 3


        def test_many_at_a_time(live_server, celery_outbox, celery_results):
            with ThreadPoolExecutor(4) as clients:
                for answer in clients.map(urlopen, [f"{live_server}/count/"] * 20):
                    answer.close()
            assert [celery_results.now(sent.id) for sent in celery_outbox] == [Success(3)] * 20


        class ServerTests(LiveServerTestCase):
            def test_of_django(self):
                urlopen(f"{self.live_server_url}/order/").close()
                assert Order.objects.get().name == "shipped"


        def test_by_hand(live_server, celery_inline):
            urlopen(f"{live_server}/order/").close()
            assert Order.objects.get().name == ""
            assert celery_inline.run().succeeded == 1


        @pytest.mark.celery_inline(auto=False)
        def test_nothing_is_left_of_it(celery_app):
            assert [*listening()] == listeners
        """)
    result.assert_outcomes(passed=6)


# -- what docs/how-to/from-eager-mode.md says ---------


def test_what_the_page_says_will_differ(run: Run, project: Project) -> None:
    project.ini("djcelery_mode = inline")
    project.settings("CELERY_TASK_ALWAYS_EAGER = True\n")
    project.tasks("""
        import logging

        @shared_task
        def say():
            logging.getLogger("shop.tasks").info("hello")
        """)
    result = run("""
        import logging

        import pytest
        from django.conf import settings
        from django.db import transaction
        from pytest_djcelery import NeverReadyError
        from proj.celery import app
        from shop.tasks import add, say

        def test_the_setting():
            assert settings.CELERY_TASK_ALWAYS_EAGER is app.conf.task_always_eager is False

        def test_the_setting_by_the_test(settings):
            settings.CELERY_TASK_ALWAYS_EAGER = True
            assert type(add.delay(1, 2)).__name__ == "EagerResult"

        def test_a_countdown_is_not_waited_for():
            result = add.apply_async((1, 2), countdown=60)
            assert result.state == "PENDING"
            with pytest.raises(NeverReadyError, match="scheduled for"):
                result.get()

        def test_the_log(caplog):
            caplog.set_level(logging.INFO)
            say.delay()
            assert [each.name for each in caplog.records] == [
                "celery.worker.strategy", "shop.tasks", "celery.app.trace"
            ]

        @pytest.mark.django_db
        def test_held_hooks(celery_on_commit):
            ready = []
            with celery_on_commit.hold():
                with transaction.atomic():
                    transaction.on_commit(lambda: ready.append(add.delay(1, 2)))
                assert ready == []
            assert ready[0].ready()
        """)
    result.assert_outcomes(passed=5)


def test_the_first_run_of_a_suite_whose_warnings_are_errors(project: Project) -> None:
    page = (Path(__file__).parents[2] / "docs/how-to/from-eager-mode.md").read_text()
    [command] = re.findall(r"^pytest (-o djcelery_mode=inline -o .*)$", page, re.MULTILINE)
    project.ini("filterwarnings = error")
    test = """
        import warnings

        import pytest
        from django.db import transaction
        from shop.models import Order
        from shop.tasks import add, fail

        @pytest.mark.django_db
        def test_sent_in_transaction():
            with transaction.atomic():
                Order.objects.create()
                add.delay(1, 2)

        def test_unseen():
            fail.delay()

        def test_another_warning():
            warnings.warn("of the suite")
        """
    project.run(test, "-o", "djcelery_mode=inline").assert_outcomes(failed=3)
    first = project.run(test, *command.split())
    first.assert_outcomes(passed=2, failed=1, warnings=2)
    first.stdout.fnmatch_lines_random(
        ["*test_it.py:13: SentInTransactionWarning: *", "*UnhandledTaskFailureWarning: *"]
    )
