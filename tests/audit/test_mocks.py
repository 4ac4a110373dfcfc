"""What an audit hears of mocks, wherever a test has put them, and what it tells of their calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.audit.conftest import Audited
    from tests.support.project import Project

TEST = """
import datetime, decimal, uuid
from unittest import mock
from unittest.mock import patch

import pytest
from celery import current_app
from celery.app.task import Task
from django.db import connection, transaction
from django.utils.functional import SimpleLazyObject
from django.utils.translation import gettext_lazy
from proj.celery import app
from shop import calls
from shop.models import Order
from shop.tasks import *

pytestmark = pytest.mark.django_db
"""


@pytest.fixture(autouse=True)
def calls(old: Project) -> None:
    """Code that sends in each way."""
    old.tasks("""
        @shared_task(serializer="pickle")
        def pickled(value):
            pass
        """)
    old.write(
        **{
            "shop/calls": """
                from celery import chain

                from shop import tasks
                from shop.tasks import add, pickled, ship


                def delay(*args, **kwargs):
                    return ship.delay(*args, **kwargs)


                def apply_async(*args, **kwargs):
                    return ship.apply_async(*args, **kwargs)


                def delay_pickled(*args):
                    return pickled.delay(*args)


                def by_module():
                    tasks.ship.delay(1, 2)


                def by_s():
                    ship.s(1, express=True).delay(2)


                def by_si():
                    ship.si(1).apply_async((2, 3))


                def by_chain():
                    chain(add.s(1, 2), add.s(3)).delay()
                """
        }
    )


def _faults(found: list[dict[str, Any]]) -> dict[str, str | None]:
    assert {each["kind"] for each in found} == {"mocked-publishes"}
    for each in found:
        assert each["sure"] is ("fault" in each["facts"])
    return {each["code"]: "; ".join(each["facts"].get("fault", ())) or None for each in found}


# What is noticed -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("replacement", "sends", "subject", "mocked", "fault"),
    [
        (
            "patch('celery.app.task.Task.apply_async', new=lambda self, *args, **kwargs: None)",
            "delay(1)", "shop.tasks.ship", "shop.tasks.ship.apply_async", None,
        ),
        (
            "patch('celery.app.task.Task.apply_async')",
            "delay(1, 2)", "shop.tasks.ship", "shop.tasks.ship.apply_async", "takes 1 positional",
        ),
        (
            "patch('celery.app.task.Task.apply_async')",
            "apply_async((1,))", "a task", "a task.apply_async", None,
        ),
        (
            "patch('shop.calls.tasks')",
            "by_module()", "shop.tasks.ship", "shop.tasks.ship.delay", "takes 1 positional",
        ),
        (
            "patch('shop.calls.ship')",
            "by_s()", "shop.tasks.ship", "shop.tasks.ship.s().delay", "takes 1 positional",
        ),
        (
            "patch('shop.calls.ship')",
            "by_si()", "shop.tasks.ship", "shop.tasks.ship.s().apply_async", None,
        ),
        (
            "patch('shop.tasks.ship.s')",
            "by_s()", "shop.tasks.ship", "shop.tasks.ship.s().delay", "takes 1 positional",
        ),
        (
            "patch('celery.canvas.Signature.delay', autospec=True)",
            "by_s()", "shop.tasks.ship", "shop.tasks.ship.s().delay", "takes 1 positional",
        ),
        (
            "patch('celery.canvas.Signature.delay', new=lambda self, *args: None)",
            "by_s()", "shop.tasks.ship", "shop.tasks.ship.s().delay", "takes 1 positional",
        ),
        (
            "patch('celery.canvas.Signature.apply_async')",
            "by_s()", "shop.tasks.ship", "shop.tasks.ship.s().apply_async", "takes 1 positional",
        ),
        (
            "patch('celery.canvas.Signature.apply_async', autospec=True)",
            "by_si()", "shop.tasks.ship", "shop.tasks.ship.s().apply_async", None,
        ),
        (
            "patch('celery.canvas._chain.apply_async')",
            "by_chain()", "celery.chain", "celery.chain.s().apply_async", None,
        ),
    ],
)  # fmt: skip
def test_a_replacement_is_noticed_wherever_it_is(  # noqa: PLR0913, PLR0917 - a row of the table
    audited: Audited, replacement: str, sends: str, subject: str, mocked: str, fault: str | None
) -> None:
    [found] = audited(f"{TEST}\ndef test_it():\n    with {replacement}:\n        calls.{sends}\n")
    assert (found["kind"], found["path"]) == ("mocked-publishes", "shop/calls.py")
    assert (found["subject"], found["facts"]["mocked"]) == (subject, [mocked])
    [reported] = found["facts"].get("fault", [None])
    assert (reported is None) if fault is None else (fault in reported)


def test_a_function_put_into_a_class_becomes_a_method_as_without_the_audit(
    audited: Audited,
) -> None:
    found = audited(
        TEST
        + """
def test_it(monkeypatch):
    seen = []
    monkeypatch.setattr(Task, "apply_async", lambda self, *args: seen.append((self, *args)))
    ship.delay(1)
    Task.apply_async(ship, (2,))
    monkeypatch.setattr(Task, "delay", staticmethod(lambda *args: seen.append(args)))
    ship.delay(3)
    assert seen == [(ship, (1,), {}), (ship, (2,)), (3,)]
"""
    )
    assert [(each["subject"], each["code"]) for each in found] == [
        ("shop.tasks.ship", "ship.delay(1)"),
        ("shop.tasks.ship", "Task.apply_async(ship, (2,))"),
    ]


# What it tells -------------------------------------------------------------------------------


def test_the_serializer_is_that_of_the_call(audited: Audited) -> None:
    found = audited(
        TEST
        + """
@patch.object(current_app, "send_task")
@patch("shop.tasks.pickled.apply_async")
@patch("shop.tasks.ship.apply_async")
def test_it(*mocks):
    ship.apply_async((object(),), serializer="pickle")
    pickled.apply_async((object(),))
    pickled.apply_async((object(),), serializer="json")
    ship.apply_async((1,), serializer="none")
    app.send_task("elsewhere.task", (object(),))
    app.send_task("elsewhere.task", (object(),), serializer="pickle")
"""
    )
    no_json = "argument 1, a object, can't be encoded by 'json'; send plain data"
    assert _faults(found) == {
        'ship.apply_async((object(),), serializer="pickle")': None,
        "pickled.apply_async((object(),))": None,
        'pickled.apply_async((object(),), serializer="json")': (
            f"{no_json} (numbers, text, lists, dicts, dates)"
        ),
        'ship.apply_async((1,), serializer="none")': "No encoder installed for none",
        'app.send_task("elsewhere.task", (object(),))': (
            f"{no_json} (numbers, text, lists, dicts, dates)"
        ),
        'app.send_task("elsewhere.task", (object(),), serializer="pickle")': None,
    }


def test_a_call_that_celery_would_refuse_is_reported_and_recorded(audited: Audited) -> None:
    found = audited(
        TEST
        + """
@patch.object(current_app, "send_task")
@patch("shop.tasks.ship.apply_async")
def test_it(apply_async, send_task):
    ship.apply_async(5)
    ship.apply_async((1,), "notadict")
    ship.apply_async((1,), {2: 3})
    ship.apply_async(Order.objects.values_list("pk"))
    ship.apply_async((1,), args=(1,))
    app.send_task()
    ship.apply_async(mock.Mock())
    ship.apply_async((1,), mock.Mock())
    app.send_task(mock.Mock())
    ship.apply_async(None, {"order_id": 1})
    ship.apply_async([1], {})
"""
    )
    listed = "task args must be a list or tuple"
    assert _faults(found) == {
        "ship.apply_async(5)": listed,
        'ship.apply_async((1,), "notadict")': "task keyword arguments must be a mapping",
        "ship.apply_async((1,), {2: 3})": "keywords must be strings",
        'ship.apply_async(Order.objects.values_list("pk"))': listed,
        "ship.apply_async((1,), args=(1,))": (
            "apply_async() got multiple values for argument 'args'"
        ),
        "app.send_task()": "send_task() missing 1 required positional argument: 'name'",
        "ship.apply_async(mock.Mock())": None,
        "ship.apply_async((1,), mock.Mock())": None,
        "app.send_task(mock.Mock())": None,
        'ship.apply_async(None, {"order_id": 1})': None,
        "ship.apply_async([1], {})": None,
    }


ARGUMENTS = """
from collections import OrderedDict, namedtuple
from enum import Enum

from kombu.utils.json import register_type

Pair = namedtuple("Pair", "left right")


class Text(str, Enum):
    A = "a"


class Colour(Enum):
    RED = 1


class Own:
    def __json__(self):
        raise AssertionError("it ran")


class Registered:
    pass


class Rude:
    def __getattr__(self, name):
        raise LookupError(name)


register_type(Registered, "registered", lambda value: 1 / 0)
itself = []
itself.append(itself)
user = SimpleLazyObject(lambda: Order(pk=1))
user.pk
"""


def test_arguments_that_the_serializer_can_encode_are_no_fault(audited: Audited) -> None:
    found = audited(
        TEST
        + ARGUMENTS
        + """
@patch("shop.tasks.ship.delay")
def test_it(delay):
    ship.delay([1, None, 1.5, True, {"a": (b"c", datetime.date.today())}])
    ship.delay([decimal.Decimal(1), uuid.uuid4(), datetime.datetime.now(), datetime.time()])
    ship.delay([OrderedDict(a=Pair(1, gettext_lazy("text"))), Text.A, Own(), Registered()])
    ship.delay([mock.Mock(), {"a": mock.sentinel.a}, mock.ANY])
    ship.delay(add.s(1, 2))
"""
    )
    faults = _faults(found)
    assert len(faults) == 5
    assert set(faults.values()) == {None}


def test_arguments_that_the_serializer_can_not_encode_come_with_a_remedy(audited: Audited) -> None:
    found = audited(
        TEST
        + ARGUMENTS
        + """
@patch("shop.tasks.ship.delay")
def test_it(delay):
    ship.delay(SimpleLazyObject(lambda: 1 / 0))
    ship.delay(user)
    ship.delay({"a": [1, {2}]})
    ship.delay({(1, 2): 3})
    ship.delay([Own(), Order.objects.all()])
    ship.delay(Pair(1, Colour.RED))
    ship.delay(itself)
    ship.delay([itself, Own()])
    ship.delay(Rude())
"""
    )
    plain = "send plain data (numbers, text, lists, dicts, dates)"
    expected = {
        "ship.delay(SimpleLazyObject(lambda: 1 / 0))": (
            "SimpleLazyObject", "send plain data instead, such as its primary key",
        ),
        "ship.delay(user)": (
            "Order", "send its primary key (order.pk) and fetch the Order in the task",
        ),
        'ship.delay({"a": [1, {2}]})': ("set", "send a list"),
        "ship.delay({(1, 2): 3})": ("dict", plain),
        "ship.delay([Own(), Order.objects.all()])": ("QuerySet", "send a list of primary keys"),
        "ship.delay(Pair(1, Colour.RED))": ("Colour", plain),
        "ship.delay(itself)": ("list", plain),
        "ship.delay([itself, Own()])": ("list", plain),
        "ship.delay(Rude())": ("Rude", plain),
    }  # fmt: skip
    assert _faults(found) == {
        code: f"argument 1, a {kind}, can't be encoded by 'json'; {remedy}"
        for code, (kind, remedy) in expected.items()
    }


# Hooks that a test runs at once --------------------------------------------------------------


#: What a test may put in the place of ``on_commit``, to have hooks run.
REPLACEMENTS = (
    "patch('django.db.transaction.on_commit', new=lambda hook: hook())",
    "patch('django.db.transaction.on_commit', new=helped)",
    "patch('django.db.transaction.on_commit', side_effect=lambda hook: hook())",
    "patch('django.db.transaction.on_commit', new=Runner())",
    "patch('django.db.backends.base.base.BaseDatabaseWrapper.on_commit', new=method)",
    "patch.object(connection, 'on_commit', new=lambda hook, robust=False: hook())",
)


def test_what_a_hook_sends_when_the_test_runs_it_is_the_codes_and_not_a_race(
    audited: Audited,
) -> None:
    tests = [
        f"""
def test_{number}():
    with {replacement}, patch("shop.tasks.ship.delay"):
        order_on_commit()
"""
        for number, replacement in enumerate(REPLACEMENTS)
    ]
    [found] = audited(
        f"""{TEST}
from shop.services import order_on_commit


class Runner:
    def __call__(self, hook):
        hook()


def method(self, func, robust=False):
    func()


def run(hook):
    hook()


def helped(hook, using=None):
    run(hook)


{"".join(tests)}
"""
    )
    assert found["tests"] == len(REPLACEMENTS)
    assert (found["kind"], found["function"]) == ("mocked-publishes", "order_on_commit")
    assert found["code"] == "ship.delay_on_commit(order.pk)"


def test_a_hooks_line_is_shown_where_it_has_one(audited: Audited, old: Project) -> None:
    old.write(
        **{
            "shop/hooks": """
                from django.db import transaction

                from shop.tasks import ship


                def notify():
                    ship.delay(1)


                def register():
                    transaction.on_commit(notify)
                """
        }
    )
    [found] = audited(
        TEST
        + """
from shop.hooks import register


def test_it(monkeypatch):
    monkeypatch.setattr(transaction, "on_commit", lambda hook: hook())
    monkeypatch.setattr(ship, "delay", lambda pk: None)
    register()
"""
    )
    assert (found["function"], found["code"]) == ("notify", "ship.delay(1)")


#: What a mock's ``side_effect`` may be, and what such a mock stands for.
EFFECTS = {
    "OSError('down')": "a broken broker: it raises OSError",
    "ConnectionError": "a broken broker: it raises ConnectionError",
    "kombu.exceptions.OperationalError": "a broken broker: it raises OperationalError",
    "[OSError, None]": "a broken broker: it raises OSError",
    "(each for each in [OSError])": None,  # to look is to take it
    "[None]": None,
    "LookupError('no')": "a call that fails: it raises LookupError",
    "lambda *args, **kwargs: None": None,
}


@pytest.mark.parametrize("more", ["", ", autospec=True"])
def test_a_mock_that_raises_simulates_something(audited: Audited, more: str) -> None:
    tests = [
        f"""
def test_{number}():
    with patch.object(ship, "apply_async", side_effect={effect}{more}) as sent:
        try:
            ship.apply_async((1,))
        except Exception as error:
            assert type(error).__name__ in {simulates or "OSError"!r}
        else:
            assert {simulates is None}
        assert sent.call_count == 1
"""
        for number, (effect, simulates) in enumerate(EFFECTS.items())
    ]
    findings = audited("\n".join([TEST, "import kombu", *tests]))

    assert {found["subject"] for found in findings} == {"shop.tasks.ship"}
    simulated = {found["function"]: found["facts"].get("simulates") for found in findings}
    assert simulated == {
        f"test_{number}": simulates and [simulates]
        for number, simulates in enumerate(EFFECTS.values())
    }
