"""Tests as suites have them, which use nothing of the plugin, and many hooks."""

import os
from functools import partial

import pytest
from django.db import transaction
from shop.models import Order
from shop.tasks import add

COUNT = int(os.environ["BENCHMARK_COUNT"])
HOOKS_OF_A_TEST = 1000


def place(number: int) -> Order:
    """Do what a view does: write, and send a task after the commit."""
    with transaction.atomic():
        order = Order.objects.create(name=f"order {number}")
        Order.objects.filter(pk=order.pk).update(name="placed")
        transaction.on_commit(partial(add.delay, order.pk, 1))
    return order


@pytest.mark.django_db
@pytest.mark.parametrize("number", range(COUNT))
def test_of_a_suite(number: int) -> None:
    """Set something up, call the code, look at what it wrote."""
    Order.objects.bulk_create([Order(name=f"old {each}") for each in range(3)])
    order = place(number)
    order.refresh_from_db()
    assert order.name == "placed"
    assert Order.objects.filter(name__startswith="old").count() == 3  # noqa: PLR2004 - as many as were made
    assert Order.objects.exclude(pk=order.pk).exists()


@pytest.mark.django_db
@pytest.mark.parametrize("number", range(COUNT // HOOKS_OF_A_TEST))
def test_hooks(number: int) -> None:
    """Register many hooks, none of which runs."""
    for each in range(HOOKS_OF_A_TEST):
        transaction.on_commit(partial(add.delay, number, each))
