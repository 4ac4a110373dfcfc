"""Publishing and routing"""

from __future__ import annotations

import json

import pytest
from celery import Signature, signals
from django.db import transaction
from shop.contract import plain, requests
from shop.models import Order

from pytest_djcelery import Success

pytestmark = pytest.mark.django_db


def test_task_routes(work, celery_outbox):
    """`task_routes` choose the queue"""
    assert work(plain.routed.s()) == Success("here")
    assert celery_outbox[0].queue == "elsewhere"


def test_a_queue_chosen_at_the_call(work):
    """A queue can be chosen at the call"""
    info = work(requests.tell_request.s().set(queue="elsewhere")).value["delivery_info"]
    assert info["routing_key"] == "elsewhere"


def test_an_exchange_with_a_routing_key(work):
    """A topic exchange routes by the routing key"""
    signature = requests.tell_request.s().set(queue="topical", routing_key="order.made")
    assert work(signature).value["delivery_info"]["routing_key"] == "order.made"


def test_send_task_by_name(work, celery_app):
    """`send_task` publishes by name"""
    result = celery_app.send_task("shop.contract.plain.add", (1, 2))
    assert work.outcome(result) == Success(3)


def test_a_signature_travels_as_json(work, celery_app):
    """A signature that was stored as JSON can be published"""
    stored = json.loads(json.dumps(plain.add.s(1, 2)))
    assert work(Signature.from_dict(stored, app=celery_app)) == Success(3)


def test_a_receiver_can_add_headers(work):
    """A receiver of `before_task_publish` can add headers"""

    def add_tenant(headers, **_):
        headers["tenant"] = "added"

    signals.before_task_publish.connect(add_tenant)
    try:
        assert work(requests.tell_request.s()).value["headers"] == {"tenant": "added"}
    finally:
        signals.before_task_publish.disconnect(add_tenant)


def test_the_priority_of_a_task(work, celery_outbox):
    """`task_routes` give a priority"""
    work(plain.with_priority.s())
    assert celery_outbox[0].priority == 4


def test_tasks_that_publish_tasks(work, log):
    """Tasks publish tasks that publish tasks"""
    work(requests.publish_three_deep.s(3))
    work.settle()
    assert log == [3, 2, 1, 0]


def test_what_a_task_publishes_is_known_with_its_outcome(work, celery_results, celery_outbox):
    """Whoever has a task's outcome knows the messages that it sent"""
    for number in range(10):
        result = requests.publish.delay(number)
        child = celery_results[result].value
        assert celery_outbox[-1].id == child
        assert celery_results[child] == Success(2 * number)
    work.settle()


def test_delay_on_commit(work, log):
    """`delay_on_commit` publishes after the commit"""
    with transaction.atomic():
        Order.objects.create()
        plain.remember.delay_on_commit("committed")
        work.settle()
        assert log == []
    work.settle()
    assert log == [("committed",)]


def test_delay_on_commit_and_a_rollback(work, log, celery_outbox):
    """`delay_on_commit` publishes nothing when the transaction rolls back"""
    with transaction.atomic():
        plain.remember.delay_on_commit("never")
        transaction.set_rollback(True)
    work.settle()
    assert log == []
    assert celery_outbox == []
