"""Inside a task"""

from __future__ import annotations

import pytest
from django.db import IntegrityError, transaction
from shop.contract import inside
from shop.models import Order

from pytest_djcelery import Failure, Success

pytestmark = pytest.mark.django_db


def test_get_inside_a_task_is_refused(work):
    """`get()` inside a task is refused"""
    assert work(inside.get_inside.s(1)) == Failure(RuntimeError, match=r"Never call result.get")
    work.settle()


def test_get_inside_a_task_can_be_allowed(work):
    """`allow_join_result` allows it, and the other task runs meanwhile"""
    assert work(inside.allow_get_inside.s(2)) == Success(4)


def test_get_inside_a_task_waits_for_a_group(work):
    """A task waits for the results of a group"""
    assert work(inside.join_inside.s([1, 2, 3])) == Success([2, 4, 6])


def test_get_inside_a_task_that_another_waits_for(work):
    """A task waits for a task that waits for another"""
    # Two processes are not enough for more.
    assert work(inside.get_three_deep.s(1)) == Success(1)


def test_get_inside_a_task_raises_the_failure(work):
    """The task that waits can handle the failure of the other"""
    assert work(inside.get_a_failure_inside.s()) == Success("caught inside")
    work.looked_at_everything()


def test_a_task_writes_what_the_test_reads(work):
    """A task writes what the test reads"""
    outcome = work(inside.make_order.s("bound"))
    assert Order.objects.get(pk=outcome.value).name == "bound"


def test_a_task_reads_what_the_test_wrote(work):
    """A task reads what the test wrote"""
    Order.objects.create()
    assert work(inside.count_orders.s()) == Success(1)


def test_a_task_sees_only_what_is_committed(work, log):
    """A task sees only what is committed"""
    inside.note_orders.apply_async(countdown=0.3)
    with transaction.atomic():
        Order.objects.create()
        work.later(0.5)
        assert log == [("orders", 0)]


def test_a_transaction_of_a_failing_task_is_rolled_back(work):
    """`atomic` in a task that fails is rolled back"""
    assert work(inside.roll_back.s()) == Failure(ValueError)
    assert not Order.objects.exists()


def test_a_task_goes_on_after_a_database_error(work):
    """A task continues after a database error"""
    order = Order.objects.create()
    assert work(inside.make_again.s(order.pk)) == Success(2)
    assert Order.objects.filter(name="after").exists()


def test_a_retry_after_a_database_error(work):
    """A retry after a database error"""
    order = Order.objects.create()
    assert work(inside.make_next.s(order.pk)) == Success(order.pk + 1, retries=1)


def test_a_database_error_ends_its_task_alone(work):
    """A database error ends its task, and no other"""
    order = Order.objects.create()
    assert work(inside.make.s(order.pk)) == Failure(IntegrityError)
    assert work(inside.make.s(order.pk + 1)) == Success(order.pk + 1)
    assert Order.objects.count() == 2


def test_on_commit_in_a_task(work, log):
    """`on_commit` hooks of a task run as its block ends"""
    work(inside.remember_on_commit.s())
    assert log == ["in the block", "hook", "after the block"]


def test_delay_on_commit_in_a_task(work, log):
    """`delay_on_commit` in a task publishes after the commit"""
    work(inside.publish_on_commit.s())
    work.settle()
    assert log == ["in the block", ("published",)]


def test_django_is_set_up(work, settings):
    """Django's settings are the test run's, with `DEBUG` off"""
    assert work(inside.tell_settings.s()) == Success([settings.ROOT_URLCONF, False])


def test_the_logger_of_a_task(work):
    """`get_task_logger` logs"""
    heard = [["shop.contract.inside", "a line of the task"]]
    assert work(inside.write_to_log.s()) == Success(heard)
