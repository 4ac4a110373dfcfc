"""The request"""

from __future__ import annotations

from datetime import timedelta

import pytest
from celery import chain, group
from django.utils import timezone
from shop.contract import plain, requests

from pytest_djcelery import Success

pytestmark = pytest.mark.django_db


def test_the_request_of_a_plain_task(work, celery_outbox):
    """`self.request` of a plain task: id, lineage, arguments, origin"""
    outcome = work(requests.tell_request.s(1, a=2))
    request, sent = outcome.value, celery_outbox[-1]
    assert request["id"] == request["root_id"] == request["correlation_id"] == sent.id
    assert request["parent_id"] is None
    assert request["group"] is None
    assert request["task"] == "shop.contract.requests.tell_request"
    assert (request["args"], request["kwargs"]) == ([1], {"a": 2})
    assert request["called_directly"] is False
    assert request["retries"] == 0
    assert request["origin"] is True
    assert request["timelimit"] in ([None, None], (None, None))


def test_is_eager_is_false(work):
    """`self.request.is_eager` is false"""
    assert work(requests.tell_request.s()).value["is_eager"] is False


def test_the_hostname(work):
    """`self.request.hostname` is the worker's node name"""
    assert work(requests.tell_request.s()).value["hostname"].startswith("celery@")


def test_the_delivery_info(work):
    """`self.request.delivery_info`: exchange, routing key, priority, redelivered"""
    info = work(requests.tell_request.s().set(priority=7)).value["delivery_info"]
    assert info["exchange"] == ""
    assert info["routing_key"] == "celery"
    assert info["priority"] == 7
    assert info["redelivered"] is False


def test_headers_reach_the_request(work):
    outcome = work(requests.tell_request.s().set(headers={"tenant": "acme"}))
    assert outcome.value["headers"] == {"tenant": "acme"}


def test_stamps_reach_the_request(work):
    signature = requests.tell_request.s()
    signature.stamp(tenant="acme")
    assert work(signature).value["stamps"] == {"tenant": "acme"}


def test_the_time_limits_of_a_message_reach_the_request(work):
    outcome = work(requests.tell_request.s().set(time_limit=60, soft_time_limit=50))
    assert list(outcome.value["timelimit"]) == [60, 50]


def test_eta_and_expiry_reach_the_request(work):
    """ETA and expiry reach the request"""
    request = work(requests.tell_request.s()).value
    assert (request["eta"], request["expires"]) == (False, False)
    signature = requests.tell_request.s().set(
        eta=timezone.now(), expires=timezone.now() + timedelta(hours=1)
    )
    request = work(signature).value
    assert (request["eta"], request["expires"]) == (True, True)


def test_shadow_and_argsrepr(work):
    """The shadow name and `argsrepr` reach the request"""
    request = work(requests.tell_request.s().set(shadow="other", argsrepr="(secret)")).value
    assert (request["shadow"], request["argsrepr"]) == ("other", "(secret)")


def test_links_are_in_the_request(work):
    """Links and error links are in the request"""
    signature = requests.tell_request.s().set(
        link=plain.remember.s(), link_error=plain.remember.si()
    )
    request = work(signature).value
    assert request["callbacks"] == ["shop.contract.plain.remember"]
    assert request["errbacks"] == ["shop.contract.plain.remember"]


def test_a_task_id_chosen_at_the_call(work):
    """A task id can be given at the call"""
    result = plain.add.apply_async((1, 2), task_id="my-own-id")
    assert result.id == "my-own-id"
    assert work.outcome("my-own-id") == Success(3)


def test_a_child_knows_root_and_parent(work, celery_outbox):
    """A task that a task publishes knows its root and its parent"""
    outcome = work(requests.publish.s(1))
    work.settle()
    parent, child = celery_outbox
    assert outcome == Success(child.id)
    assert (child.root_id, child.parent_id) == (parent.id, parent.id)


def test_the_lineage_of_a_chain(work):
    """The tasks of a chain have one root, and each has the previous one as its parent"""
    result = chain(plain.echo.s(1), requests.tell_lineage.s(), requests.tell_lineage.s())()
    work.outcome(result)
    third, second, first = result, result.parent, result.parent.parent
    assert second.get()[:3] == [second.id, first.id, first.id]
    assert third.get()[:3] == [third.id, first.id, second.id]


def test_the_rest_of_a_chain_is_in_the_request(work):
    """The rest of a chain is in the request"""
    result = chain(requests.tell_chain.s(), plain.echo.s(), plain.echo.s())()
    assert work.outcome(result) == Success(["shop.contract.plain.echo"] * 2)


def test_the_members_of_a_group_know_it(work):
    """The members of a group know its id"""
    result = group(requests.tell_lineage.s(), requests.tell_lineage.s()).apply_async()
    assert {member[3] for member in result.get(timeout=10)} == {result.id}
    work.settle()


def test_current_task_and_app(work):
    """`current_task` and `current_app` are the task's"""
    outcome = work(requests.tell_current.s())
    name, task_id, app = outcome.value
    assert (name, app) == ("shop.contract.requests.tell_current", "proj")
    assert task_id


def test_a_task_called_directly_is_a_function(work):
    """A task that calls another as a function runs it in place, with its own request"""
    assert work(requests.call_directly.s()) == Success([True, False])


def test_a_custom_request_class(work, log):
    """A custom request class is used"""
    assert work(requests.watched.s()) == Success("seen")
    assert log == ["request of shop.contract.requests.watched accepted"]
