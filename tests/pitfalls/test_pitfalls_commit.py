"""Pitfall 34: nested and rolled-back on_commit hooks, in rollback tests as with real commits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Run


HOOKS = """
    import pytest
    from django.db import IntegrityError, connection, transaction
    from shop.models import Order
    from shop.tasks import add

    pytestmark = pytest.mark.django_db(transaction={real})

    class Oops(Exception):
        pass

    def send(number):
        transaction.on_commit(lambda: add.delay(number, 0))

    def numbers(outbox):
        return [sent.args[0] for sent in outbox]

    def test_order_of_nested_blocks(celery_outbox):
        with transaction.atomic():
            send(1)
            with transaction.atomic():
                send(2)
            send(3)
            assert numbers(celery_outbox) == []
        assert numbers(celery_outbox) == [1, 2, 3]

    def test_a_hook_registered_in_a_hook_runs_too(celery_outbox, celery_on_commit):
        def outer():
            add.delay(1, 0)
            send(2)

        with transaction.atomic():
            transaction.on_commit(outer)
            send(3)
        assert sorted(numbers(celery_outbox)) == [1, 2, 3]
        assert len(celery_on_commit.ran) == 3
        assert celery_on_commit.pending == []

    def test_a_block_opened_in_a_hook_commits_by_itself(celery_outbox):
        def hook():
            with transaction.atomic():
                send(1)
                assert numbers(celery_outbox) == []
            assert numbers(celery_outbox) == [1]

        with transaction.atomic():
            transaction.on_commit(hook)
        assert numbers(celery_outbox) == [1]

    def test_a_rolled_back_savepoint_discards_its_own(celery_outbox, celery_on_commit):
        with transaction.atomic():
            send(1)
            with pytest.raises(Oops), transaction.atomic():
                send(2)
                with transaction.atomic():
                    send(3)
                raise Oops
            send(4)
        assert numbers(celery_outbox) == [1, 4]
        assert [hook.reason for hook in celery_on_commit.discarded] == [
            "a savepoint was rolled back"
        ] * 2

    def test_a_rolled_back_transaction_discards_all(celery_outbox, celery_on_commit):
        with pytest.raises(Oops), transaction.atomic():
            send(1)
            with transaction.atomic():
                send(2)
            raise Oops
        assert numbers(celery_outbox) == []
        assert len(celery_on_commit.discarded) == 2
        with transaction.atomic():
            send(3)
        assert numbers(celery_outbox) == [3]

    def test_set_rollback_discards(celery_outbox, celery_on_commit):
        with transaction.atomic():
            send(1)
            transaction.set_rollback(True)
        assert numbers(celery_outbox) == []
        assert len(celery_on_commit.discarded) == 1

    def test_a_savepoint_rolled_back_by_hand_discards_nothing_as_in_django(celery_outbox):
        with transaction.atomic():
            # Django 6.1 renames it.
            savepoint = getattr(transaction, "savepoint_create", None) or transaction.savepoint
            point = savepoint()
            send(1)
            transaction.savepoint_rollback(point)
            send(2)
        assert numbers(celery_outbox) == [1, 2]

    def test_an_error_in_a_block_without_a_savepoint_takes_the_transaction_along(celery_outbox):
        with transaction.atomic():
            send(1)
            with pytest.raises(Oops), transaction.atomic(savepoint=False):
                send(2)
                raise Oops
        assert numbers(celery_outbox) == []

    def test_a_hook_that_raises_loses_the_rest_and_reaches_the_caller(
        celery_outbox, celery_on_commit
    ):
        def raises():
            raise Oops

        with pytest.raises(Oops):
            with transaction.atomic():
                send(1)
                transaction.on_commit(raises)
                send(2)
        assert numbers(celery_outbox) == [1]
        assert [type(hook.error) for hook in celery_on_commit.ran] == [type(None), Oops]
        assert len(celery_on_commit.discarded) == 1

    def test_a_robust_hook_that_raises_loses_nothing(celery_outbox):
        def raises():
            raise Oops

        with transaction.atomic():
            transaction.on_commit(raises, robust=True)
            send(1)
        assert numbers(celery_outbox) == [1]

    def test_durable_is_the_codes_outermost_block(celery_outbox):
        with transaction.atomic(durable=True):
            send(1)
        assert numbers(celery_outbox) == [1]
        with pytest.raises(RuntimeError, match="durable"):
            with transaction.atomic(), transaction.atomic(durable=True):
                pass

    def test_a_database_error_that_is_caught_outside_discards(celery_outbox):
        with pytest.raises(IntegrityError):
            with transaction.atomic():
                send(1)
                Order.objects.create(pk=1)
                Order.objects.create(pk=1)
        assert numbers(celery_outbox) == []
    """
TESTS = HOOKS.count("def test_")


@pytest.mark.parametrize("real", [False, True], ids=["rollback", "commits"])
def test_pitfall_34_nested_and_rolled_back_hooks_do_what_they_do_in_production(
    run: Run,
    real: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    run(HOOKS.format(real=real)).assert_outcomes(passed=TESTS)


def test_pitfall_34_a_test_case_of_django_keeps_the_same_rules(run: Run) -> None:
    result = run("""
        import pytest
        from django.db import transaction
        from django.test import TestCase, TransactionTestCase
        from pytest_djcelery import outbox
        from shop.tasks import add

        class Hooks:
            def test_nested_and_rolled_back(self):
                with outbox() as sent, transaction.atomic():
                    add.delay_on_commit(1, 0)
                    with pytest.raises(KeyError), transaction.atomic():
                        add.delay_on_commit(2, 0)
                        raise KeyError
                assert sent == [add.s(1, 0)]

        class TestRollback(Hooks, TestCase):
            pass

        class TestCommits(Hooks, TransactionTestCase):
            pass
        """)
    result.assert_outcomes(passed=2)
