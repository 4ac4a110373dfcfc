"""Code that has opened no block is in autocommit, in a test whose rows are rolled back as well."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import databases

if TYPE_CHECKING:
    from tests.support.project import Project, Run

pytestmark = pytest.mark.usefixtures("users")

TESTS = """
    import pytest
    from django.contrib.auth.models import Group
    from django.db import DatabaseError, IntegrityError, connection, transaction
    from shop.tasks import add

    class InEither:
        def fail_to_create(self):
            Group.objects.create(name="twice")
            with pytest.raises(IntegrityError):
                Group.objects.create(name="twice")

        def test_a_statement_that_fails_undoes_itself_only(self, celery_outbox):
            self.fail_to_create()
            add.delay_on_commit(1, 2)
            with transaction.atomic():
                add.delay_on_commit(3, 4)
                Group.objects.create(name="later")
            assert celery_outbox == [add.s(1, 2), add.s(3, 4)]
            assert Group.objects.count() == 2

        @pytest.mark.parametrize("savepoint", [True, False])
        def test_an_outermost_block_that_fails_takes_nothing_with_it(
            self, celery_outbox, celery_on_commit, savepoint
        ):
            with pytest.raises(KeyError), transaction.atomic(savepoint=savepoint):
                Group.objects.create(name="undone")
                add.delay_on_commit(0, 0)
                raise KeyError
            with transaction.atomic():
                add.delay_on_commit(1, 2)
            assert celery_outbox == [add.s(1, 2)]
            assert len(celery_on_commit.discarded) == 1
            assert not Group.objects.exists()

        def test_what_django_does_in_a_block_without_savepoint(self, celery_outbox):
            with pytest.raises(IntegrityError):
                Group.objects.bulk_create([Group(name="twice"), Group(name="twice")])
            add.delay_on_commit(1, 2)
            assert celery_outbox == [add.s(1, 2)]
            assert not Group.objects.exists()

        def test_a_hook_is_in_autocommit(self, celery_outbox):
            def hook():
                self.fail_to_create()
                add.delay(Group.objects.count(), 0)

            with transaction.atomic():
                transaction.on_commit(hook)
            assert celery_outbox == [add.s(1, 0)]

        def test_a_fixture_that_is_entered_late(self):
            from pytest_djcelery import outbox

            with outbox() as sent:
                self.fail_to_create()
                add.delay_on_commit(1, 2)
            assert sent == [add.s(1, 2)]
            Group.objects.create(name="later")

        def test_rows_are_locked_inside_a_block_only(self, celery_outbox):
            locked = Group.objects.select_for_update()
            with transaction.atomic():
                list(locked.all())
            if connection.features.has_select_for_update:
                with pytest.raises(transaction.TransactionManagementError, match="outside"):
                    list(locked.all())
            else:
                list(locked.all())

        def test_django_says_so(self, celery_outbox):
            seen = [transaction.get_autocommit()]
            with transaction.atomic():
                seen.append(transaction.get_autocommit())
                with transaction.atomic():
                    seen.append(transaction.get_autocommit())
            transaction.on_commit(lambda: seen.append(transaction.get_autocommit()))
            assert seen == [True, False, False, True]

        def test_a_block_may_be_rolled_back_and_left(self, celery_outbox):
            with transaction.atomic():
                Group.objects.create(name="kept")
                with pytest.raises(IntegrityError), transaction.atomic():
                    Group.objects.create(name="kept")
                sid = transaction.get_connection().savepoint()
                Group.objects.create(name="undone")
                transaction.savepoint_rollback(sid)
            assert [each.name for each in Group.objects.all()] == ["kept"]

        def test_the_queries_that_a_test_counts(
            self, celery_outbox, django_assert_num_queries
        ):
            with django_assert_num_queries(2):
                Group.objects.create(name="one")
                Group.objects.count()


    @pytest.mark.django_db
    class TestInRollback(InEither):
        pass


    @pytest.mark.django_db(transaction=True)
    class TestWithRealTransactions(InEither):
        pass


    @pytest.mark.django_db
    def test_nothing_is_left_of_them():
        assert not Group.objects.exists()
        assert connection.execute_wrappers == []
        assert transaction.get_autocommit() is False
"""

UNITTEST = """
    from django.contrib.auth.models import Group
    from django.db import IntegrityError, connection, transaction
    from django.test import TestCase
    from shop.tasks import add

    from pytest_djcelery import outbox


    class Tests(TestCase):
        @classmethod
        def setUpTestData(cls):
            Group.objects.create(name="of the class")

        def test_first(self):
            self.fail_and_send()

        def test_second(self):
            self.fail_and_send()

        def fail_and_send(self):
            assert Group.objects.count() == 1
            with outbox() as sent:
                with self.assertRaises(IntegrityError):
                    Group.objects.create(name="of the class")
                add.delay_on_commit(1, 2)
            assert sent == [add.s(1, 2)]
            Group.objects.create(name="of the test")


    import pytest


    @pytest.mark.usefixtures("celery_outbox")
    class WithFixture(Tests):
        pass
"""


@pytest.mark.parametrize("database", databases.DATABASES)
def test_code_outside_any_block_is_in_autocommit(run: Run, project: Project, database: str) -> None:
    databases.use(project, database)
    result = run(TESTS)
    result.assert_outcomes(passed=21)


@pytest.mark.parametrize("database", [databases.IN_MEMORY, databases.POSTGRESQL])
def test_in_test_cases_of_django_too(run: Run, project: Project, database: str) -> None:
    databases.use(project, database)
    result = run(UNITTEST)
    result.assert_outcomes(passed=4)
