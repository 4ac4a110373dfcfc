"""Delivery: acknowledgement, reject, revoke, expiry, ETA"""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from celery import chain, group
from django.utils import timezone
from kombu.utils.uuid import uuid
from shop.contract import delivery, plain, processes

from pytest_djcelery import Failure, Revoked, Success

pytestmark = pytest.mark.django_db


def test_publishing_does_not_run(work, log):
    """A task runs after the call, not inside it"""
    result = processes.meet.delay("the task", "after the call", 3)
    log.append("after the call")
    assert work.outcome(result) == Success("together")


@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_nothing_is_left_unacknowledged(work, late, fails):
    """A message is acknowledged, early or late, whether the task fails or not"""
    task = delivery.late if late else delivery.early
    work(task.s(fails=fails))
    work.settle()
    work.until(lambda: work.unacknowledged() == 0)


def test_a_failure_that_is_not_acknowledged_is_rejected(work, log):
    """`acks_on_failure_or_timeout=False` rejects the message of a failed task"""
    assert work(delivery.not_acknowledged_on_failure.s()) == Failure(ValueError)
    assert log == ["ran"]
    work.until(lambda: work.unacknowledged() == 0)


def test_ignore_stores_nothing(work, celery_app):
    """`Ignore` stores nothing"""
    result = delivery.ignore.delay()
    work.settle()
    assert celery_app.AsyncResult(result.id).state == "PENDING"


def test_ignore_leaves_a_state(work, celery_app):
    """`Ignore` leaves the state that the task has set"""
    result = delivery.ignore_after_a_state.delay()
    work.settle()
    assert celery_app.AsyncResult(result.id).state == "SKIPPED"


def test_reject_drops_the_message(work, log):
    """`Reject` drops the message"""
    delivery.reject.delay()
    work.settle()
    assert log == ["reject"]


def test_reject_with_requeue_delivers_it_again(work, log):
    """`Reject(requeue=True)` delivers it again, marked as redelivered"""
    result = delivery.reject.delay(requeue=True)
    assert work.outcome(result).value is True
    assert log == ["reject"] * 3


def test_revoke_by_id(work, log, celery_app):
    """A task that was revoked by its id does not run"""
    task_id = uuid()
    celery_app.control.revoke(task_id, **work.obeyed)
    work.settle()
    assert work(plain.remember.s(1).set(task_id=task_id)) == Revoked()
    assert log == []


def test_revoke_by_stamped_header(work, log, celery_app):
    """A task that was revoked by a stamped header does not run"""
    signature = plain.remember.s(1)
    signature.stamp(tenant="acme")
    celery_app.control.revoke_by_stamped_headers({"tenant": "acme"}, **work.obeyed)
    work.settle()
    assert work(signature) == Revoked()
    assert log == []


def test_revoke_of_a_group(work, log):
    """A group can be revoked"""
    result = group(plain.remember.s(n) for n in range(2)).apply_async(countdown=1.5)
    result.revoke()
    work.later(1.6)
    assert [work.outcome(each) for each in result.results] == [Revoked(), Revoked()]
    assert log == []


def test_a_revoked_task_stops_its_chain(work, log):
    result = chain(plain.remember.s(1), plain.remember.s(2)).apply_async(
        expires=timezone.now() - timedelta(seconds=5)
    )
    work.settle()
    assert log == []
    assert result.parent.state == "REVOKED"


def test_an_expired_message_is_revoked(work, log):
    result = plain.remember.apply_async((1,), expires=timezone.now() - timedelta(seconds=5))
    assert work.outcome(result) == Revoked()
    assert log == []


def test_a_message_that_has_not_expired_runs(work):
    assert work(plain.add.s(1, 2).set(expires=60)) == Success(3)


def test_a_message_that_expires_before_its_eta(work, log):
    """A message that expires before its ETA does not run"""
    result = plain.remember.apply_async((1,), countdown=0.4, expires=0.1)
    work.later(0.6)
    assert work.outcome(result) == Revoked()
    assert log == []


def test_a_countdown_is_kept(work):
    called = time.time()
    result = processes.tell_time.apply_async(countdown=0.3)
    work.later(0.5)
    assert work.outcome(result).value - called >= 0.3


def test_an_eta_that_has_passed(work):
    """A message whose ETA has passed runs at once"""
    signature = plain.add.s(1, 2).set(eta=timezone.now() - timedelta(hours=1))
    assert work(signature) == Success(3)


def test_etas_are_kept_in_order(work, log):
    """Messages run in the order of their ETAs, not of their publication"""
    later = plain.remember.apply_async(("second",), countdown=1.2)
    sooner = plain.remember.apply_async(("first",), countdown=0.2)
    work.later(1.4)
    assert [work.outcome(each) for each in (sooner, later)] == [Success(None)] * 2
    assert log == [("first",), ("second",)]
