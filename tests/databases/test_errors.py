"""A database error in a task: in the test's transaction it undoes no more than in autocommit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import databases

if TYPE_CHECKING:
    from tests.support.project import Project

pytestmark = pytest.mark.usefixtures("users")

DATABASES = (databases.IN_MEMORY, *databases.SERVERS)

TASKS = """
    from contextlib import suppress

    from django.contrib.auth.models import Group
    from django.db import DatabaseError, IntegrityError, connections, transaction


    def names(alias="default"):
        return sorted(Group.objects.using(alias).values_list("name", flat=True))


    @shared_task
    def create(name):
        return Group.objects.create(name=name).name


    @shared_task
    def create_tolerantly(*taken, alias="default"):
        for name in taken:
            with suppress(IntegrityError):
                Group.objects.using(alias).create(name=name)
        Group.objects.using(alias).create(name="after")
        return names(alias)


    @shared_task(bind=True, autoretry_for=(IntegrityError,), default_retry_delay=1)
    def create_in_turn(self, *in_turn):
        return Group.objects.create(name=in_turn[self.request.retries]).name


    @shared_task
    def create_in_block(savepoint):
        Group.objects.create(name="before")
        with suppress(IntegrityError), transaction.atomic(savepoint=savepoint):
            Group.objects.create(name="in the block")
            Group.objects.create(name="taken")
        Group.objects.create(name="after")
        with transaction.atomic(savepoint=savepoint):
            Group.objects.create(name="in another")
        return names()


    @shared_task
    def create_in_bulk():
        new = [Group(name=name) for name in ("in bulk", "taken")]
        with suppress(IntegrityError):
            Group.objects.bulk_create(new, batch_size=1)
        return names()


    @shared_task
    def catch_in_block(savepoint):
        with transaction.atomic(savepoint=savepoint):
            Group.objects.create(name="in the block")
            with suppress(IntegrityError):
                Group.objects.create(name="taken")
        return names()


    @shared_task
    def run_bad_sql():
        with connections["default"].cursor() as cursor, suppress(DatabaseError):
            cursor.execute("SELECT * FROM nowhere")
        return names()


    @shared_task
    def go_through_rows():
        seen = []
        for group in Group.objects.order_by("name").iterator(chunk_size=1):
            with suppress(IntegrityError):
                Group.objects.create(name="taken")
            seen.append(group.name)
        return seen


    @shared_task
    def set_savepoints():
        # Its name since Django 6.1
        create = getattr(transaction, "savepoint_create", None) or transaction.savepoint
        savepoint = create()
        Group.objects.create(name="kept")
        transaction.savepoint_commit(savepoint)
        return names()


    @shared_task
    def fail_in_a_hook():
        with transaction.atomic():
            Group.objects.create(name="in the block")
            transaction.on_commit(lambda: Group.objects.create(name="taken"))
"""

# In the test's rollback transaction, and with real ones, where the database itself does it all.
TESTS = """
    from datetime import timedelta

    import pytest
    from django.contrib.auth.models import Group
    from django.db import IntegrityError, transaction
    from shop.tasks import (
        catch_in_block, create, create_in_block, create_in_bulk, create_in_turn,
        create_tolerantly, fail_in_a_hook, go_through_rows, names, run_bad_sql, set_savepoints,
    )

    from pytest_djcelery import Failure, Success

    BOTH = ["default", "other"]
    either = pytest.mark.parametrize("savepoint", [True, False])


    class InEither:
        @pytest.fixture(autouse=True)
        def taken(self, celery_inline):
            for alias in BOTH:
                Group.objects.using(alias).create(name="taken")

        def test_a_task_goes_on(self):
            assert create_tolerantly.delay("taken", "taken").get() == ["after", "taken"]
            assert names() == ["after", "taken"]

        def test_a_retry(self, celery_inline, celery_results):
            result = create_in_turn.delay("taken", "taken", "free")
            celery_inline.run(until=timedelta(minutes=1))
            assert celery_results[result] == Success("free", retries=2)

        def test_tasks_and_test_after_a_failure(self, celery_inline, celery_results):
            failing, after = create.delay("taken"), create.delay("after")
            assert celery_inline.run(raise_failures=False).failed == 1
            assert celery_results[failing] == Failure(IntegrityError)
            assert celery_results[after] == Success("after")
            with pytest.raises(IntegrityError):
                failing.get()
            assert names() == ["after", "taken"]
            Group.objects.create(name="the test's")

        @either
        def test_a_block(self, savepoint):
            left = ["after", "before", "in another", "taken"]
            assert create_in_block.delay(savepoint).get() == left

        def test_a_block_of_djangos(self):
            assert create_in_bulk.delay().get() == ["taken"]

        @either
        def test_an_error_caught_in_a_block(self, savepoint):
            assert catch_in_block.delay(savepoint).get() == ["taken"]
            assert names() == ["taken"]

        def test_an_error_that_django_is_not_told_of(self):
            assert run_bad_sql.delay().get() == ["taken"]
            assert names() == ["taken"]

        def test_rows_that_are_read_meanwhile(self):
            Group.objects.create(name="another")
            assert go_through_rows.delay().get() == ["another", "taken"]

        def test_savepoints_outside_a_block(self):
            assert set_savepoints.delay().get() == ["kept", "taken"]

        def test_a_hook(self, celery_inline):
            fail_in_a_hook.delay()
            with pytest.raises(IntegrityError):
                celery_inline.run()
            assert names() == ["in the block", "taken"]

        def test_another_alias(self):
            result = create_tolerantly.delay("taken", alias="other")
            assert result.get() == ["after", "taken"]
            assert (names(), names("other")) == (["taken"], ["after", "taken"])

        @pytest.mark.celery_inline(auto=True)
        @pytest.mark.celery_sent_in_transaction("ignore")
        def test_delivery_by_itself(self, celery_results):
            with transaction.atomic():
                Group.objects.create(name="the test's")
                tolerant, failing = create_tolerantly.delay("taken"), create.delay("taken")
            assert celery_results[tolerant] == Success(["after", "taken", "the test's"])
            assert celery_results[failing] == Failure(IntegrityError)
            assert names() == ["after", "taken", "the test's"]


    @pytest.mark.django_db(databases=BOTH)
    class TestRolledBack(InEither):
        pass


    @pytest.mark.django_db(databases=BOTH, transaction=True)
    class TestCommitted(InEither):
        pass


    @pytest.mark.django_db(databases=BOTH)
    def test_nothing_was_left():
        assert (names(), names("other")) == ([], [])
"""


@pytest.mark.parametrize("database", DATABASES)
def test_an_error_undoes_its_statement_or_the_tasks_block(project: Project, database: str) -> None:
    databases.use(project, database, "other")
    project.settings("""
        INSTALLED_APPS += ["django_celery_results"]
        CELERY_RESULT_BACKEND = "django-db"
    """)
    project.tasks(TASKS)
    result = project.run(TESTS)
    result.assert_outcomes(passed=29)


@pytest.mark.parametrize("database", DATABASES)
def test_the_rollback_is_not_a_query_that_a_test_counts(project: Project, database: str) -> None:
    databases.use(project, database)
    project.tasks(TASKS)
    result = project.run("""
        import pytest
        from django.contrib.auth.models import Group
        from django.db import connection
        from django.test.utils import CaptureQueriesContext
        from shop.tasks import catch_in_block, create_in_bulk, create_tolerantly, names

        @pytest.mark.django_db
        def test_it(celery_inline, django_assert_num_queries):
            Group.objects.create(name="taken")
            create_tolerantly.delay("taken")
            with CaptureQueriesContext(connection) as queries:
                celery_inline.run()
            assert len(queries) == 3
            assert "SAVEPOINT" not in str(queries.captured_queries)
            create_in_bulk.delay()
            with django_assert_num_queries(3):
                celery_inline.run()
            catch_in_block.delay(True)
            with django_assert_num_queries(3 + 3):  # Django tells of the block
                celery_inline.run()
            sent = []

            def note(execute, sql, params, many, context):
                sent.append(sql)
                return execute(sql, params, many, context)

            Group.objects.filter(name="after").delete()
            create_tolerantly.delay("taken")
            with connection.execute_wrapper(note):
                celery_inline.run()
                names()
            assert len(sent) == 3 + 1
    """)
    result.assert_outcomes(passed=1)
