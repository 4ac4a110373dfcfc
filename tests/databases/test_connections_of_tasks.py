"""What tasks do with connections: close them, use them in other threads, switch autocommit off."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import databases

if TYPE_CHECKING:
    from tests.support.project import Project, Run


@pytest.fixture(params=databases.DATABASES, autouse=True)
def database(request: pytest.FixtureRequest, project: Project) -> str:
    databases.use(project, request.param)
    project.tasks("""
        import asyncio
        from concurrent.futures import ThreadPoolExecutor

        from asgiref.sync import async_to_sync
        from celery.signals import task_prerun
        from django.db import close_old_connections, connection, connections, transaction

        CLOSES = {
            "old": close_old_connections,
            "one": lambda: connection.close(),
            "all": connections.close_all,
            "unusable": lambda: connection.is_usable() or connection.close(),
        }


        @shared_task
        def close_and_count(how):
            Order.objects.create()
            CLOSES[how]()
            return Order.objects.count()


        @shared_task
        def close_in_a_block():
            try:
                with transaction.atomic():
                    Order.objects.create(name="in the block")
                    connection.close()
                    Order.objects.create(name="after it")
            except Exception:
                pass
            return Order.objects.count()


        @shared_task
        def by_asyncio_run():
            return asyncio.run(count_orders_async())


        async def count_orders_async():
            return await Order.objects.acount()


        @shared_task
        def by_async_to_sync():
            return async_to_sync(count_orders_async)()


        @shared_task
        def by_threads():
            def count(_):
                return Order.objects.count()  # and leaves its connection open
            with ThreadPoolExecutor(2) as pool:
                return max(pool.map(count, range(2)))


        @shared_task
        def leave_open(name):
            transaction.set_autocommit(False)
            Order.objects.create(name=name)
        """)
    name: str = request.param
    return name


@pytest.mark.parametrize("fixture", ["celery_inline", "celery_eager"])
def test_the_connection_of_a_rollback_test_stays_open(run: Run, fixture: str) -> None:
    run(f"""
        import pytest
        from celery.signals import task_prerun
        from shop.models import Order
        from shop.tasks import CLOSES, close_and_count, close_in_a_block

        pytestmark = pytest.mark.django_db

        @pytest.mark.parametrize("how", CLOSES)
        def test_in_the_task({fixture}, how):
            Order.objects.create()
            assert close_and_count.delay(how).get() == 2
            assert Order.objects.count() == 2

        @pytest.mark.parametrize("how", CLOSES)
        def test_in_a_receiver({fixture}, how):
            def close(**_):
                CLOSES[how]()
            task_prerun.connect(close)
            try:
                Order.objects.create()
                assert close_and_count.delay(how).get() == 2
            finally:
                task_prerun.disconnect(close)

        def test_rows_are_rolled_back({fixture}):
            assert not Order.objects.exists()
    """).assert_outcomes(passed=9)


def test_a_block_is_lost_whose_connection_is_closed(run: Run, database: str) -> None:
    if database == databases.IN_MEMORY:
        pytest.skip("Django's close() leaves SQLite in memory open")
    run("""
        import pytest
        from shop.models import Order
        from shop.tasks import close_in_a_block

        @pytest.mark.parametrize(
            "_", [pytest.param(each, marks=pytest.mark.django_db(transaction=each))
                  for each in (False, True)]
        )
        def test_it(celery_inline, _):
            Order.objects.create()
            assert close_in_a_block.delay().get() == 1
    """).assert_outcomes(passed=2)


def test_other_threads(run: Run) -> None:
    result = run(
        """
        import pytest
        from pytest_djcelery import FixtureConflictError
        from shop.models import Order
        from shop.tasks import by_async_to_sync, by_asyncio_run, by_threads

        OTHERS = [by_asyncio_run, by_threads]

        @pytest.mark.django_db
        @pytest.mark.parametrize("task", OTHERS)
        @pytest.mark.parametrize("fixture", ["celery_inline", "celery_eager"])
        def test_are_told_in_a_rollback_test(request, fixture, task):
            request.getfixturevalue(fixture)
            Order.objects.create()
            with pytest.raises(FixtureConflictError, match="transaction=True"):
                task.delay().get()
            assert Order.objects.count() == 1

        @pytest.mark.django_db
        def test_async_to_sync_is_in_the_transaction(celery_inline):
            Order.objects.create()
            assert by_async_to_sync.delay().get() == 1

        @pytest.mark.django_db(transaction=True)
        @pytest.mark.parametrize("task", [*OTHERS, by_async_to_sync])
        @pytest.mark.parametrize("fixture", ["celery_inline", "celery_eager", "celery_worker"])
        def test_work_with_real_transactions(request, fixture, task):
            request.getfixturevalue(fixture)
            Order.objects.create()
            assert task.delay().get() == 1
        """,
        "--create-db",
    )
    result.assert_outcomes(passed=14)
    result.stdout.no_fnmatch_line("*Error when trying to teardown test databases*")


def test_what_a_task_has_left_open_is_rolled_back(run: Run) -> None:
    run("""
        import pytest
        from django.db import connection, transaction
        from shop.models import Order
        from shop.tasks import add, leave_open

        pytestmark = pytest.mark.django_db(transaction=True)

        def test_after_the_task(celery_inline):
            leave_open.delay("lost")
            celery_inline.run()
            assert connection.get_autocommit()
            assert not Order.objects.exists()

        def test_in_the_next_test(celery_inline):
            with transaction.atomic():
                Order.objects.create()
            assert Order.objects.count() == 1

        def test_the_tests_own_stays(celery_inline):
            connection.set_autocommit(False)
            try:
                add.delay(1, 2)
                celery_inline.run()
                assert not connection.get_autocommit()
            finally:
                connection.rollback()
                connection.set_autocommit(True)
    """).assert_outcomes(passed=3)


def test_readers_do_not_wait_for_writers(run: Run, database: str) -> None:
    if database == databases.IN_MEMORY:
        pytest.skip("in memory threads take turns")
    run("""
        import pytest
        from django.db import transaction
        from shop.models import Order
        from shop.tasks import count_orders

        @pytest.mark.django_db(transaction=True)
        @pytest.mark.celery_sent_in_transaction("ignore")
        def test_it(celery_worker):
            with transaction.atomic():
                Order.objects.create()
                assert count_orders.delay().get() == 0
    """).assert_outcomes(passed=1)
