"""Messages that are run twice: what the second run did is told, and taken back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project, Run

TASKS = """
    from django.contrib.auth.models import Group, User
    from django.core.mail import send_mail
    from django.db import transaction
    from django.utils import timezone


    @shared_task
    def charge(order_id):
        Order.objects.create(name="payment")
        Order.objects.filter(pk=order_id).update(name="paid")  # as it is already, the second time
        Order.objects.filter(name="audit").first().delete()
        send_mail("Welcome, ada", "Hello", None, ["ada@example.com"])
        transaction.on_commit(lambda: add.delay(1, 2))
        ship.delay(order_id)


    @shared_task
    def extend(order_id):
        order = Order.objects.get(pk=order_id)
        order.name += "!"
        order.save()


    @shared_task
    def stamp(order_id):
        Order.objects.filter(pk=order_id).update(name=timezone.now().isoformat())
    """


@pytest.fixture
def shop(project: Project) -> Project:
    """A project with tasks that are safe to run twice, and others."""
    project.tasks(TASKS)
    return project


def test_a_test_fails_by_what_the_second_run_does_and_goes_on_as_after_the_first(
    shop: Project, run: Run
) -> None:
    result = run(
        """
        import pytest
        from pytest_djcelery import Success
        from shop.models import Order
        from shop.tasks import add, charge, ship

        @pytest.mark.django_db
        @pytest.mark.celery_redeliver
        def test_charge(
            celery_inline, celery_outbox, celery_on_commit, celery_results, mailoutbox
        ):
            order = Order.objects.create(name="new")
            Order.objects.bulk_create([Order(name="audit"), Order(name="audit")])
            result = charge.delay(order.pk)
            summary = celery_inline.run()
            assert (summary.succeeded, summary.failed) == (3, 0)
            first, second, *_ = summary.executions
            assert (first.redelivered, second.redelivered) == (False, True)
            assert first.message is second.message
            assert celery_outbox == [charge.s(order.pk), add.s(1, 2), ship.s(order.pk)]
            assert [mail.subject for mail in mailoutbox] == ["Welcome, ada"]
            assert len(celery_on_commit.ran) == 1
            assert [change.state for change in celery_results.history(result)] == ["SUCCESS"]
            assert celery_results[result] == Success(None)
            names = ["audit", "payment", "shipped"]
            assert sorted(Order.objects.values_list("name", flat=True)) == names
            assert not celery_inline.pending
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "NotIdempotentError: A task is not safe to run twice. Its message was delivered *",
            "  shop.tasks.charge(1) [[]*]",
            "    INSERT shop_order: 1 row",
            "    DELETE shop_order: 1 row",
            "    published shop.tasks.add(1, 2)",
            "    published shop.tasks.ship(1)",
            '    mail "Welcome, ada" to ada@example.com',
            "  @pytest.mark.celery_redeliver(exempt=[[]charge])",
            "  djcelery_redeliver_exempt = shop.tasks.charge",
            "FAILED test_it.py::test_charge - pytest_djcelery.errors.NotIdempotentError: A*",
        ]
    )
    result.stdout.no_fnmatch_line("*def pytest_runtest_call*")
