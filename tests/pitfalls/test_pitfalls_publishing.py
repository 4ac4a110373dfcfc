"""Pitfalls of publishing: mocks, transactions, aliases, and messages without a handle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project, Run

TWO_DATABASES = """
    DATABASES["other"] = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    """


@pytest.mark.parametrize("mode", ["celery_outbox", "celery_eager", "celery_worker"])
def test_pitfall_14_a_call_that_a_mock_would_accept_fails_where_it_is_sent(
    run: Run, mode: str
) -> None:
    result = run(f"""
        import pytest
        from kombu.exceptions import EncodeError
        from shop.tasks import add, ship

        def test_signature({mode}):
            with pytest.raises(TypeError, match="missing 1 required positional argument: 'y'"):
                add.delay(1)
            with pytest.raises(TypeError, match="unexpected keyword argument 'fast'"):
                ship.delay(1, fast=True)

        def test_serializer({mode}):
            with pytest.raises(EncodeError, match="shop.tasks.add was not sent"):
                add.delay(1, object())

        def test_nothing_was_sent({mode}, request):
            celery_outbox = request.getfixturevalue("celery_outbox")
            with pytest.raises(TypeError):
                add.delay(1)
            with pytest.raises(EncodeError):
                add.delay(1, {{2}})
            assert celery_outbox == []

        def test_a_call_that_the_test_makes_itself_is_no_message({mode}, request):
            celery_outbox = request.getfixturevalue("celery_outbox")
            assert add.apply((1, 2)).get() == 3
            assert celery_outbox == []

        def test_what_the_worker_gets_is_recorded({mode}, request):
            celery_outbox = request.getfixturevalue("celery_outbox")
            add.delay((1,), y=[2])
            [sent] = celery_outbox
            assert (list(sent.args), sent.kwargs) == ([[1]], {{"y": [2]}})
        """)
    result.assert_outcomes(passed=5)


def test_pitfall_14_a_message_sent_by_name_is_checked_too(run: Run) -> None:
    result = run("""
        import pytest
        from kombu.exceptions import EncodeError
        from pytest_djcelery import Failure
        from shop.tasks import add

        def test_serializer(celery_app, celery_outbox):
            with pytest.raises(EncodeError, match="shop.tasks.add was not sent"):
                celery_app.send_task("shop.tasks.add", [1, {2}])
            assert celery_outbox == []

        def test_record(celery_app, celery_outbox):
            celery_app.send_task("shop.tasks.add", [1], {"y": 2})
            assert celery_outbox == [add.s(1, 2)]

        def test_signature(celery_app, celery_worker, celery_results):
            result = celery_app.send_task("shop.tasks.add", [1])
            assert celery_results[result] == Failure(TypeError, match="'y'")
        """)
    result.assert_outcomes(passed=3)


SENT_BEFORE_THE_COMMIT = """
    import pytest
    from django.db import transaction
    from pytest_djcelery import SentInTransactionError, SentInTransactionWarning
    from shop.models import Order
    from shop.tasks import ship

    pytestmark = pytest.mark.django_db(transaction={real})

    def place_order():
        with transaction.atomic():
            order = Order.objects.create()
            ship.delay(order.pk)

    def test_warns_by_default(celery_outbox):
        with pytest.warns(SentInTransactionWarning, match="shop.tasks.ship") as warned:
            place_order()
        assert "test_it.py" in str(warned[0].message)
        assert "delay_on_commit" in str(warned[0].message)
        assert celery_outbox[0].transaction == "atomic"

    @pytest.mark.celery_sent_in_transaction("error")
    def test_raises_at_the_call(celery_outbox):
        with pytest.raises(SentInTransactionError, match="delay_on_commit"):
            place_order()
        assert celery_outbox == []
        assert Order.objects.count() == 0

    @pytest.mark.celery_sent_in_transaction("error")
    def test_a_hook_is_the_remedy(celery_outbox):
        with transaction.atomic():
            order = Order.objects.create()
            ship.delay_on_commit(order.pk)
            assert celery_outbox == []
        assert celery_outbox == [ship.s(order.pk)]
        assert celery_outbox.after_commit == [ship.s(order.pk)]

    @pytest.mark.celery_sent_in_transaction("error")
    def test_after_the_block_is_no_race(celery_outbox):
        with transaction.atomic():
            order = Order.objects.create()
        ship.delay(order.pk)
        assert celery_outbox[0].transaction == "autocommit"

    def test_eager_mode_does_not_hide_it(celery_eager):
        with pytest.warns(SentInTransactionWarning, match="shop.tasks.ship"):
            place_order()
    """


@pytest.mark.parametrize("real", [False, True], ids=["rollback", "commits"])
def test_pitfall_31_a_message_sent_before_the_commit_is_detected(run: Run, real: bool) -> None:  # noqa: FBT001 - a parameter of the test
    run(SENT_BEFORE_THE_COMMIT.format(real=real)).assert_outcomes(passed=5)


@pytest.mark.parametrize("real", [False, True], ids=["rollback", "commits"])
def test_pitfall_35_one_record_of_the_hooks_for_both_modes_and_all_databases(
    project: Project,
    real: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    project.settings(TWO_DATABASES)
    result = project.run(
        f"""
        import pytest
        from django.db import transaction
        from shop.tasks import add

        pytestmark = pytest.mark.django_db(transaction={real}, databases=["default", "other"])

        @pytest.mark.parametrize("using", ["default", "other"])
        def test_each(celery_on_commit, celery_outbox, using):
            with transaction.atomic(using=using):
                transaction.on_commit(lambda: add.delay(1, 2), using=using)
                assert [hook.using for hook in celery_on_commit.pending] == [using]
            [hook] = celery_on_commit.ran
            assert hook.using == using
            assert list(hook.sent) == [add.s(1, 2)]
            assert celery_outbox.after_commit == [add.s(1, 2)]

        def test_both_in_one(celery_on_commit, celery_outbox):
            with transaction.atomic(), transaction.atomic(using="other"):
                transaction.on_commit(lambda: add.delay(1, 1))
                transaction.on_commit(lambda: add.delay(2, 2), using="other")
            assert [hook.using for hook in celery_on_commit.ran] == ["other", "default"]
            assert celery_outbox == [add.s(2, 2), add.s(1, 1)]

        def test_at_once_outside_any_block(celery_on_commit, celery_outbox):
            transaction.on_commit(lambda: add.delay(1, 2))
            assert len(celery_on_commit.ran) == 1
            assert celery_outbox.after_commit == [add.s(1, 2)]
        """,
        "-W",
        "ignore::pytest_djcelery.SentInTransactionWarning",
    )
    result.assert_outcomes(passed=4)


@pytest.mark.parametrize("real", [False, True], ids=["rollback", "commits"])
def test_pitfall_36_a_task_sent_on_commit_has_its_id_in_the_record(run: Run, real: bool) -> None:  # noqa: FBT001 - a parameter of the test
    result = run(f"""
        import pytest
        from django.db import transaction
        from pytest_djcelery import Success
        from shop.tasks import add

        pytestmark = pytest.mark.django_db(transaction={real})

        def test_record(celery_outbox, celery_on_commit):
            with transaction.atomic():
                assert add.delay_on_commit(1, 2) is None
            [sent] = celery_outbox
            [hook] = celery_on_commit.ran
            assert sent.id == hook.sent[0].id
            assert len(sent.id) == 36

        def test_outcome_by_that_id(celery_eager, celery_outbox, celery_results):
            with transaction.atomic():
                add.delay_on_commit(1, 2)
            assert celery_results[celery_outbox.one(add.s(1, 2)).id] == Success(3)

        def test_outcome_of_the_task(celery_eager, celery_results):
            with transaction.atomic():
                add.delay_on_commit(1, 2)
                add.delay_on_commit(3, 4)
            assert celery_results.of(add) == [Success(3), Success(7)]
        """)
    result.assert_outcomes(passed=3)
