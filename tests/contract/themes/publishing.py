"""Publishing and routing"""

from __future__ import annotations

import json

import pytest
from celery import Signature, signals
from django.db import transaction
from shop.contract import plain, requests
from shop.models import Order

from pytest_djcelery import Pending, QueueNotConsumedWarning, Success

pytestmark = pytest.mark.django_db


def test_task_routes(work, celery_outbox):
    """`task_routes` choose the queue"""
    assert work(plain.routed.s()) == Success("here")
    assert celery_outbox[0].queue == "elsewhere"


def test_a_queue_chosen_at_the_call(work):
    """A queue can be chosen at the call"""
    info = work(requests.tell_request.s().set(queue="elsewhere")).value["delivery_info"]
    assert info["routing_key"] == "elsewhere"


def test_a_queue_that_no_worker_consumes(work, log, celery_results):
    """A message in a queue that no worker consumes stays there, and gives a warning"""
    with pytest.warns(QueueNotConsumedWarning, match="is in the queue 'nowhere'"):
        result = plain.remember.apply_async(("never",), queue="nowhere")
    with pytest.warns(QueueNotConsumedWarning):
        work.settle()
    assert log == []
    assert celery_results.now(result) == Pending()


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


@pytest.fixture
def added():
    """What a receiver of `before_task_publish` adds."""
    added = {"headers": {}, "properties": {}, "arguments": {}}

    def receiver(headers=None, properties=None, body=None, **_):
        headers.update(added["headers"])
        properties.update(added["properties"])
        body[1].update(added["arguments"])

    signals.before_task_publish.connect(receiver)
    yield added
    signals.before_task_publish.disconnect(receiver)


def test_the_outbox_has_what_receivers_add(work, celery_outbox, added):
    """The outbox has what receivers of `before_task_publish` add: headers, options, arguments"""
    added["headers"]["tenant"] = "added"
    added["properties"]["priority"] = 7
    added["arguments"]["shelf"] = "B"
    received = work(requests.tell_request.s(1)).value
    assert (received["headers"], received["kwargs"]) == ({"tenant": "added"}, {"shelf": "B"})
    assert received["priority"] == 7
    [sent] = celery_outbox
    assert (sent.headers["tenant"], sent.priority) == ("added", 7)
    assert celery_outbox == [requests.tell_request.s(1, shelf="B").set(headers={"tenant": "added"})]


def test_headers_cross_the_broker_as_bytes(work, celery_outbox):
    """Headers cross the broker as bytes: a tuple arrives as a list"""
    received = work(requests.tell_request.s().set(headers={"tenant": {"ids": (1, (2, "3"))}}))
    assert received.value["headers"] == {"tenant": {"ids": [1, [2, "3"]]}}
    assert celery_outbox[0].headers["tenant"] == {"ids": [1, [2, "3"]]}


def test_what_changes_after_the_call_reaches_no_task(work, celery_outbox):
    """A header or an argument that changes after the call does not reach the task"""
    tenant, shelf = {"name": "acme"}, ["A"]
    result = requests.tell_request.apply_async((shelf,), headers={"tenant": tenant}, countdown=0.3)
    tenant["name"] = "changed"
    shelf.append("B")
    work.later(0.3)
    received = work.outcome(result).value
    assert (received["headers"], received["args"]) == ({"tenant": {"name": "acme"}}, [["A"]])
    assert celery_outbox[0].headers["tenant"] == {"name": "acme"}
    assert celery_outbox[0].args == [["A"]]


@pytest.mark.parametrize("value", [{1, 2}, object(), {"deep": [{"set": {1}}]}], ids=type)
def test_a_header_that_no_broker_carries(work, celery_outbox, value):
    """A header that can't be encoded is an error at the call, and nothing is sent"""
    with pytest.raises(Exception, match=r"set|object"):
        requests.tell_request.apply_async(headers={"tenant": value})
    work.settle()
    assert celery_outbox == []


def test_a_header_of_a_receiver_that_no_broker_carries(work, celery_outbox, added):
    """A header from a receiver that can't be encoded is also an error at the call"""
    added["headers"]["tenant"] = {1, 2}
    with pytest.raises(Exception, match="set"):
        requests.tell_request.delay()
    work.settle()
    assert celery_outbox == []


def test_the_priority_of_a_task(work, celery_outbox):
    """`task_routes` give a priority"""
    assert work(plain.with_priority.s()) == Success(4)
    assert celery_outbox[0].priority == 4


def test_tasks_that_publish_tasks(work, log):
    """Tasks publish tasks that publish tasks"""
    work(requests.publish_three_deep.s(3))
    work.settle()
    assert log == [3, 2, 1, 0]


def test_what_a_task_publishes_is_known_with_its_outcome(work, celery_results, celery_outbox):
    """With a task's outcome, the messages that it sent are known"""
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
