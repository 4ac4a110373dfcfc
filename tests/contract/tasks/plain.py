"""Tasks that compute, and tell what they were given."""

from __future__ import annotations

from celery import shared_task
from shop.contract.log import LOG


@shared_task
def add(x, y):
    return x + y


@shared_task
def double(x):
    return 2 * x


@shared_task
def total(numbers):
    return sum(numbers)


@shared_task
def echo(value):
    return value


@shared_task
def remember(*args):
    LOG.append(args)


@shared_task
def tell_type(value):
    return [type(value).__name__, str(value)]


@shared_task
def return_object():
    return object()


@shared_task
def return_tuple():
    return (1, {2: 3})


@shared_task
def append_to(numbers):
    numbers.append("changed")
    return numbers


@shared_task(name="shop.contract.routed")
def routed():
    return "here"


@shared_task(ignore_result=True)
def ignored_result(x):
    LOG.append(x)
    return x


@shared_task(bind=True)
def with_priority(self):
    return self.request.delivery_info["priority"]
