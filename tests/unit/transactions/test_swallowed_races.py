"""Errors on messages inside a transaction that the test never saw, and the rows of messages."""

# ruff: noqa: DJ008 - models of which nobody reads the text
# ruff: noqa: E402 - Django is configured before anything asks for a setting

from __future__ import annotations

import os
import sys
from decimal import Decimal
from types import CodeType
from typing import Any
from uuid import UUID

import pytest

from tests.unit import django_in_process

assert django_in_process.is_ours

from django.contrib.auth.models import Group, User
from django.db import models

from pytest_djcelery import locations
from pytest_djcelery.errors import SentInTransactionError
from pytest_djcelery.messages.events import Looked, RaceRaised
from pytest_djcelery.messages.journal import Journal
from pytest_djcelery.transactions.sent_in_transaction import swallowed_races, swallowed_text
from pytest_djcelery.transactions.writes import Rows

HERE = locations.relative(__file__)


def raised(function: Any, *, tests: frozenset[CodeType] = frozenset()) -> RaceRaised:
    """The event of an error that this function lets go no further."""
    error = SentInTransactionError("sent inside a transaction")
    function(error)
    return RaceRaised(error=error, tests=tests)


def swallows(error: Exception) -> None:
    try:
        raise error  # noqa: TRY301 - nobody else is to be on the way
    except Exception:  # noqa: BLE001 - as code under test does
        pass


def catches_by_name(error: Exception) -> None:
    try:
        raise error
    except SentInTransactionError:
        pass


def catches_one_of_several(error: Exception) -> None:
    try:
        try:
            raise error
        except KeyError:
            pass
    except (ValueError, SentInTransactionError):
        pass


def expects(error: Exception) -> None:
    with pytest.raises(SentInTransactionError):
        raise error


def expects_another(error: Exception) -> None:
    with pytest.raises(Exception, match="inside"):
        raise error


async def never() -> None:
    """A block of another name stands elsewhere in this file."""


def found(*events: RaceRaised) -> list[RaceRaised]:
    journal = Journal()
    for event in events:
        journal.append(event)
    return swallowed_races(journal)


def test_an_error_that_code_under_test_caught_was_not_seen() -> None:
    event = raised(swallows)
    assert found(event) == [event]


def test_one_that_was_never_raised_was_not_seen() -> None:
    event = RaceRaised(error=SentInTransactionError("made only"), tests=frozenset())
    assert found(event) == [event]


@pytest.mark.parametrize("function", [catches_by_name, catches_one_of_several, expects])
def test_one_that_was_caught_by_its_name_was_meant(function: Any) -> None:
    assert found(raised(function)) == []


def test_one_that_was_caught_by_another_name_was_not() -> None:
    # The file's other handlers, which name it, are not around the line.
    event = raised(expects_another)
    assert found(event) == [event]


def test_one_that_reached_a_test_was_seen() -> None:
    assert found(raised(swallows, tests=frozenset({swallows.__code__}))) == []
    assert found(raised(swallows, tests=frozenset({expects.__code__})))


@pytest.mark.parametrize(
    ("module", "seen"),
    [
        ("celery.app.trace", True),
        ("celery.app.task", True),
        ("_pytest.python", True),
        ("unittest.case", True),
        ("shop.views", False),
        ("celery.canvas", False),
    ],
)
def test_who_caught_it_last_counts(module: str, *, seen: bool) -> None:
    names: dict[str, Any] = {"__name__": module}
    source = "def catch(error):\n  try:\n    raise error\n  except Exception:\n    pass\n"
    exec(compile(source, f"/srv/{module}.py", "exec"), names)
    assert (found(raised(names["catch"])) == []) is seen


def test_each_error_counts_once_and_from_a_position_on() -> None:
    journal = Journal()
    first, second = raised(swallows), raised(swallows)
    journal.append(first)
    journal.append(Looked(task_id="a"))
    journal.append(first)
    position = len(journal)
    journal.append(second)
    assert swallowed_races(journal) == [first, second]
    assert swallowed_races(journal, position) == [second]


def test_a_file_that_is_no_python_catches_nothing_by_name(tmp_path: Any) -> None:
    path = tmp_path / "template.py"
    path.write_text("except SentInTransactionError {% endif %}\n" * 5)
    names: dict[str, Any] = {"__name__": "shop"}
    source = "def catch(error):\n  try:\n    raise error\n  except Exception:\n    pass\n"
    exec(compile(source, str(path), "exec"), names)
    event = raised(names["catch"])
    assert found(event) == [event]


def test_the_text_says_where_it_was_caught() -> None:
    event = raised(swallows)
    line = swallows.__code__.co_firstlineno + 2
    made_only = SentInTransactionError("made only")
    assert swallowed_text([event, RaceRaised(error=made_only, tests=frozenset())]) == (
        "SentInTransactionError was raised, but the code under test caught it, so the test did "
        "not see it.\n"
        f"  caught at: {HERE}:{line} in swallows\n"
        "sent inside a transaction\n"
        "\n"
        "SentInTransactionError was raised, but the code under test caught it, so the test did "
        "not see it.\n"
        "  caught at: an unknown line\n"
        "made only\n"
        "\n"
        "To let such messages pass: @pytest.mark.celery_sent_in_transaction('ignore'), or\n"
        "djcelery_sent_in_transaction = ignore for the whole run."
    )


@pytest.mark.skipif(sys.version_info < (3, 11), reason="code has no qualified name before")
def test_a_library_that_caught_it_is_named_by_its_function() -> None:
    names: dict[str, Any] = {"__name__": "django.module"}
    source = (
        "class Signal:\n def send_robust(self, error):\n  try:\n    raise error\n"
        "  except Exception:\n    pass\n"
    )
    path = os.path.join(os.path.dirname(models.__file__), "module.py")
    exec(compile(source, path, "exec"), names)
    event = raised(names["Signal"]().send_robust)
    assert "  caught at: django.module.Signal.send_robust\n" in swallowed_text([event])


# Rows --------------------------------------------------------------------------------------


class Person(models.Model):
    """A table of its own."""

    class Meta:
        app_label = "auth"


class Ticket(models.Model):
    """With a key of another type."""

    id = models.UUIDField(primary_key=True)

    class Meta:
        app_label = "auth"


class Customer(Person):
    """One that shares its key with another's row."""

    class Meta:
        app_label = "auth"


class VipCustomer(Customer):
    """The same rows, by another name."""

    class Meta:
        app_label = "auth"
        proxy = True


def test_a_row_is_named_by_its_key_or_the_text_of_it() -> None:
    rows = Rows()
    rows.add(User, 7)
    assert rows.named_by(7) == rows.named_by("7") == ["auth.User"]
    assert rows.named_by(8) == rows.named_by("seven") == []
    rows.add(Group, 7)
    rows.add(User, 7)
    assert rows.named_by(7) == ["auth.User", "auth.Group"]
    assert rows.named_by(Decimal(7)) == ["auth.User", "auth.Group"]


def test_a_uuid_is_known_with_dashes_and_without() -> None:
    key = UUID("12345678123456781234567812345678")
    rows = Rows()
    rows.add(User, key)
    assert rows.named_by(key) == rows.named_by(str(key)) == rows.named_by(key.hex) == ["auth.User"]
    rows = Rows()
    rows.add(User, key.hex)
    assert rows.named_by(key) == []  # that is another key's text


@pytest.mark.parametrize("value", [True, 7.0, None, b"7", [7], object()])
def test_other_values_name_no_row(value: Any) -> None:
    rows = Rows()
    rows.add(User, 7)
    rows.add(User, 1)
    rows.add(User, value)
    assert rows.named_by(value) == []


def test_a_row_names_itself_and_no_row_of_another_model() -> None:
    rows = Rows()
    rows.add(User, 7)
    assert rows.named_by(User(pk=7)) == ["auth.User"]
    assert rows.named_by(User(pk=8)) == rows.named_by(Group(pk=7)) == rows.named_by(User()) == []


def test_a_row_with_a_uuid_is_named_by_its_own_text() -> None:
    key = UUID("12345678123456781234567812345678")
    rows = Rows()
    rows.add(Ticket, key.hex)
    assert rows.named_by(Ticket(pk=key)) == []
    rows.add(Ticket, key)
    assert rows.named_by(Ticket(pk=key)) == ["auth.Ticket"]


def test_a_key_is_that_of_what_a_model_inherits_or_stands_for() -> None:
    rows = Rows()
    rows.add(VipCustomer, 7)
    assert rows.named_by(7) == ["auth.VipCustomer", "auth.Customer", "auth.Person"]
    assert rows.named_by(Person(pk=7)) == ["auth.Person"]
    rows = Rows()
    rows.add(Person, 7)
    assert rows.named_by(7) == ["auth.Person"]
