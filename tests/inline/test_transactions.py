"""`celery_inline` runs a task in the test's transaction, as if none was open there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project, Run

pytestmark = pytest.mark.usefixtures("users")

TASKS = """
    from functools import partial

    from django.contrib.auth.models import Group
    from django.db import IntegrityError, transaction

    log = []


    @shared_task
    def remember(durable):
        transaction.on_commit(partial(log.append, "at once"))
        with transaction.atomic(durable=durable):
            transaction.on_commit(partial(log.append, "hook"))
            log.append("in the block")
        log.append("after the block")


    @shared_task
    def fail_after_a_hook():
        with transaction.atomic():
            transaction.on_commit(partial(log.append, "hook"))
            raise ValueError("rolled back")


    @shared_task
    def create(name):
        return Group.objects.create(name=name).name


    @shared_task
    def send_in_block():
        with transaction.atomic():
            create.delay("sent")
            Group.objects.create(name="sender")
"""


TASKS_IN_A_BLOCK = """
from functools import partial

import pytest
from django.contrib.auth.models import Group
from django.db import IntegrityError, transaction
from shop.tasks import create, fail_after_a_hook, log, remember

from pytest_djcelery import Failure

AS_UNDER_A_WORKER = ["at once", "in the block", "hook", "after the block"]

@pytest.fixture(autouse=True)
def nothing_logged():
    log.clear()
"""


def test_a_tasks_hooks_do_not_wait_for_the_block_that_the_test_has_open(
    run: Run, project: Project
) -> None:
    project.tasks(TASKS)
    result = run(
        """
        class InEither:
            @pytest.mark.parametrize("durable", [False, True])
            def test_no_block(self, celery_inline, durable):
                remember.delay(durable)
                celery_inline.run()
                assert log == AS_UNDER_A_WORKER

            @pytest.mark.parametrize("durable", [False, True])
            def test_hooks(self, celery_inline, celery_on_commit, durable):
                remember.delay(durable)
                with transaction.atomic():
                    transaction.on_commit(partial(log.append, "the test's"))
                    celery_inline.run()
                    assert log == AS_UNDER_A_WORKER
                    assert len(celery_on_commit.pending) == 1
                assert log == [*AS_UNDER_A_WORKER, "the test's"]
                assert (len(celery_on_commit.ran), celery_on_commit.discarded) == (3, [])

            def test_hooks_of_a_block_that_is_rolled_back(self, celery_inline, celery_on_commit):
                fail_after_a_hook.delay()
                with transaction.atomic():
                    transaction.on_commit(partial(log.append, "the test's"))
                    with pytest.raises(ValueError, match="rolled back"):
                        celery_inline.run()
                    assert log == []
                assert log == ["the test's"]
                assert (len(celery_on_commit.ran), len(celery_on_commit.discarded)) == (1, 1)

        @pytest.mark.django_db
        class TestRolledBack(InEither):
            pass

        @pytest.mark.django_db(transaction=True)
        class TestCommitted(InEither):
            pass
        """,
        preamble=TASKS_IN_A_BLOCK,
    )
    result.assert_outcomes(passed=10)


def test_what_fails_in_a_task_and_in_the_tests_block_is_undone_separately(
    run: Run, project: Project
) -> None:
    project.tasks(TASKS)
    result = run(
        """
        class InEither:
            def test_an_error(self, celery_inline, celery_results):
                Group.objects.create(name="taken")
                result = create.delay("taken")
                with transaction.atomic():
                    Group.objects.create(name="the test's")
                    assert celery_results[result] == Failure(IntegrityError)
                    Group.objects.create(name="after")
                assert Group.objects.count() == 3

            def test_a_block_that_the_test_rolls_back(self, celery_inline, celery_results):
                result = create.delay("gone")
                with transaction.atomic():
                    assert result.get() == "gone"
                    transaction.set_rollback(True)
                assert not Group.objects.exists()

        @pytest.mark.django_db
        class TestRolledBack(InEither):
            pass

        @pytest.mark.django_db(transaction=True)
        class TestCommitted(InEither):
            pass
        """,
        preamble=TASKS_IN_A_BLOCK,
    )
    result.assert_outcomes(passed=4)


def test_a_message_sent_in_a_tasks_block_is_reported_however_it_is_delivered(
    run: Run, project: Project
) -> None:
    project.tasks(TASKS)
    result = run("""
        import pytest
        from django.db import transaction
        from shop.tasks import send_in_block

        @pytest.mark.django_db
        def test_it(celery_inline, celery_outbox):
            send_in_block.delay()
            with transaction.atomic(), pytest.warns(match="opened by: .* in send_in_block"):
                celery_inline.run()
            assert [each.transaction for each in celery_outbox] == ["autocommit", "atomic"]
    """)
    result.assert_outcomes(passed=1)


def test_a_block_that_the_test_has_broken_stays_broken(run: Run, project: Project) -> None:
    project.tasks(TASKS)
    result = run("""
        import pytest
        from django.contrib.auth.models import Group
        from django.db import IntegrityError, transaction
        from django.db.transaction import TransactionManagementError
        from shop.tasks import create

        from pytest_djcelery import Failure, Success

        @pytest.mark.django_db
        def test_it(celery_inline, celery_results):
            result = create.delay("new")
            Group.objects.create(name="taken")
            with transaction.atomic():
                with pytest.raises(IntegrityError):
                    Group.objects.create(name="taken")
                assert celery_results[result] == Failure(TransactionManagementError)
                assert transaction.get_rollback()

        @pytest.mark.django_db
        def test_outside_a_block_nothing_is_broken(celery_inline, celery_results):
            result = create.delay("new")
            Group.objects.create(name="taken")
            with pytest.raises(IntegrityError):
                Group.objects.create(name="taken")
            assert celery_results[result] == Success("new")
            assert Group.objects.count() == 2
    """)
    result.assert_outcomes(passed=2)


def test_an_error_in_a_test_case_of_djangos(run: Run, project: Project) -> None:
    project.tasks(TASKS)
    result = run("""
        from django.contrib.auth.models import Group
        from django.db import IntegrityError
        from django.test import TestCase
        from shop.tasks import create

        from pytest_djcelery import inline

        class TestIt(TestCase):
            @classmethod
            def setUpTestData(cls):
                Group.objects.create(name="taken")

            def test_one(self):
                with inline():
                    failing, after = create.delay("taken"), create.delay("after")
                    with self.assertRaises(IntegrityError):
                        failing.get()
                    self.assertEqual(after.get(), "after")
                self.assertEqual(Group.objects.count(), 2)

            def test_another(self):
                self.assertEqual(Group.objects.count(), 1)
    """)
    result.assert_outcomes(passed=2)
