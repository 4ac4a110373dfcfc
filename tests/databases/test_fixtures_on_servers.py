"""Every fixture on PostgreSQL and MariaDB, with two aliases, and nothing left of any of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import databases

if TYPE_CHECKING:
    from tests.support.project import Project, Run

pytestmark = pytest.mark.usefixtures("unmeasured")

pytest.importorskip("django_celery_beat")
pytest.importorskip("django_celery_results")


@pytest.fixture(params=databases.SERVERS)
def database(request: pytest.FixtureRequest, project: Project) -> str:
    """A server that the project keeps its rows on, in two databases."""
    kind: str = request.param
    databases.use(project, kind, "other")
    project.settings("""
        INSTALLED_APPS = ["django_celery_beat", "django_celery_results", "shop"]
        DATABASE_ROUTERS = ["proj.routers.OrdersAreInBoth"]
        CELERY_RESULT_BACKEND = "django-db"
        CELERY_BEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"
        CELERY_RESULT_EXPIRES = None  # no celery.backend_cleanup
    """)
    project.write(**{"proj/routers": """
        class OrdersAreInBoth:
            def allow_migrate(self, db, app_label, **hints):
                return db == "default" or app_label == "shop"
        """})  # fmt: skip
    project.tasks("""
        from django.db import transaction


        @shared_task
        def write_to_both(name):
            for alias in ("default", "other"):
                with transaction.atomic(using=alias):
                    order = Order.objects.using(alias).create(name="new")
                    Order.objects.using(alias).filter(pk=order.pk).update(name=name)
            return name


        @shared_task
        def order_in(alias, name):
            with transaction.atomic(using=alias):
                Order.objects.using(alias).create(name=name)
                transaction.on_commit(lambda: count_in.delay(alias), using=alias)


        @shared_task
        def count_in(alias):
            return Order.objects.using(alias).count()
    """)
    return kind


WITH_TWO_ALIASES = """
from datetime import timedelta

import pytest
from celery import chord, group
from databases_here import left_open
from django.db import connections, transaction
from django_celery_beat.models import IntervalSchedule, PeriodicTask
from django_celery_results.models import ChordCounter, TaskResult
from shop.models import Order
from shop.tasks import add, count_in, fail, flaky, order_in, write_to_both

from pytest_djcelery import Failure, Success

BOTH = ["default", "other"]
pytestmark = pytest.mark.django_db(databases=BOTH)
in_both = pytest.mark.parametrize("alias", BOTH)

@pytest.fixture(scope="session")
def celery_worker_pool():
    return "threads"

@pytest.fixture(scope="session")
def celery_worker_parameters():
    return {"concurrency": 4}

def names(alias):
    return [*Order.objects.using(alias).order_by("pk").values_list("name", flat=True)]

def started_empty():
    return not TaskResult.objects.exists() and names("default") == names("other") == []
"""


def test_outbox_hooks_and_eager_mode_with_two_aliases(run: Run, database: str) -> None:
    result = run(
        """
        @in_both
        def test_outbox(celery_outbox, alias):
            with transaction.atomic(using=alias):
                transaction.on_commit(lambda: add.delay(1, 2), using=alias)
                assert celery_outbox == []
            assert celery_outbox == [add.s(1, 2)]
            assert celery_outbox.after_commit == [add.s(1, 2)]

        @in_both
        def test_on_commit(celery_on_commit, alias):
            [another] = {*BOTH} - {alias}
            ran = []
            with transaction.atomic(using=another):
                with transaction.atomic(using=alias):
                    transaction.on_commit(lambda: ran.append(alias), using=alias)
                    transaction.on_commit(lambda: ran.append(another), using=another)
                    assert ran == []
                assert ran == [alias]
                assert [hook.using for hook in celery_on_commit.pending] == [another]
            assert ran == [alias, another]
            with pytest.raises(ZeroDivisionError), transaction.atomic(using=alias):
                transaction.on_commit(lambda: ran.append("never"), using=alias)
                1 / 0
            assert ran == [alias, another]
            assert [hook.using for hook in celery_on_commit.discarded] == [alias]

        @in_both
        def test_eager(celery_eager, celery_on_commit, alias):
            assert started_empty()
            assert write_to_both.delay("it").get() == "it"
            assert names("default") == names("other") == ["it"]
            order_in.delay(alias, "one more")
            assert len(celery_on_commit.ran) == 1
            assert names(alias) == ["it", "one more"]
            [message] = celery_on_commit.ran[0].sent
            assert TaskResult.objects.get(task_id=message.id).result == "2"

        @pytest.mark.django_db(databases=BOTH, transaction=True)
        def test_no_connection_is_left():
            assert left_open() == []
            assert started_empty()
        """,
        "--create-db", preamble=WITH_TWO_ALIASES)  # fmt: skip
    result.assert_outcomes(passed=7)
    assert result.ret == 0
    assert databases.left_on_server(database) == []


def test_tasks_that_run_inline_with_two_aliases(run: Run, database: str) -> None:
    result = run(
        """
        @pytest.mark.parametrize("number", range(10))
        def test_inline(celery_inline, celery_results, celery_outbox, number):
            assert started_empty()
            alias = BOTH[number % 2]
            with transaction.atomic(using=alias):
                Order.objects.using(alias).create(name="of the test")
                transaction.on_commit(lambda: write_to_both.delay("it"), using=alias)
            order_in.delay(alias, "one more")
            assert celery_inline.run().succeeded == 3
            assert names(alias) == ["of the test", "it", "one more"]
            assert celery_outbox[-1].task == count_in.name
            assert celery_results.of(count_in) == [Success(3)]
            assert chord(add.s(1, each) for each in range(3))(add.s([])).get() == [1, 2, 3]
            # Only here: where attempts run side by side, django-db may be told of a RETRY after
            # the SUCCESS of the attempt that followed it, and keeps what it was told last.
            assert celery_results[flaky.delay()] == Success("ok", retries=2)
            assert all(connections[each].in_atomic_block for each in BOTH)  # it is rolled back

        @pytest.mark.parametrize("number", range(5))
        def test_beat(celery_beat, celery_inline, celery_results, number):
            hourly = IntervalSchedule.objects.create(every=1, period="hours")
            PeriodicTask.objects.create(
                name="it", task=write_to_both.name, args='["by beat"]', interval=hourly
            )
            assert len(celery_beat.run(until=timedelta(hours=3))) == 3
            assert names("default") == names("other") == ["by beat"] * 3
            assert PeriodicTask.objects.get().total_run_count == 3
            assert celery_results.of(write_to_both) == [Success("by beat")] * 3

        @pytest.mark.django_db(databases=BOTH, transaction=True)
        def test_no_connection_is_left():
            assert left_open() == []
            assert started_empty()
        """,
        "--create-db", preamble=WITH_TWO_ALIASES)  # fmt: skip
    result.assert_outcomes(passed=16)
    assert result.ret == 0
    assert databases.left_on_server(database) == []


def test_embedded_workers_with_two_aliases(run: Run, database: str) -> None:
    result = run(
        """
        @pytest.mark.parametrize("number", range(20))
        def test_worker(celery_worker, celery_results, celery_outbox, number):
            assert started_empty()
            alias = BOTH[number % 2]
            with transaction.atomic(using=alias):
                Order.objects.using(alias).create(name="of the test")
                transaction.on_commit(lambda: write_to_both.delay("it"), using=alias)
            assert celery_results.of(write_to_both) == [Success("it")]
            assert names(alias) == ["of the test", "it"]
            order_in.delay(alias, "one more")
            if number % 3:  # else the end of the test waits for it
                celery_worker.wait_until_idle()
                assert celery_results.of(count_in) == [Success(3)]
                assert TaskResult.objects.filter(status="SUCCESS").count() == 3

        @pytest.mark.parametrize("number", range(10))
        def test_session_worker(celery_session_worker, celery_results, number):
            assert started_empty()
            assert group(write_to_both.s(f"{each}") for each in range(4))().get() == [*"0123"]
            assert sorted(names("default")) == sorted(names("other")) == [*"0123"]
            assert celery_results[fail.delay("no stock")] == Failure(ValueError, match="no stock")

        @pytest.mark.parametrize("number", range(2))
        def test_chords_under_concurrency(celery_worker, number):
            # The last of each chord's tasks starts its body; they tell by a row they lock.
            chords = [
                chord(group(add.s(each, task) for task in range(5)))(add.s([]))
                for each in range(20)
            ]
            for each, result in enumerate(chords):
                assert sorted(result.get()) == [each + task for task in range(5)]
            celery_worker.wait_until_idle()
            assert TaskResult.objects.filter(status="SUCCESS").count() == 20 * 6
            assert not ChordCounter.objects.exists()

        @pytest.mark.django_db
        def test_a_worker_with_one_of_the_databases(celery_worker, celery_results):
            assert count_in.delay("default").get() == 0
            refused = celery_results[count_in.delay("other")]
            assert refused == Failure(AssertionError, match="to 'other' are not allowed in this")

        @pytest.mark.django_db(databases=BOTH, transaction=True)
        def test_no_connection_is_left():
            assert left_open() == []
            assert started_empty()
        """,
        "--create-db", preamble=WITH_TWO_ALIASES)  # fmt: skip
    result.assert_outcomes(passed=34)
    assert result.ret == 0
    assert databases.left_on_server(database) == []


def test_the_live_worker_with_two_aliases(run: Run, database: str) -> None:
    result = run(
        """
        @pytest.mark.parametrize("number", range(5))
        def test_live_worker(celery_live_worker, celery_results, celery_outbox, number):
            assert started_empty()
            alias = BOTH[number % 2]
            with transaction.atomic(using=alias):
                Order.objects.using(alias).create(name="of the test")
                transaction.on_commit(lambda: write_to_both.delay("it"), using=alias)
            assert celery_results.of(write_to_both) == [Success("it")]
            order_in.delay(alias, "one more")
            celery_live_worker.wait_until_idle()
            assert names(alias) == ["of the test", "it", "one more"]
            assert celery_outbox[-1].task == count_in.name
            assert celery_results.of(count_in) == [Success(3)]
            header = chord(group(add.s(1, each) for each in range(5)))
            assert sorted(header(add.s([])).get()) == [1, 2, 3, 4, 5]

        @pytest.mark.django_db(databases=BOTH, transaction=True)
        def test_no_connection_is_left():
            assert left_open() == []
            assert started_empty()
        """,
        "--create-db", preamble=WITH_TWO_ALIASES)  # fmt: skip
    result.assert_outcomes(passed=6)
    assert result.ret == 0
    assert databases.left_on_server(database) == []
