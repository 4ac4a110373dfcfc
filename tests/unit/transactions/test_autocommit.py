"""What an error undoes in the test's own transaction: what it would undo in autocommit."""

# ruff: noqa: E402 - Django is configured before anything asks for a setting
# ruff: noqa: PT012 - what raises is the end of a block, so `raises` has several statements

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.unit import django_in_process

assert django_in_process.is_ours

from django.db import IntegrityError, connections, transaction
from django.db.transaction import TransactionManagementError

from pytest_djcelery.messages.journal import Journal
from pytest_djcelery.transactions.autocommit import (
    Autocommit,
    after_innermost_block,
    begin_test,
    innermost,
)
from pytest_djcelery.transactions.connections import (
    AutocommitRestorer,
    connection_held_open,
    test_connections_held_open,
)
from pytest_djcelery.transactions.watch import TransactionWatch

SAVEPOINT = 'SAVEPOINT "djcelery_autocommit"'
RELEASE = 'RELEASE SAVEPOINT "djcelery_autocommit"'
UNDO = 'ROLLBACK TO SAVEPOINT "djcelery_autocommit"'
#: Two rows of which the second is refused: SQLite leaves the first.
HALF = "INSERT OR FAIL INTO numbers VALUES (1), (1)"


class Database:
    """A connection to a database with one table, and the statements that reach its driver."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.statements: list[str] = []

    def execute(self, sql: str, params: Any = None) -> Any:
        with self.connection.cursor() as cursor:
            cursor.execute(sql, params)
            return cursor.fetchall() if sql.startswith("SELECT") else None

    def numbers(self) -> list[int]:
        return [number for (number,) in self.execute("SELECT n FROM numbers ORDER BY n")]

    def add(self, number: int) -> None:
        self.execute("INSERT INTO numbers VALUES (%s)", [number])

    @contextmanager
    def traced(self) -> Iterator[list[str]]:
        """The statements of a block, as the driver gets them."""
        statements: list[str] = []
        self.connection.connection.set_trace_callback(statements.append)
        try:
            yield statements
        finally:
            self.connection.connection.set_trace_callback(None)


@pytest.fixture
def database(django_db_blocker: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """In the transaction of a test, as ``TestCase`` opens it.

    SQLite's own transactions outlast an error; these are taken for those of other databases.
    """
    with django_db_blocker.unblock():
        connection = connections["default"]
        monkeypatch.setattr(type(connection.features), "atomic_transactions", True)
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE numbers (n integer UNIQUE)")
        block: Any = transaction.atomic()
        block._from_testcase = True
        try:
            with block:
                yield Database(connection)
                transaction.set_rollback(rollback=True)
        finally:
            with connection.cursor() as cursor:
                cursor.execute("DROP TABLE numbers")


@pytest.fixture
def in_task(database: Database) -> Iterator[Database]:
    with Autocommit(database.connection):
        yield database


# A statement by itself ---------------------------------------------------------------------


def test_a_statement_that_fails_undoes_itself_and_nothing_else(in_task: Database) -> None:
    in_task.add(0)
    with pytest.raises(IntegrityError):
        in_task.execute(HALF)
    assert in_task.numbers() == [0]
    in_task.add(1)
    assert in_task.numbers() == [0, 1]


def test_each_statement_has_a_savepoint_in_the_place_of_its_transaction(in_task: Database) -> None:
    with in_task.traced() as statements:
        in_task.add(1)
        in_task.execute("SELECT 1")
    assert statements == [
        SAVEPOINT, "INSERT INTO numbers VALUES (1)", RELEASE, SAVEPOINT, "SELECT 1", RELEASE,
    ]  # fmt: skip
    with in_task.traced() as statements, pytest.raises(IntegrityError):
        in_task.add(1)
    assert statements == [SAVEPOINT, "INSERT INTO numbers VALUES (1)", UNDO, RELEASE]


def test_the_reads_of_a_test_cost_no_savepoint(database: Database) -> None:
    with Autocommit(database.connection, of_test=True):
        with database.traced() as statements:
            assert database.execute("SELECT 1") == [(1,)]
            assert database.execute("  select 1") is None
        assert statements == ["SELECT 1", "  select 1"]
        with database.traced() as statements:
            database.add(1)
        assert statements[0] == SAVEPOINT


@pytest.mark.parametrize("of_test", [True, False])
def test_a_savepoint_of_the_codes_own_outlasts_its_statement(
    database: Database, *, of_test: bool
) -> None:
    with Autocommit(database.connection, of_test=of_test):
        with database.traced() as statements:
            sid = transaction.get_connection().savepoint()
            database.execute("savepoint mine")
            transaction.savepoint_rollback(sid)
        assert SAVEPOINT not in statements
        database.add(1)
        assert database.numbers() == [1]


def test_many_rows_at_once_are_one_statement(in_task: Database) -> None:
    with in_task.connection.cursor() as cursor:
        cursor.executemany("INSERT INTO numbers VALUES (%s)", [(1,), (2,)])
        with pytest.raises(IntegrityError):
            cursor.executemany("INSERT INTO numbers VALUES (%s)", [(3,), (2,)])
    assert in_task.numbers() == [1, 2]


def test_the_wrappers_of_the_test_see_each_statement_once_and_whole(in_task: Database) -> None:
    seen: list[Any] = []

    def wrapper(execute: Any, sql: str, params: Any, many: Any, context: Any) -> Any:
        seen.append((sql, params, many, context["connection"] is in_task.connection))
        return execute(sql, params, many, context)

    with in_task.connection.execute_wrapper(wrapper):
        in_task.add(1)
        in_task.execute("SELECT 1")
    assert seen == [
        ("INSERT INTO numbers VALUES (%s)", [1], False, True),
        ("SELECT 1", None, False, True),
    ]
    in_task.connection.force_debug_cursor = True
    try:
        in_task.connection.queries_log.clear()
        in_task.add(2)
    finally:
        in_task.connection.force_debug_cursor = False
    assert [query["sql"] for query in in_task.connection.queries] == [
        "INSERT INTO numbers VALUES (2)"
    ]


def test_a_wrapper_that_ends_meanwhile_takes_itself_away(database: Database) -> None:
    seen: list[str] = []

    def wrapper(execute: Any, sql: str, params: Any, many: Any, context: Any) -> Any:
        seen.append(sql)
        return execute(sql, params, many, context)

    autocommit = Autocommit(database.connection)
    with database.connection.execute_wrapper(wrapper):
        autocommit.__enter__()
        database.execute("SELECT 1")
    with database.traced() as statements:
        database.execute("SELECT 2")
    autocommit.__exit__()
    assert seen == ["SELECT 1"]
    assert statements == [SAVEPOINT, "SELECT 2", RELEASE]


def test_an_error_is_forgotten_at_the_end_unless_a_block_is_left_open(database: Database) -> None:
    with Autocommit(database.connection):
        transaction.set_rollback(rollback=True)
    assert not database.connection.needs_rollback
    left_open = transaction.atomic()
    with Autocommit(database.connection):
        left_open.__enter__()
        transaction.set_rollback(rollback=True)
    assert database.connection.needs_rollback
    left_open.__exit__(None, None, None)
    assert not database.connection.needs_rollback


# Blocks ------------------------------------------------------------------------------------


@pytest.fixture
def watched(database: Database) -> Iterator[Database]:
    """A task in the test's transaction, under the watch that a test has."""
    watch = TransactionWatch(Journal(), policy=lambda: "ignore")
    with watch, watch.autocommit():
        yield database


@pytest.mark.parametrize("savepoint", [True, False])
def test_a_block_that_fails_is_undone_and_no_more(watched: Database, *, savepoint: bool) -> None:
    watched.add(0)
    with pytest.raises(KeyError), transaction.atomic(savepoint=savepoint):
        watched.add(1)
        raise KeyError
    assert watched.numbers() == [0]
    with transaction.atomic(savepoint=savepoint):
        watched.add(2)
    assert watched.numbers() == [0, 2]


@pytest.mark.parametrize("savepoint", [True, False])
def test_statements_of_a_block_have_no_savepoints_of_their_own(
    watched: Database, *, savepoint: bool
) -> None:
    with watched.traced() as statements, transaction.atomic(savepoint=savepoint):
        watched.add(1)
        watched.add(2)
    inserts = [f"INSERT INTO numbers VALUES ({number})" for number in (1, 2)]
    assert [text for text in statements if "INSERT" in text] == inserts
    assert len(statements) == 4
    if not savepoint:
        assert statements == [SAVEPOINT, *inserts, RELEASE]


def test_the_statements_of_a_block_are_passed_on_whole(watched: Database) -> None:
    seen: list[Any] = []

    def wrapper(execute: Any, sql: str, params: Any, many: Any, context: Any) -> Any:
        seen.append((params, many, context["connection"] is watched.connection))
        return execute(sql, params, many, context)

    with transaction.atomic(), watched.connection.execute_wrapper(wrapper):
        watched.add(1)
        with watched.connection.cursor() as cursor:
            cursor.executemany("INSERT INTO numbers VALUES (%s)", [(2,), (3,)])
    assert seen == [([1], False, True), ([(2,), (3,)], True, True)]
    assert watched.numbers() == [1, 2, 3]


def test_an_error_in_a_block_forbids_further_statements_there_only(watched: Database) -> None:
    with transaction.atomic():
        watched.add(1)
        with pytest.raises(KeyError), transaction.atomic(savepoint=False):
            raise KeyError
        with pytest.raises(TransactionManagementError):
            watched.add(2)
    assert watched.numbers() == []
    with transaction.atomic():
        watched.add(3)
    assert watched.numbers() == [3]


def test_outside_of_a_block_the_code_finds_autocommit(watched: Database) -> None:
    connection = watched.connection
    assert connection.get_autocommit()
    with transaction.atomic(durable=True):
        assert not connection.get_autocommit()
    assert connection.get_autocommit()
    with pytest.raises(KeyError), transaction.atomic():
        raise KeyError
    assert connection.get_autocommit()


def test_a_block_that_could_not_be_entered_leaves_all_as_it_was(
    watched: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyError):

        def refuse() -> None:
            raise KeyError

        patch.setattr(watched.connection, "savepoint", refuse)
        with transaction.atomic():
            raise AssertionError
    watched.add(1)
    with transaction.atomic(savepoint=False):
        watched.add(2)
    assert watched.numbers() == [1, 2]
    assert watched.connection.get_autocommit()


def test_what_a_task_leaves_behind_does_not_affect_the_test(database: Database) -> None:
    watch = TransactionWatch(Journal(), policy=lambda: "ignore")
    with watch:
        database.add(0)
        with watch.autocommit():
            transaction.set_rollback(rollback=True)
        assert database.numbers() == [0]
        blocks = list(database.connection.atomic_blocks)
        with pytest.raises(KeyError), watch.autocommit():
            raise KeyError
        assert database.connection.atomic_blocks == blocks
    assert database.connection.execute_wrappers == []
    assert not any(isinstance(block, Autocommit) for block in database.connection.atomic_blocks)


def test_a_block_of_the_test_that_has_failed_is_left_as_it_is(database: Database) -> None:
    watch = TransactionWatch(Journal(), policy=lambda: "ignore")
    with watch, pytest.raises(TransactionManagementError), transaction.atomic():
        transaction.set_rollback(rollback=True)
        with watch.autocommit():
            database.add(1)


def test_where_no_connection_is_in_a_block_nothing_is_set_aside(django_db_blocker: Any) -> None:
    watch = TransactionWatch(Journal(), policy=lambda: "ignore")
    with django_db_blocker.unblock(), watch:
        connections["default"].ensure_connection()
        with watch.autocommit():
            assert connections["default"].execute_wrappers == []


# The test's own ----------------------------------------------------------------------------


def test_a_test_is_in_autocommit_as_soon_as_its_transaction_is_open(database: Database) -> None:
    connection = database.connection
    with TransactionWatch(Journal(), policy=lambda: "ignore"):
        found = innermost(connection)
        assert found is not None
        assert found.of_test
        assert begin_test(connection) is None  # it is there already
        assert connection.get_autocommit()
        database.add(0)
        with pytest.raises(IntegrityError):
            database.execute(HALF)
        assert database.numbers() == [0]
        with transaction.atomic():
            assert innermost(connection) is None
            assert after_innermost_block(connection) is found
            assert begin_test(connection) is None
    assert innermost(connection) is after_innermost_block(connection) is None


def test_a_transaction_of_a_test_that_begins_under_the_watch_is_in_autocommit_too(
    django_db_blocker: Any,
) -> None:
    connection = connections["other"]
    with (
        django_db_blocker.unblock(),
        TransactionWatch(Journal(), policy=lambda: "ignore"),
    ):
        outer: Any = transaction.atomic(using="other")
        outer._from_testcase = True
        inner: Any = transaction.atomic(using="other")
        inner._from_testcase = True
        with outer:
            found = innermost(connection)
            assert found is not None
            with inner:  # of a test, in that of its class
                assert innermost(connection) is not None
            assert not connection.needs_rollback
            transaction.set_rollback(rollback=True, using="other")
        assert connection.atomic_blocks == []
        assert connection.execute_wrappers == []


def test_a_block_of_the_codes_own_is_no_tests(django_db_blocker: Any) -> None:
    with django_db_blocker.unblock():
        connection = connections["default"]
        connection.ensure_connection()
        assert begin_test(connection) is None
        with transaction.atomic():
            assert begin_test(connection) is None
        assert innermost(connection) is after_innermost_block(connection) is None


def test_autocommit_needs_savepoints(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(database.connection.features), "uses_savepoints", False)
    assert begin_test(database.connection) is None
    watch = TransactionWatch(Journal(), policy=lambda: "ignore")
    with watch, watch.autocommit():
        assert innermost(database.connection) is None


def test_where_an_error_does_not_end_a_transaction_no_statement_has_a_savepoint(
    in_task: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(in_task.connection.features), "atomic_transactions", False)
    with in_task.traced() as statements:
        in_task.add(1)
    assert statements == ["INSERT INTO numbers VALUES (1)"]


# Connections of a task ---------------------------------------------------------------------


def test_a_task_may_close_its_connection_and_the_test_goes_on(watched: Database) -> None:
    watched.add(1)
    watched.connection.close()
    assert watched.numbers() == [1]
    with transaction.atomic():
        watched.add(2)
        watched.connection.close()
        assert watched.connection.needs_rollback  # in production it would be lost
    assert watched.numbers() == [1]


def test_a_connection_is_held_open_for_a_block_only(database: Database) -> None:
    connection = database.connection
    with connection_held_open(connection):
        own = vars(connection)["close"]
        with connection_held_open(connection):
            assert vars(connection)["close"] is not own
        assert vars(connection)["close"] is own
        connection.close()
        assert not connection.needs_rollback
    assert "close" not in vars(connection)
    with pytest.raises(KeyError), connection_held_open(connection):
        raise KeyError
    assert "close" not in vars(connection)


def test_those_in_the_transaction_of_a_test_are_held_open(database: Database) -> None:
    connections["other"].ensure_connection()
    with test_connections_held_open():
        assert "close" in vars(database.connection)
        assert "close" not in vars(connections["other"])
        with transaction.atomic():
            pass
    assert "close" not in vars(database.connection)


test_connections_held_open.__test__ = False  # type: ignore[attr-defined]


def test_a_transaction_that_a_task_has_begun_by_hand_is_rolled_back(
    django_db_blocker: Any,
) -> None:
    default, other = connections["default"], connections["other"]
    with django_db_blocker.unblock():
        for connection in (default, other):
            connection.ensure_connection()
        with default.cursor() as cursor:
            cursor.execute("CREATE TABLE numbers (n integer UNIQUE)")
        other.set_autocommit(False)
        try:
            begun = AutocommitRestorer()
            begun.restore()
            assert default.autocommit
            default.set_autocommit(False)
            with default.cursor() as cursor:
                cursor.execute("INSERT INTO numbers VALUES (1)")
            begun.restore()
            assert default.autocommit
            assert not other.autocommit  # the test's own affair
            with default.cursor() as cursor:
                cursor.execute("SELECT n FROM numbers")
                assert cursor.fetchall() == []
            with transaction.atomic():
                begun.restore()
                assert default.in_atomic_block
        finally:
            other.rollback()
            other.set_autocommit(True)
            with default.cursor() as cursor:
                cursor.execute("DROP TABLE numbers")
