"""``celery_faults``: what production does to tasks, on purpose.

A gateway is down, a worker is killed after the charge, a message is delivered twice, the broker is
away as an order commits. No test does that by itself, so the code for it is never run before it has
to work. Each trouble is here twice: the code that has it, whose test fails as it should, and the
code that doesn't.
"""

from datetime import timedelta

import pytest
from celery import chord
from kombu.exceptions import OperationalError

from demoapp import gateway
from demoapp.models import Order
from demoapp.services import buy
from demoapp.tasks import (
    charge,
    charge_once,
    charge_what_is_left,
    choose_carrier,
    price_of,
    price_of_for_sure,
    send_email,
    send_email_once,
)

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def charges():
    gateway.charges.clear()
    return gateway.charges


@pytest.fixture
def order(db):
    return Order.objects.create(amount=30)


# A charge that is made twice ----------------------------------------------------------------


@pytest.mark.xfail(raises=AssertionError, strict=True, reason="the card is charged twice")
def test_a_worker_dies_after_the_charge(order, charges, celery_inline, celery_faults):
    celery_faults.lose_worker(charge, at=gateway.charge)
    charge.delay(order.pk)
    summary = celery_inline.run()
    assert (summary.lost, summary.succeeded) == (1, 1)  # the message came back, and ran again
    assert len(charges) == 1


def test_a_charge_with_a_key_is_made_once(order, charges, celery_inline, celery_faults):
    celery_faults.lose_worker(charge_once, at=gateway.charge)
    charge_once.delay(order.pk)
    celery_inline.run()
    assert len(charges) == 1
    order.refresh_from_db()
    assert order.paid


# A mail that is sent twice ------------------------------------------------------------------


@pytest.mark.xfail(raises=AssertionError, strict=True, reason="the mail is sent twice")
def test_the_broker_delivers_a_mail_again(user, mailoutbox, celery_inline, celery_faults):
    celery_faults.duplicate(send_email)
    send_email.delay(user.pk)
    celery_inline.run()
    assert len(mailoutbox) == 1


def test_a_mail_that_is_remembered_is_sent_once(user, mailoutbox, celery_inline, celery_faults):
    celery_faults.duplicate(send_email_once)
    send_email_once.delay(user.pk)
    assert celery_inline.run().succeeded == 2  # it has run twice
    assert len(mailoutbox) == 1


# An order that is lost ----------------------------------------------------------------------


@pytest.mark.xfail(raises=AssertionError, strict=True, reason="nobody ever charges it")
def test_the_broker_is_down_as_an_order_commits(charges, celery_inline, celery_faults):
    celery_faults.broker_down()
    with pytest.raises(OperationalError):
        buy(30)
    assert Order.objects.count() == 1  # the row is there, and its message is not
    celery_inline.run()
    assert len(charges) == 1


def test_what_is_left_is_charged_by_the_schedule(charges, celery_inline, celery_faults):
    with celery_faults.broker_down(), pytest.raises(OperationalError):
        buy(30)
    charge_what_is_left.delay()
    celery_inline.run()
    assert len(charges) == 1


# A chord that hangs -------------------------------------------------------------------------


@pytest.mark.xfail(raises=AssertionError, strict=True, reason="the last price never comes")
def test_one_worker_of_a_chord_is_lost(order, celery_inline, celery_faults):
    celery_faults.lose_worker(price_of.s("post", order.pk), host=True)
    prices = [price_of.s(carrier, order.pk) for carrier in ("post", "express")]
    chord(prices)(choose_carrier.s(order.pk))
    celery_inline.run()
    order.refresh_from_db()
    assert order.carrier == "post"


def test_a_price_that_comes_back_completes_the_chord(order, celery_inline, celery_faults):
    celery_faults.lose_worker(price_of_for_sure.s("post", order.pk), host=True)
    prices = [price_of_for_sure.s(carrier, order.pk) for carrier in ("post", "express")]
    chord(prices)(choose_carrier.s(order.pk))
    celery_inline.run()
    order.refresh_from_db()
    assert order.carrier == "post"


# A gateway that is down, or slow ------------------------------------------------------------


def test_a_gateway_that_is_down_twice(order, charges, celery_inline, celery_faults):
    celery_faults.fail(charge_once, ConnectionError("the gateway is down"), times=2)
    charge_once.delay(order.pk)
    summary = celery_inline.run(until=timedelta(minutes=5))
    assert (summary.retried, summary.succeeded) == (2, 1)
    assert len(charges) == 1


def test_a_gateway_that_does_not_answer(order, charges, celery_inline, celery_faults):
    celery_faults.time_out(charge_once, at=gateway.charge)  # and no time passes
    charge_once.delay(order.pk)
    assert celery_inline.run().retried == 1
    assert charges == []  # the call did not return, and charged nothing


# A task of another service ------------------------------------------------------------------


def test_a_service_that_is_not_here(celery_app, celery_inline, celery_faults):
    invoices = celery_faults.stub("billing.invoice", returns="R-1")
    result = celery_app.send_task("billing.invoice", (30,))
    assert result.get() == "R-1"
    assert invoices.calls == [celery_app.signature("billing.invoice", args=(30,))]
