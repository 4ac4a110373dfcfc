"""Arguments and results"""

from __future__ import annotations

import json
from datetime import date, datetime
from datetime import timezone as dt_timezone
from decimal import Decimal
from uuid import UUID

import pytest
from kombu.exceptions import EncodeError
from kombu.serialization import registry
from shop.contract import plain, requests

from pytest_djcelery import Failure, Success

pytestmark = pytest.mark.django_db

registry.register("unwanted", json.dumps, json.loads, "application/x-unwanted", "utf-8")


def test_a_result_comes_back(work):
    assert work(plain.add.s(1, 2)) == Success(3)


def test_arguments_go_through_the_serializer(work):
    assert work(requests.tell_request.s((1, 2), k={3: 4})).value["args"] == [[1, 2]]
    assert work(requests.tell_request.s(k={3: 4})).value["kwargs"] == {"k": {"3": 4}}


def test_arguments_are_copies(work):
    """A task that changes an argument does not change the caller's"""
    numbers = [1]
    assert work(plain.append_to.s(numbers)) == Success([1, "changed"])
    assert numbers == [1]


def test_an_argument_that_cannot_be_serialized_fails_at_the_call(work):
    with pytest.raises((EncodeError, TypeError)):
        plain.echo.delay(object())


def test_arguments_are_checked_at_the_call(work):
    """Arguments that the task's signature does not take fail at the call"""
    with pytest.raises(TypeError, match="y"):
        plain.add.delay(1)


def test_a_result_goes_through_the_serializer(work):
    assert work(plain.return_tuple.s()).value == [1, {"2": 3}]


def test_a_result_that_cannot_be_serialized_fails_the_task(work):
    outcome = work(plain.return_object.s())
    assert isinstance(outcome, Failure)
    assert "serializ" in str(outcome.exception).lower() or "JSON" in str(outcome.exception)


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        ("Zoë ☃", ["str", "Zoë ☃"]),
        (None, ["NoneType", "None"]),
        (Decimal("1.50"), ["Decimal", "1.50"]),
        (UUID(int=5), ["UUID", "00000000-0000-0000-0000-000000000005"]),
        (datetime(2026, 3, 1, tzinfo=dt_timezone.utc), ["datetime", "2026-03-01 00:00:00+00:00"]),
        (date(2026, 3, 1), ["date", "2026-03-01"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_types_that_travel_in_json(work, value, arrives):
    """Text, `None`, `Decimal`, `UUID`, `datetime` and `date` travel in JSON and keep their type"""
    assert work(plain.tell_type.s(value)) == Success(arrives)


@pytest.mark.celery(
    result_serializer="pickle",
    accept_content=["pickle", "json"],
    result_accept_content=["pickle", "json"],
)
def test_pickle_keeps_types(work):
    """The pickle serializer keeps the types of arguments and results"""
    assert work(plain.add.s((1,), (2,)).set(serializer="pickle")).value == (1, 2)


def test_a_content_type_that_is_not_accepted_is_dropped(work, celery_app, signals_log):
    """A message of a content type that is not accepted is dropped"""
    result = celery_app.send_task("shop.contract.plain.add", (1, 2), serializer="unwanted")
    work.settle()
    assert result.state == "PENDING"
    assert "task_prerun" not in [name for name, _ in signals_log]


def test_compression(work):
    """A compressed message is read"""
    assert work(plain.echo.s("x" * 10_000).set(compression="gzip")).value == "x" * 10_000


def test_the_first_protocol(work, settings):
    """A message of protocol 1 is read"""
    settings.CELERY_TASK_PROTOCOL = 1  # of who publishes
    assert work(plain.add.s(1, 2)) == Success(3)


def test_partial_arguments_are_completed(work):
    """A partial signature is completed by the arguments of the call"""
    assert work.outcome(plain.add.s(1).apply_async((2,))) == Success(3)
    assert work.outcome(plain.add.s(y=1).apply_async((2,))) == Success(3)
