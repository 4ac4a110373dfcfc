"""Blocks that are wider than a test, as one of a class or a module: each test is for itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.project import Project


def test_each_test_in_a_block_of_its_class_has_its_own_messages_markers_and_failures(
    project: Project,
) -> None:
    result = project.run("""
        import pytest
        from django.db import transaction
        from pytest_djcelery import SentInTransactionError, inline
        from shop.models import Order
        from shop.tasks import add, fail


        @pytest.fixture(scope="class")
        def delivering():
            add.delay(0, 0)
            with inline() as here:
                yield here


        class TestClass:
            def test_that_leaves_a_failure(self, delivering):
                fail.delay("first")
                delivering.run(raise_failures=False)

            def test_that_breaks_off(self, delivering):
                fail.delay("second")
                delivering.run(raise_failures=False)
                raise KeyError("own")

            def test_after_them(self, delivering, celery_outbox):
                add.delay(1, 2)
                assert celery_outbox == [add.s(1, 2)]
                assert delivering.run().succeeded == 1

            def test_hooks(self, delivering, db, celery_on_commit):
                transaction.on_commit(lambda: None)
                assert len(celery_on_commit.ran) == 1

            def test_hooks_again(self, delivering, db, celery_on_commit):
                assert celery_on_commit.ran == []

            @pytest.mark.celery_sent_in_transaction("error")
            def test_a_marker(self, delivering, db):
                with pytest.raises(SentInTransactionError), transaction.atomic():
                    Order.objects.create()
                    add.delay(1, 2)

            @pytest.mark.celery_unhandled_failures("ignore")
            def test_another(self, delivering):
                fail.delay("third")
                delivering.run(raise_failures=False)

            def test_settings(self, delivering, celery_app):
                celery_app.conf.task_default_queue = "of this test"

            def test_settings_again(self, delivering, celery_app):
                assert celery_app.conf.task_default_queue == "celery"
        """)
    result.assert_outcomes(failed=2, passed=7)
    text = str(result.stdout)
    assert text.count("the test never looked at") == 1
    assert "KeyError: 'own'" in text
