"""What `celery.contrib.pytest` documents, overridden in a conftest, for the project's own app."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.conftest import Project


ALL_OVERRIDDEN = """
import pytest
from celery import Task


class Greet(Task):
    name = "greet"

    def run(self, whom):
        return f"Hello, {whom}"


@pytest.fixture(scope="session")
def celery_config():
    return {"task_default_queue": "configured", "task_track_started": True}


@pytest.fixture(scope="session")
def celery_parameters():
    return {"strict_typing": False}


@pytest.fixture(scope="session")
def celery_worker_parameters():
    return {"queues": ("configured", "mail"), "concurrency": 2}


@pytest.fixture(scope="session")
def celery_worker_pool():
    return "threads"


@pytest.fixture(scope="session")
def celery_includes():
    return ["shop.extra"]


@pytest.fixture(scope="session")
def celery_class_tasks():
    return [Greet]
"""


def test_fixtures_overridden_in_a_conftest_mean_what_celery_documents(project: Project) -> None:
    project.write(
        conftest=ALL_OVERRIDDEN,
        **{
            "shop/extra": """
                from celery import shared_task


                @shared_task
                def extra():
                    return 1
                """
        },
    )
    result = project.run("""
        from shop.tasks import add

        from proj.celery import app


        def test_config_applies_to_the_projects_app(celery_app, celery_outbox):
            add.delay(1, 2)
            assert celery_app is app
            assert celery_outbox.one(add.s(1, 2)).queue == "configured"
            assert add.track_started is True
            assert celery_app.strict_typing is False


        def test_the_worker_is_built_as_asked(celery_worker, celery_app):
            assert celery_worker.pool.num_processes == 2
            assert type(celery_worker.pool).__name__ == "ThreadPool"
            assert add.apply_async((1, 2), queue="mail").get() == 3
            assert celery_app.send_task("greet", ("ada",)).get() == "Hello, ada"
            assert celery_app.send_task("shop.extra.extra").get() == 1


        def test_so_is_the_next_ones(celery_worker, celery_app):
            assert celery_app.send_task("greet", ("bob",)).get() == "Hello, bob"


        def test_the_session_has_the_same_app(celery_session_app):
            assert celery_session_app is app
        """)
    result.assert_outcomes(passed=4)


def test_logging_is_set_up_where_it_is_enabled_and_left_alone_elsewhere(project: Project) -> None:
    test = """
        import logging

        from shop.tasks import add


        def test_it(celery_worker):
            add.delay(1, 2).get()
            print("root level:", logging.getLevelName(logging.getLogger().level))
        """
    project.run(test, "-s").stdout.fnmatch_lines(["*root level: WARNING*"])
    project.write(
        conftest="""
            import pytest


            @pytest.fixture(scope="session")
            def celery_enable_logging():
                return True


            @pytest.fixture(scope="session")
            def celery_worker_parameters():
                return {"loglevel": "INFO"}
            """
    )
    project.run(test, "-s").stdout.fnmatch_lines(["*root level: INFO*"])


def test_the_session_worker_is_one_thread_for_all_tests_and_clean_for_each(
    project: Project,
) -> None:
    result = project.run("""
        import pytest
        from shop.models import Order
        from shop.tasks import add, count_orders

        threads = set()


        @pytest.fixture(scope="session")
        def early(celery_session_worker):
            return add.delay(1, 1).get(timeout=5)


        def test_it_serves_session_fixtures(early):
            assert early == 2


        @pytest.mark.django_db
        @pytest.mark.parametrize("number", range(3))
        def test_it_serves_tests(celery_session_worker, celery_outbox, number):
            Order.objects.create()
            assert count_orders.delay().get() == 1
            assert celery_outbox == [count_orders.s()]
            threads.add(celery_session_worker.embedded._thread)


        def test_it_is_the_worker_of_a_test_that_asks_for_one(celery_session_worker, celery_worker):
            assert add.delay(1, 2).get() == 3
            celery_session_worker.wait_until_idle()
            assert celery_session_worker.embedded is celery_worker.embedded
            threads.add(celery_worker.embedded._thread)


        def test_it_leaves_others_alone(celery_outbox, celery_app):
            add.delay(1, 2)
            assert celery_outbox == [add.s(1, 2)]
            assert len(threads) == 1
        """)
    result.assert_outcomes(passed=6)


def test_the_session_worker_serves_fixtures_also_after_a_worker_of_one_test(
    project: Project,
) -> None:
    result = project.run("""
        import pytest
        from shop.tasks import add


        @pytest.fixture(scope="module")
        def early(celery_session_worker):
            return add.delay(5, 5).get(timeout=10)


        def test_with_a_worker(celery_worker):
            assert add.delay(1, 2).get() == 3


        def test_it_serves_fixtures(early):
            assert early == 10


        def test_and_the_tests_that_ask_for_it(early, celery_session_worker):
            assert add.delay(1, 2).get() == 3


        def test_and_no_others(early, celery_outbox):
            assert add.delay(1, 2).state == "PENDING"
        """)
    result.assert_outcomes(passed=4)


def test_the_session_worker_that_a_fixture_asks_for_gives_way_to_the_tests_own(
    project: Project,
) -> None:
    result = project.run("""
        import pytest
        from django.db import connection
        from shop.tasks import add


        @pytest.fixture(scope="module", autouse=True)
        def prepared(celery_session_worker):
            return add.delay(1, 1).get(timeout=5)


        def test_inline(prepared, celery_inline, db):
            assert prepared == 2
            add.delay(1, 2)
            assert celery_inline.run().succeeded == 1  # no worker has taken it
            assert connection.in_atomic_block  # no worker has to see the rows


        @pytest.mark.celery_inline(auto=True)
        def test_inline_by_marker():
            assert add.delay(1, 2).ready()


        def test_eager(celery_eager):
            assert add.delay(1, 2).ready()


        def test_no_other(celery_outbox):
            assert add.delay(1, 2).get() == 3


        def test_both_asked_for(celery_session_worker, celery_inline):
            pass
        """)
    result.assert_outcomes(passed=4, errors=1)
    result.stdout.fnmatch_lines(["E *: celery_worker was asked for while celery_inline is in use."])


CLASSES = """
import pytest
from django.test import SimpleTestCase, TestCase, TransactionTestCase
from shop.models import Order
from shop.tasks import add, count_orders, fail, ship

from pytest_djcelery import Success, eager, on_commit, outbox, results, worker
"""


def test_fixtures_can_be_used_on_unittest_classes(project: Project) -> None:
    result = project.run(
        """
        @pytest.mark.usefixtures("celery_eager")
        class EagerTests(TestCase):
            def test_runs_at_once(self):
                order = Order.objects.create()
                ship.delay(order.pk)
                order.refresh_from_db()
                assert order.name == "shipped"


        @pytest.mark.usefixtures("celery_worker")
        class WorkerTests(TransactionTestCase):
            def test_the_worker_sees_rows(self):
                Order.objects.create()
                assert count_orders.delay().get() == 1

            def test_and_is_settled_before_the_database_is_emptied(self):
                order = Order.objects.create()
                ship.delay(order.pk)
        """,
        preamble=CLASSES,
    )
    result.assert_outcomes(passed=3)


def test_context_managers_can_be_used_in_unittest_classes(project: Project) -> None:
    result = project.run(
        """
        class ContextTests(TestCase):
            def test_outbox_and_hooks(self):
                with outbox() as sent, on_commit() as hooks:
                    ship.delay_on_commit(1)
                assert sent.after_commit == [ship.s(1)]
                assert len(hooks.ran) == 1

            def test_eager_and_results(self):
                with eager(), results() as outcomes:
                    assert outcomes[add.delay(1, 2)] == Success(3)

            def test_a_failure_nobody_looked_at(self):
                with eager():
                    fail.delay("unseen")


        class WorkerContextTests(TransactionTestCase):
            def test_worker(self):
                with worker() as running, results() as outcomes:
                    result = add.delay(1, 2)
                    running.wait_until_idle()
                    assert outcomes[result] == Success(3)
        """,
        preamble=CLASSES,
    )
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["*A task failed and the test never looked at it:*", "*unseen*"])


def test_a_worker_on_a_class_wrapped_in_a_transaction_is_refused(project: Project) -> None:
    result = project.run(
        """
        @pytest.mark.usefixtures("celery_worker")
        class ImpossibleTests(TestCase):
            def test_rows_that_no_worker_can_see(self):
                pass
        """,
        preamble=CLASSES,
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            "*FixtureConflictError: celery_worker in a test that is wrapped in a transaction*",
            "*Use TransactionTestCase*",
        ],
        consecutive=False,
    )


# A module, for each scope that its fixtures may have.
OVERRIDDEN_IN_A_MODULE = """
import pytest
from django.test import TestCase, override_settings
from pytest_djcelery import outbox
from shop.tasks import add


@pytest.fixture(scope="{scope}")
def celery_config():
    return {{"task_default_queue": "{queue}", "task_acks_late": True}}


@pytest.fixture(scope="{scope}")
def celery_worker_parameters():
    return {{"queues": ["{queue}", "mail"]}}


def queue_used():
    with outbox() as sent:
        add.delay(1, 2)
    return sent[0].queue


def test_the_configuration(celery_app):
    assert queue_used() == "{queue}"
    assert add.acks_late is True


def test_the_worker(celery_worker):
    assert add.apply_async((1, 2), queue="mail").get() == 3


class TestHere:
    @pytest.fixture
    def celery_worker_pool(self):
        return "threads"

    def test_the_pool_of_a_class(self, celery_worker):
        assert add.apply_async((1, 2), queue="mail").get() == 3
        assert type(celery_worker.pool).__name__ == "ThreadPool"


@pytest.mark.usefixtures("celery_app")
@override_settings(CELERY_TASK_DEFAULT_QUEUE="of the class")
class SettingsTests(TestCase):
    def test_settings_of_a_class_go_before_it(self):
        assert queue_used() == "of the class"
        assert add.acks_late is True

    @pytest.mark.celery(task_default_queue="marked")
    def test_and_a_marker_before_both(self):
        assert queue_used() == "marked"
"""


def test_a_module_a_class_and_a_test_may_override_them_for_themselves(project: Project) -> None:

    project.write(
        **{
            f"test_{scope}": OVERRIDDEN_IN_A_MODULE.format(scope=scope, queue=f"of {scope}")
            for scope in ("function", "module", "session")
        }
    )
    result = project.run("""
        from shop.tasks import add


        def test_elsewhere_nothing_is_overridden(celery_worker, celery_outbox):
            add.delay(1, 2).get()
            assert celery_outbox[0].queue == "celery"
            assert add.acks_late is False
        """)
    result.assert_outcomes(passed=16)
