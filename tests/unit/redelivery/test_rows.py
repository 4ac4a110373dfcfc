"""Which rows a run has changed, in words; on SQLite, with nothing of pytest around it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from django.db import DatabaseError, connection, transaction

from pytest_djcelery.redelivery.contents import MOST_ROWS
from pytest_djcelery.redelivery.rows import Tables, WrittenRows
from tests.unit import django_in_process

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.skipif(
    not django_in_process.is_ours, reason="Django was configured by another module"
)


def sql(*statements: str, values: Sequence[object] = ()) -> None:
    """Execute statements as code under test does."""
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement, values)


@pytest.fixture(autouse=True)
def tables(django_db_blocker: Any) -> Iterator[None]:
    """Three tables that no model knows: with a key, with a key of two columns, with none."""
    with django_db_blocker.unblock():
        _create_tables()
        yield
        sql(*(f"DROP TABLE IF EXISTS {name}" for name in ("paid", "seats", "lines", "new")))


def _create_tables() -> None:
    sql(
        'CREATE TABLE "paid" (id integer PRIMARY KEY, name text, size integer, raw blob)',
        "CREATE TABLE seats (row integer, number integer, guest text, PRIMARY KEY (row, number))",
        "CREATE TABLE lines (text text)",
        "INSERT INTO paid (id, name, size) VALUES (1, 'one', 1), (2, 'two', 2), (3, NULL, 3)",
        "INSERT INTO seats VALUES (1, 1, 'ada'), (1, 2, 'eve')",
        "INSERT INTO lines VALUES ('a'), ('a'), ('b')",
    )


@contextmanager
def changes() -> Iterator[list[str]]:
    """Fill the list with what changes within the ``with``."""
    found: list[str] = []
    with WrittenRows() as rows:
        yield found
        found += rows.changes()


@pytest.mark.parametrize(
    ("statements", "found"),
    [
        (["INSERT INTO paid (name) VALUES ('x'), ('y')"], ["INSERT paid: 2 rows"]),
        (["REPLACE INTO paid VALUES (1, 'one', 1, NULL)"], []),
        (["UPDATE paid SET size = size WHERE id > 1"], []),
        (["UPDATE paid SET size = 5 WHERE id = 2"], ["UPDATE paid 2: size 2 → 5"]),
        (
            ["UPDATE paid SET name = 'x', raw = x'0102' WHERE id = 3"],
            ['UPDATE paid 3: name NULL → "x", raw NULL → 2 bytes'],
        ),
        (
            ["UPDATE seats SET guest = 'bob' WHERE number = 2"],
            ['UPDATE seats (1, 2): guest "eve" → "bob"'],
        ),
        (["DELETE FROM paid WHERE id = 1", "DELETE FROM seats"], [
            "DELETE paid: 1 row", "DELETE seats: 2 rows",
        ]),
        (["DELETE FROM lines WHERE text = 'b'", "INSERT INTO lines VALUES ('a')"], [
            "INSERT lines: 1 row", "DELETE lines: 1 row",
        ]),
        (["UPDATE paid SET id = 9 WHERE id = 3"], ["INSERT paid: 1 row", "DELETE paid: 1 row"]),
        (["DELETE FROM paid", "INSERT INTO paid VALUES (1, 'one', 1, NULL), (2, 'two', 2, NULL)"], [
            "DELETE paid: 1 row"
        ]),
        (["WITH x AS (SELECT 7 AS id) INSERT INTO [paid] (id) SELECT id FROM x"], [
            "INSERT paid: 1 row"
        ]),
        (["ALTER TABLE lines ADD COLUMN more text"], ["ALTER lines: text → text, more"]),
        (["CREATE TABLE new (id integer)", "INSERT INTO new VALUES (1)"], ["INSERT new: 1 row"]),
        (["DROP TABLE lines"], ["lines can't be read any more: no such table: lines"]),
        (["SELECT 'INSERT INTO paid'"], []),
    ],
)  # fmt: skip
def test_each_change_is_one_line(statements: list[str], found: list[str]) -> None:
    with changes() as known:
        sql(*statements)
    assert known == found


def test_of_many_updates_the_first_three_are_shown_and_of_a_long_text_its_beginning() -> None:
    sql("INSERT INTO paid (name) VALUES ('4'), ('5')")
    with changes() as known:
        sql("UPDATE paid SET name = %s", values=["x\n" * 40])
    shown = '"' + "x\\n" * 29 + 'x…"'
    assert known == [
        f'UPDATE paid 1: name "one" → {shown}',
        f'UPDATE paid 2: name "two" → {shown}',
        f"UPDATE paid 3: name NULL → {shown}",
        "UPDATE paid: 2 more rows",
    ]


def test_a_large_table_is_counted_and_summed_up() -> None:
    few = f"WITH RECURSIVE n(i) AS (VALUES(10) UNION ALL SELECT i+1 FROM n WHERE i < {MOST_ROWS})"
    fill = f"{few} INSERT INTO paid (id, name) SELECT i, 'x' FROM n"
    too_many = "rows, too many to compare one by one"
    with changes() as known:
        sql(fill)
        sql(fill.replace("(10)", "(-900)").replace(f"< {MOST_ROWS}", "< 0"))
    assert known == [f"paid (1,895 {too_many}): 1,892 more rows"]
    with changes() as known:
        sql("UPDATE paid SET name = 'x' WHERE id = 20")
    assert known == []
    with changes() as known:
        sql("UPDATE paid SET name = 'y' WHERE id = 20")
    assert known == [f"paid (1,895 {too_many}): as many rows, with other contents"]
    with changes() as known:
        sql("DELETE FROM paid WHERE id > 3")
    assert known == [f"paid (1,895 {too_many}): 991 fewer rows"]


def test_in_a_transaction_all_is_undone_but_what_was_there_before() -> None:
    with transaction.atomic():
        sql("INSERT INTO lines VALUES ('before')")
        with changes() as known:
            sql("INSERT INTO lines VALUES ('in it')")
            with transaction.atomic():
                sql("DELETE FROM paid")
                transaction.set_rollback(True)
        with pytest.raises(DatabaseError), changes():
            sql("INSERT INTO lines VALUES ('and again')", "INSERT INTO nowhere VALUES (1)")
    assert known == ["INSERT lines: 1 row"]
    with connection.cursor() as cursor:
        cursor.execute("SELECT text FROM lines")
        assert [text for [text] in cursor.fetchall()] == ["a", "a", "b", "before"]
        cursor.execute("SELECT count(*) FROM paid")
        assert cursor.fetchone() == (3,)


def test_a_procedure_may_write_to_any_table() -> None:
    with WrittenRows() as rows:
        rows.procedure_called(connection)
        connection.connection.execute("DELETE FROM lines")  # as a procedure does: unseen
        assert rows.changes() == ["DELETE lines: 3 rows"]


def test_outside_of_one_it_stays() -> None:
    with changes() as known:
        sql("DELETE FROM lines")
    assert known == ["DELETE lines: 3 rows"]
    with changes() as known:
        sql("DELETE FROM lines")
    assert known == []
    assert not connection.execute_wrappers


@pytest.mark.parametrize(
    ("statement", "written"),
    [
        ('UPDATE "PAID" SET size = 1', ["paid"]),
        ("INSERT INTO main.paid SELECT * FROM seats", ["paid", "seats"]),  # one too many
        ("DELETE FROM `lines` WHERE text IN (SELECT guest FROM seats)", ["lines", "seats"]),
        (b"DELETE FROM paid", ["paid"]),
        ("SELECT * FROM paid FOR UPDATE", []),
        ("SAVEPOINT paid", []),
    ],
)
def test_the_tables_that_a_statement_may_write_to(statement: str, written: list[str]) -> None:
    assert sorted(Tables().written_by(statement, connection)) == written


def test_a_statement_that_hides_what_it_writes_may_write_to_every_table() -> None:
    assert {"lines", "paid", "seats"} <= {*Tables().written_by("CALL settle()", connection)}
