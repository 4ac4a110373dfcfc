"""What goes wrong between tasks and the test's database."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import django
import pytest

from tests.support.services import require

if TYPE_CHECKING:
    from tests.support.project import Project, Run

IN_MEMORY, FILE, POSTGRESQL, POOL = "sqlite-memory", "sqlite-file", "postgresql", "postgresql-pool"
DATABASES = (IN_MEMORY, FILE, POSTGRESQL, POOL)


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest, project: Project) -> str:
    """Let the project use each kind of database in turn."""
    kind: str = request.param
    if kind in (POSTGRESQL, POOL):
        if kind == POOL and django.VERSION < (5, 1):
            pytest.skip("Django has a connection pool since 5.1")
        project.settings(f"DATABASES = {{'default': {postgresql(pool=kind == POOL)!r}}}\n")
    elif kind == FILE:
        project.settings("DATABASES['default']['TEST'] = {'NAME': 'test.sqlite3'}\n")
    return kind


def postgresql(*, pool: bool) -> dict[str, Any]:
    """Django's settings of a database that no other run uses."""
    host, port = require("postgresql")
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": f"{os.environ.get('DATABASE_NAME', 'djcelery')}_{os.getpid()}",
        "USER": os.environ.get("DATABASE_USER", "postgres"),
        "PASSWORD": os.environ.get("DATABASE_PASSWORD", ""),
        "HOST": host,
        "PORT": port,
        "OPTIONS": {"pool": True} if pool else {},
    }


def test_pitfall_01_hooks_run_when_the_codes_own_outermost_block_ends(run: Run) -> None:
    result = run("""
        import pytest
        from django.db import transaction
        from shop.tasks import add

        pytestmark = pytest.mark.django_db

        def test_trouble_a_rollback_test_by_itself_never_commits():
            ran = []
            with transaction.atomic():
                transaction.on_commit(lambda: ran.append("hook"))
            assert ran == []

        def test_at_once_where_no_block_is_open(celery_on_commit):
            add.delay_on_commit(1, 2)
            [hook] = celery_on_commit.ran
            assert hook.sent[0].task == "shop.tasks.add"

        def test_after_the_outermost_block_and_not_after_a_savepoint(celery_on_commit):
            ran = []
            with transaction.atomic():
                with transaction.atomic():
                    transaction.on_commit(lambda: ran.append("hook"))
                assert ran == []
                assert len(celery_on_commit.pending) == 1
            assert ran == ["hook"]
            assert celery_on_commit.pending == []

        def test_never_where_a_savepoint_is_rolled_back(celery_on_commit):
            ran = []
            with transaction.atomic():
                with pytest.raises(ZeroDivisionError), transaction.atomic():
                    transaction.on_commit(lambda: ran.append("inner"))
                    1 / 0
                transaction.on_commit(lambda: ran.append("outer"))
            assert ran == ["outer"]
            assert len(celery_on_commit.discarded) == 1

        def test_delay_on_commit_runs_its_task(celery_eager, celery_on_commit):
            with transaction.atomic():
                add.delay_on_commit(1, 2)
                assert celery_on_commit.ran == []
            [hook] = celery_on_commit.ran
            assert celery_eager.AsyncResult(hook.sent[0].id).get() == 3
    """)

    result.assert_outcomes(passed=5)


def test_pitfall_02_a_starting_worker_leaves_the_tests_own_connection_open(
    run: Run, database: str
) -> None:
    result = run("""
        import pytest
        from django.db import connection
        from shop.models import Order
        from shop.tasks import add, count_orders

        @pytest.fixture
        def opened(transactional_db):
            Order.objects.create()
            return connection.connection

        @pytest.mark.parametrize("number", [1, 2])
        def test_connection(opened, celery_worker, number):
            assert connection.connection is opened
            assert Order.objects.count() == 1
            assert count_orders.delay().get() == 1
            assert connection.connection is opened
            assert Order.objects.count() == 1
    """)

    result.assert_outcomes(passed=2)


def test_pitfall_03_a_task_sees_the_rows_of_the_test(run: Run, database: str) -> None:
    result = run("""
        import pytest
        from shop.models import Order
        from shop.tasks import count_orders, ship

        @pytest.mark.django_db
        def test_marked(celery_worker):
            Order.objects.create()
            assert count_orders.delay().get() == 1

        def test_with_the_plain_fixture(db, celery_worker):
            order = Order.objects.create()
            assert ship.delay(order.pk).get() == "shipped"
            order.refresh_from_db()
            assert order.name == "shipped"

        def test_the_next_one_starts_empty(db, celery_worker):
            assert count_orders.delay().get() == 0
    """)

    result.assert_outcomes(passed=3)


def test_pitfall_03_a_worker_that_could_not_see_the_rows_is_refused(run: Run) -> None:
    result = run("""
        from django.test import TestCase
        from pytest_djcelery import worker
        from shop.models import Order

        class TestOrders(TestCase):
            def test_rolled_back(self):
                Order.objects.create()
                with worker():
                    pass
    """)

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            (
                "*FixtureConflictError: celery_worker in a test that is wrapped in a transaction "
                "(TestCase, *; database 'default'): its rows are never committed, so the worker's "
                "own connection can't see them."
            ),
            "*Use TransactionTestCase, or ask for celery_worker itself in a pytest test*",
        ]
    )


def test_pitfall_04_sqlite_in_memory_is_never_locked_under_load(run: Run, project: Project) -> None:
    project.tasks("""
        from django.db import transaction

        @shared_task
        def read_and_write(number):
            seen = Order.objects.count()
            with transaction.atomic():
                order = Order.objects.create(name=str(number))
                order.name = f"{Order.objects.count()} orders"
                order.save()
            return Order.objects.count() > seen
    """)
    result = run("""
        import pytest
        from celery import group
        from shop.models import Order
        from shop.tasks import read_and_write

        @pytest.fixture(scope="session")
        def celery_worker_pool():
            return "threads"

        @pytest.fixture(scope="session")
        def celery_worker_parameters():
            return {"concurrency": 4}

        @pytest.mark.django_db
        def test_load(celery_worker):
            results = [read_and_write.delay(number) for number in range(40)]
            for number in range(20):  # while they run
                Order.objects.create(name="of the test")
                assert Order.objects.filter(name="of the test").count() == number + 1
            assert all(result.get() for result in results)
            assert Order.objects.count() == 60
    """)

    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*is locked*")


HOLDS_A_TRANSACTION = """
import threading

from django.db import transaction

written, may_end = threading.Event(), threading.Event()

@shared_task
def hold_a_transaction():
    with transaction.atomic():
        Order.objects.create(name="first")
        written.set()
        assert may_end.wait(10)
        Order.objects.create(name="second")
"""


def test_pitfall_04_the_test_waits_its_turn_where_sqlite_would_be_locked(
    run: Run, project: Project
) -> None:
    project.tasks(HOLDS_A_TRANSACTION)
    result = run("""
        import threading

        import pytest
        from django.db import OperationalError, connection
        from django.db.backends.base.base import BaseDatabaseWrapper
        from shop.models import Order
        from shop.tasks import hold_a_transaction, may_end, written

        @pytest.fixture(autouse=True)
        def unset():
            written.clear()
            may_end.clear()

        def asked(execute, *args):
            may_end.set()
            return execute(*args)

        @pytest.mark.django_db(transaction=True)
        def test_trouble_another_thread_locks_the_table():
            def hold():
                hold_a_transaction()
                BaseDatabaseWrapper.close(connection)  # SQLite's own keeps what is in memory

            thread = threading.Thread(target=hold)
            thread.start()
            assert written.wait(10)
            try:
                with pytest.raises(OperationalError, match="table is locked"):
                    Order.objects.count()
            finally:
                may_end.set()
                thread.join(10)

        @pytest.mark.django_db
        def test_turn(celery_worker):
            result = hold_a_transaction.delay()
            assert written.wait(10)
            connection.execute_wrappers.insert(0, asked)  # called before that which waits
            try:
                assert Order.objects.count() == 2
            finally:
                connection.execute_wrappers.remove(asked)
            result.get()
    """)

    result.assert_outcomes(passed=2)


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_pitfall_38_no_connection_of_a_worker_keeps_the_database_from_being_destroyed(
    run: Run, database: str, pool: str
) -> None:
    result = run(
        f"""
        import pytest
        from shop.models import Order
        from shop.tasks import count_orders, ship

        @pytest.fixture(scope="session")
        def celery_worker_pool():
            return {pool!r}

        @pytest.fixture(scope="session")
        def celery_worker_parameters():
            return {{"concurrency": 1 if {pool!r} == "solo" else 3}}

        @pytest.mark.django_db
        @pytest.mark.parametrize("number", range(12))
        def test_many(celery_worker, number):
            orders = [Order.objects.create() for _ in range(3)]
            results = [ship.delay(order.pk) for order in orders]
            if number % 2:  # else the end of the test waits for them
                assert [result.get() for result in results] == ["shipped"] * 3

        @pytest.mark.django_db
        def test_last(celery_worker):
            assert count_orders.delay().get() == 0
    """,
        "--create-db",
    )

    result.assert_outcomes(passed=13)
    assert result.ret == 0
    result.stdout.no_fnmatch_line("*being accessed by other users*")
    result.stdout.no_fnmatch_line("*Error when trying to teardown test databases*")


def test_pitfall_39_what_runs_late_ends_before_the_database_is_destroyed(
    run: Run, project: Project
) -> None:
    project.tasks("""
        done = []

        @shared_task
        def note():
            done.append(Order.objects.count())
    """)
    result = run("""
        import pytest
        from shop.models import Order
        from shop.tasks import done, note

        @pytest.fixture
        def late(celery_worker):
            yield
            note.delay()

        @pytest.mark.django_db
        def test_first(late):
            Order.objects.create()

        def test_second():
            assert done == [1]
    """)

    result.assert_outcomes(passed=2)
    result.stdout.no_fnmatch_line("*Database access not allowed*")


def test_pitfall_39_a_task_that_needs_a_database_the_test_has_not_is_named_with_its_test(
    run: Run,
) -> None:
    result = run("""
        from shop.tasks import add, count_orders

        def test_without_a_database(celery_worker):
            assert add.delay(1, 2).get() == 3
            count_orders.delay()

        def test_after_it(celery_worker):
            assert add.delay(1, 2).get() == 3
    """)

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*_ test_without_a_database _*",
            "A task failed and the test never looked at it:",
            "*shop.tasks.count_orders() [[]*]: RuntimeError: Database access not allowed*",
            "*FAILED test_it.py::test_without_a_database*",
        ]
    )


def test_pitfall_41_results_in_django_celery_results_arrive(
    run: Run, project: Project, database: str
) -> None:
    pytest.importorskip("django_celery_results")
    project.settings("""
        INSTALLED_APPS += ["django_celery_results"]
        CELERY_RESULT_BACKEND = "django-db"
    """)
    result = run("""
        import pytest
        from django_celery_results.models import TaskResult
        from shop.models import Order
        from shop.tasks import add, fail, ship

        pytestmark = pytest.mark.django_db

        def test_results(celery_worker):
            first, second = add.delay(1, 2), ship.delay(Order.objects.create().pk)
            assert (first.get(), second.get()) == (3, "shipped")
            assert TaskResult.objects.get(task_id=first.id).status == "SUCCESS"

        def test_failure(celery_worker):
            result = fail.delay("no stock")
            with pytest.raises(ValueError, match="no stock"):
                result.get()
            assert TaskResult.objects.get().status == "FAILURE"

        def test_the_next_one_starts_empty(celery_worker):
            assert TaskResult.objects.count() == 0
    """)

    result.assert_outcomes(passed=3)
