"""Four threads of a worker write 2,000 times while the test reads, on each kind of database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import databases

if TYPE_CHECKING:
    from tests.support.project import Project, Run

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("unmeasured")]


@pytest.mark.parametrize("database", databases.DATABASES)
def test_nothing_is_lost_or_locked_under_load(run: Run, project: Project, database: str) -> None:
    databases.use(project, database)
    project.tasks("""
        from django.db import transaction


        @shared_task
        def write(number):
            with transaction.atomic():
                order = Order.objects.create(name="new")
                order.name = str(number)
                order.save(update_fields=["name"])
            return order.pk
    """)
    result = run("""
        import threading

        import pytest
        from databases_here import left_open
        from shop.models import Order
        from shop.tasks import write

        TASKS = 2_000

        @pytest.fixture(scope="session")
        def celery_worker_pool():
            return "threads"

        @pytest.fixture(scope="session")
        def celery_worker_parameters():
            return {"concurrency": 4}

        @pytest.mark.django_db(transaction=True)
        def test_load(celery_worker, celery_results):
            results, seen = [], []

            def look():
                assert not Order.objects.filter(name="new").exists()  # no half of a transaction
                seen.append(Order.objects.count())

            for number in range(0, TASKS, 10):
                results += [write.delay(number + more) for more in range(10)]
                look()
            for result in results[::10]:
                result.get()
                look()
            keys = [result.get() for result in results]
            assert seen == sorted(seen)
            assert len({*seen}) >= TASKS // 100, len({*seen})  # it read while they wrote
            assert Order.objects.count() == TASKS
            assert {*Order.objects.values_list("pk", "name")} == {
                (key, str(number)) for number, key in enumerate(keys)
            }

        @pytest.mark.django_db(transaction=True)
        def test_no_connection_is_left():
            assert left_open() == []
            assert Order.objects.count() == 0
            assert not [each for each in threading.enumerate() if "ThreadPool" in each.name]
    """)
    result.assert_outcomes(passed=2)
    assert result.ret == 0
    result.stdout.no_fnmatch_line("*is locked*")
    result.stdout.no_fnmatch_line("*being accessed by other users*")
