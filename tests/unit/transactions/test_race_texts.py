"""What is said, raised and recorded of a message that was sent inside a transaction."""

# ruff: noqa: E402 - Django is configured before anything asks for a setting

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery, Task, _state

from tests.unit import django_in_process

assert django_in_process.is_ours

from django.db import connections, transaction

from pytest_djcelery.errors import SentInTransactionError, SentInTransactionWarning
from pytest_djcelery.locations import Location
from pytest_djcelery.messages.events import Published, RaceRaised
from pytest_djcelery.messages.journal import Journal
from pytest_djcelery.transactions.openers import Opener
from pytest_djcelery.transactions.sent_in_transaction import (
    Race,
    RacePolicy,
    sent_in_transaction,
    warn,
)
from pytest_djcelery.transactions.watch import TransactionWatch
from pytest_djcelery.transactions.writes import Rows, savepoint_of, wrote
from tests.unit.sending import message

app = Celery(
    "texts", broker="memory://", task_cls="celery.contrib.django.task:DjangoTask",
    set_as_current=False,
)  # fmt: skip


@app.task(shared=False, name="shop.ship")
def ship(order: int) -> None:
    """Never run here."""


@app.task(shared=False, name="shop.plain", base=Task)
def plain(order: int) -> None:
    """Without ``delay_on_commit``."""


class ByClass(Task):
    """A task that is a class."""

    name = "shop.by_class"

    def run(self) -> None:
        """Never run here."""


app.register_task(ByClass())
HERE = Location(path="shop/views.py", line=12, function="sign_up")


@pytest.fixture(autouse=True)
def _current(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_state._tls, "current_app", app)


def race(*args: Any, using: str = "default", **changes: Any) -> Race:
    late = {name: changes.pop(name) for name in ("late", "wrote_at") if name in changes}
    task = changes.pop("task", "shop.ship")
    sent = message(task, *args, **changes)
    opener = Opener(kind="with", location=HERE)
    return Race(message=sent, using=using, opener=opener, rows=Rows(), **late)


def remedy(*args: Any, **changes: Any) -> str:
    return sent_in_transaction(race(*args, **changes)).splitlines()[-1]


# Texts -------------------------------------------------------------------------------------


def test_the_text_says_what_happened_why_it_matters_and_what_to_do() -> None:
    assert sent_in_transaction(race(7)) == (
        "shop.ship(7) was sent inside an open transaction of the database 'default', which also "
        "writes.\n"
        "  sent at:   shop/views.py:12 in sign_up\n"
        "  opened by: `with transaction.atomic()` at shop/views.py:12 in sign_up\n"
        "  written:   before it was sent\n"
        "A worker may run the task before the commit, and so not see what was written; it will "
        "run it even if the transaction is rolled back.\n"
        "Send it after the commit: ship.delay_on_commit(7)"
    )


def test_a_late_write_is_shown_at_its_line_or_at_none() -> None:
    place = Location(path="shop/models.py", line=3, function="save")
    text = sent_in_transaction(race(7, late=True, wrote_at=place))
    assert "  written:   after it was sent, at shop/models.py:3 in save\n" in text
    text = sent_in_transaction(race(7, late=True, location=None))
    assert "  written:   after it was sent, at no line of the project\n" in text
    assert "  sent at:   no line of the project\n" in text


@pytest.mark.parametrize(
    ("changes", "call"),
    [
        ({}, "ship.delay_on_commit(7)"),
        ({"priority": 3}, "ship.apply_async_on_commit(args=(7,), …)"),
        ({"eta": 1}, "ship.apply_async_on_commit(args=(7,), …)"),
        ({"expires": 1}, "ship.apply_async_on_commit(args=(7,), …)"),
        ({"links": (1,)}, "ship.apply_async_on_commit(args=(7,), …)"),
        ({"link_errors": (1,)}, "ship.apply_async_on_commit(args=(7,), …)"),
        ({"chain": (1,)}, "transaction.on_commit(lambda: <the chain, group or chord>.delay())"),
        ({"group_id": "g"}, "transaction.on_commit(lambda: <the chain, group or chord>.delay())"),
        ({"chord": 1}, "transaction.on_commit(lambda: <the chain, group or chord>.delay())"),
        ({"task": "other"}, "transaction.on_commit(lambda: app.send_task('other', …))"),
    ],
)
def test_the_remedy_is_the_call_as_it_was_made(changes: dict[str, Any], call: str) -> None:
    assert remedy(7, **changes) == f"Send it after the commit: {call}"


def test_a_call_with_options_alone_shows_no_arguments() -> None:
    assert remedy(priority=3) == "Send it after the commit: ship.apply_async_on_commit(…)"


def test_a_call_of_apply_async_is_one_without_options_too(tmp_path: Any) -> None:
    path = tmp_path / "views.py"
    path.write_text("ship.apply_async((7,))\nship.delay(7)\n")
    for line, method in ((1, "apply_async_on_commit(args=(7,), …)"), (2, "delay_on_commit(7)")):
        place = Location(path=str(path), line=line, function="view")
        assert remedy(7, location=place) == f"Send it after the commit: ship.{method}"
    assert remedy(7, location=None) == "Send it after the commit: ship.delay_on_commit(7)"


def test_where_delay_on_commit_does_not_wait_for_the_database_a_hook_does() -> None:
    hook = "transaction.on_commit(lambda: ship.delay(7), using='other')"
    assert remedy(7, using="other") == (
        f"delay_on_commit waits for the database 'default' only. Send it after the commit: {hook}"
    )
    assert remedy(7, using="other", transaction="on_commit") == (
        "The on_commit hook that sent it waited for another database. "
        f"Send it after the commit: {hook}"
    )
    assert remedy(7, transaction="on_commit").endswith("ship.delay(7), using='default')")


@pytest.mark.parametrize(
    ("task", "base", "name"),
    [
        ("shop.plain", "celery.app.task.Task", "plain"),
        ("shop.by_class", f"{__name__}.ByClass", None),
    ],
)
def test_a_task_without_delay_on_commit_is_named_with_its_class(
    task: str, base: str, name: str | None
) -> None:
    text = remedy(7, task=task)
    assert text.endswith(
        f"has no delay_on_commit, because its class {base} does not inherit from "
        "celery.contrib.django.task.DjangoTask."
    )
    if name is not None:
        assert text.startswith(
            f"Send it after the commit: transaction.on_commit(lambda: {name}.delay(7)). {name} has"
        )


# Policies ----------------------------------------------------------------------------------


def policy(value: Any, reported: Callable[..., None] = warn) -> tuple[Journal, RacePolicy]:
    journal = Journal()
    return journal, RacePolicy(journal, lambda: value, reported)


def test_the_policy_ignore_records_nothing() -> None:
    journal, report = policy("ignore")
    report([race(7)])
    assert len(journal) == 0


def test_the_policy_warn_tells_of_each_at_its_line() -> None:
    reported: list[Any] = []
    journal, report = policy("warn", lambda text, location: reported.append((text, location)))
    races = [race(7), race(8, location=None)]
    report(races)
    assert list(journal.events(Race)) == races
    assert reported == [(sent_in_transaction(each), each.message.location) for each in races]


def test_the_policy_error_raises_one_text_for_all_and_records_who_ran() -> None:
    journal, report = policy("error")
    races = [race(7), race(8)]
    with pytest.raises(SentInTransactionError) as error:
        report(races)
    assert str(error.value) == "\n\n".join(map(sent_in_transaction, races))
    assert list(journal.events(Race)) == races
    [raised] = journal.events(RaceRaised)
    assert raised.error is error.value
    assert any(code.co_name.startswith("test_the_policy_error") for code in raised.tests)


def test_a_warning_that_is_an_error_is_recorded_as_one() -> None:
    journal, report = policy("warn")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(SentInTransactionWarning) as error:
            report([race(7)])
    [raised] = journal.events(RaceRaised)
    assert raised.error is error.value


@pytest.mark.parametrize(
    ("location", "place"), [(HERE, ("shop/views.py", 12)), (None, ("<unknown>", 1))]
)
def test_a_warning_stands_at_the_line_that_sent_the_message(location: Any, place: Any) -> None:
    with pytest.warns(SentInTransactionWarning, match="sent") as caught:
        warn("sent", location)
    [warning] = caught
    assert (warning.filename, warning.lineno) == place


# Under the watch ---------------------------------------------------------------------------


@pytest.fixture
def table(django_db_blocker: Any) -> Iterator[None]:
    with django_db_blocker.unblock():
        for alias in ("default", "other"):
            with connections[alias].cursor() as cursor:
                cursor.execute("CREATE TABLE numbers (n integer)")
        yield
        for alias in ("default", "other"):
            with connections[alias].cursor() as cursor:
                cursor.execute("DROP TABLE numbers")


def write(alias: str = "default") -> None:
    with connections[alias].cursor() as cursor:
        cursor.executemany("INSERT INTO numbers VALUES (%s)", [(1,), (2,)])


def test_each_message_before_a_write_is_told_once_and_those_of_others_wait(table: None) -> None:
    journal = Journal()
    watch = TransactionWatch(journal, policy=lambda: "warn", warn=lambda *_: None)

    def send(number: int) -> None:
        sent = message("shop.ship", number)
        watch.check_race(sent)
        journal.append(Published(message=sent))

    def reported() -> list[tuple[Any, str, bool]]:
        return [(each.message.args[0], each.using, each.late) for each in journal.events(Race)]

    with watch, transaction.atomic():
        send(1)
        with transaction.atomic(using="other"):
            send(2)
            assert reported() == []
            write("other")
            assert reported() == [(2, "other", True)]
        [race] = journal.events(Race)
        assert race.wrote_at is not None
        assert race.wrote_at.function == "write"
        send(3)
        write()
        assert reported()[1:] == [(1, "default", True), (3, "default", True)]
        write()
        send(4)
        assert reported()[3:] == [(4, "default", False)]


def test_the_rows_of_a_race_are_those_of_its_transaction(table: None) -> None:
    from django.contrib.auth.models import User

    journal = Journal()
    watch = TransactionWatch(journal, policy=lambda: "warn", warn=lambda *_: None)
    with watch, transaction.atomic():
        write()
        watch.written(User, [7], "default")
        watch.check_race(message("shop.ship", 7))
    [race] = journal.events(Race)
    assert race.rows.named_by(7) == ["auth.User"]


# Statements --------------------------------------------------------------------------------


class Composed:
    """As psycopg composes statements: it asks the connection how to quote."""

    def __init__(self, text: str) -> None:
        self.text = text

    def as_string(self, context: object) -> str:
        return self.text if context == "the driver's" else "SELECT 1"


def test_a_composed_statement_is_read_with_the_drivers_cursor() -> None:
    class Cursor:
        cursor = "the driver's"
        rowcount = 1
        description = None

    assert wrote(Composed("DELETE FROM t"), Cursor())
    assert not wrote(Composed("DELETE FROM t"), object())


def test_a_statement_of_bytes_may_be_in_any_encoding() -> None:
    assert wrote(b"INSERT INTO t VALUES ('\xff')")
    assert not wrote(b"SELECT '\xff'")


def test_a_cursor_that_counts_nothing_has_written() -> None:
    class Cursor:
        """Knows no ``rowcount``, and no connection."""

        description = None

    assert wrote("DELETE FROM t", Cursor())


@pytest.mark.parametrize(
    "sql", ["  savepoint s", "\n rollback to s", "SAVEPOINT s ", "Rollback to s"]
)
def test_savepoints_in_any_letters_and_after_blanks(sql: str) -> None:
    found = savepoint_of(sql)
    assert found is not None
    assert found.name == "s"


@pytest.mark.parametrize("sql", [None, 7, b"SAVEPOINT s", ["SAVEPOINT s"]])
def test_what_is_no_text_sets_no_savepoint(sql: Any) -> None:
    assert savepoint_of(sql) is None
