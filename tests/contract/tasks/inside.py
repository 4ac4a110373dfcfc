"""Tasks that use what is around them: results of others, the database, the mail, the log."""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial

from celery import group, shared_task
from celery.result import allow_join_result
from celery.utils.log import get_task_logger
from django.conf import settings
from django.db import IntegrityError, transaction
from shop.contract.failing import fail
from shop.contract.log import LOG
from shop.contract.plain import double, remember
from shop.models import Order

logger = get_task_logger(__name__)


@shared_task
def get_inside(x):
    return double.delay(x).get()


@shared_task
def allow_get_inside(x):
    with allow_join_result():
        LOG.append("allowed")
        return double.delay(x).get(timeout=10)


@shared_task
def join_inside(numbers):
    with allow_join_result():
        return group(double.s(number) for number in numbers)().join(timeout=10)


@shared_task
def get_three_deep(depth):
    with allow_join_result():
        return get_three_deep.delay(depth - 1).get(timeout=10) + 1 if depth else 0


@shared_task
def get_a_failure_inside():
    with allow_join_result():
        try:
            fail.delay("inside").get(timeout=10)
        except ValueError as error:
            return f"caught {error}"


@shared_task
def make_order(name):
    return Order.objects.create(name=name).pk


@shared_task
def count_orders():
    return Order.objects.count()


@shared_task(ignore_result=True)
def note_orders():
    LOG.append(("orders", Order.objects.count()))


@shared_task
def roll_back():
    with transaction.atomic():
        Order.objects.create(name="never")
        raise ValueError("rolled back")


@shared_task
def make(pk):
    return Order.objects.create(pk=pk).pk


@shared_task
def make_again(pk):
    with suppress(IntegrityError):
        Order.objects.create(pk=pk)
    Order.objects.create(pk=pk + 1, name="after")
    return Order.objects.count()


@shared_task(bind=True, autoretry_for=(IntegrityError,), default_retry_delay=0)
def make_next(self, pk):
    return Order.objects.create(pk=pk + self.request.retries).pk


@shared_task
def remember_on_commit():
    with transaction.atomic():
        transaction.on_commit(partial(LOG.append, "hook"))
        LOG.append("in the block")
    LOG.append("after the block")


@shared_task
def publish_on_commit():
    with transaction.atomic():
        remember.delay_on_commit("published")
        LOG.append("in the block")


@shared_task
def tell_settings():
    return [settings.ROOT_URLCONF, settings.DEBUG]


@shared_task
def write_to_log():
    heard = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append([record.name, record.getMessage()])
    logger.addHandler(handler)
    try:
        logger.warning("a line of %s", "the task")
    finally:
        logger.removeHandler(handler)
    return heard
