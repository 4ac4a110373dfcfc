"""What a statement did, by its text and by what its cursor knows."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pytest_djcelery.transactions.writes import Savepoint, _classified, savepoint_of, wrote


@pytest.fixture(autouse=True)
def _nothing_remembered() -> None:
    """What a statement does is found out once in a process: here, in each test."""
    _classified.cache_clear()


@pytest.mark.parametrize(
    "sql",
    [
        "CALL settle(1)",
        "DO $$ BEGIN UPDATE t SET a = 1; END $$",
        "DO $body$ BEGIN PERFORM settle(); END $body$ LANGUAGE plpgsql",
        "DO LANGUAGE plpgsql 'BEGIN PERFORM settle(); END'",
        "SELECT * INTO copy FROM t",
        "SELECT (SELECT max(a) FROM t) AS a INTO TABLE copy FROM t",
        "WITH x AS (SELECT 1 AS a) SELECT a INTO copy FROM x",
        "EXPLAIN ANALYZE INSERT INTO t VALUES (1)",
        "explain (analyze, format json) DELETE FROM t",
        "EXPLAIN ANALYZE VERBOSE WITH x AS (SELECT 1) UPDATE t SET a = 1",
        "EXPLAIN (ANALYZE) EXECUTE prepared",
        "ANALYZE FORMAT=JSON UPDATE t SET a = 1",
        "EXECUTE prepared(1)",
        "REFRESH MATERIALIZED VIEW CONCURRENTLY v",
    ],
)
def test_statements_that_write_by_what_they_execute(sql: str) -> None:
    assert wrote(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "EXPLAIN ANALYZE SELECT * FROM t",
        "EXPLAIN (ANALYZE FALSE) INSERT INTO t VALUES (1)",
        "EXPLAIN (VERBOSE) DELETE FROM t",
        "ANALYZE TABLE t",
        "ANALYZE t",
        "ANALYZE FORMAT=JSON SELECT * FROM t",
        "DO RELEASE_LOCK('x')",
        "PREPARE p AS INSERT INTO t VALUES (1)",
        "DEALLOCATE p",
        "SELECT a INTO @a FROM t",
        "SELECT * INTO TEMP copy FROM t",
        "SELECT 'INSERT INTO t' FROM t",
        'SELECT a AS "INTO" FROM t',
        "SELECT callable, execution FROM t",
    ],
)
def test_statements_that_only_look_so(sql: str) -> None:
    assert not wrote(sql)


def cursor(rowcount: int, **known: object) -> SimpleNamespace:
    """As Django's wrapper of a cursor on PostgreSQL, after a statement."""
    values = {"db": SimpleNamespace(vendor="postgresql"), "description": None, **known}
    return SimpleNamespace(rowcount=rowcount, **values)


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING",
        "INSERT INTO t VALUES (REPLACE('a', 'b', 'c')) ON CONFLICT DO NOTHING RETURNING id",
        "INSERT INTO t SELECT * FROM s",
        "UPDATE t SET a = 1 WHERE b = 2 RETURNING id",
        "DELETE FROM t",
        "MERGE INTO t USING s ON t.a = s.a WHEN MATCHED THEN DELETE",
        "WITH x AS (SELECT 1 AS a) UPDATE t SET a = x.a FROM x",
    ],
)
def test_a_statement_that_touches_no_row_is_not_a_write(sql: str) -> None:
    assert not wrote(sql, cursor(0))
    assert wrote(sql, cursor(1))
    assert wrote(sql, cursor(-1)), "the driver doesn't know"


@pytest.mark.parametrize(
    "sql",
    [
        "WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x",
        "WITH x AS (DELETE FROM t RETURNING *) INSERT INTO s SELECT * FROM x WHERE a",
        "EXPLAIN ANALYZE INSERT INTO t VALUES (1)",
        "SELECT 1; UPDATE t SET a = 1",
        "TRUNCATE t",
        "CALL settle(1)",
        "CREATE TABLE t (a int)",
    ],
)
def test_a_count_of_something_else_says_nothing(sql: str) -> None:
    assert wrote(sql, cursor(0))


def test_sqlite_counts_only_when_the_rows_were_fetched() -> None:
    sqlite = SimpleNamespace(vendor="sqlite")
    returned = cursor(0, db=sqlite, description=[("id",)])
    assert wrote("INSERT INTO t VALUES (1) RETURNING id", returned)
    assert not wrote("UPDATE t SET a = 1 WHERE b = 2", cursor(0, db=sqlite))


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (cursor(1, statusmessage="INSERT 0 1"), True),
        (cursor(0, statusmessage="INSERT 0 0"), False),
        (cursor(1, statusmessage="INSERT 0 1", description=[("id",)]), True),
        (cursor(1, statusmessage="SELECT 1"), False),
        (cursor(3, statusmessage="SELECT 3", description=[("a",)]), False),
        (cursor(1), True),
        (cursor(0), False),
        (cursor(2, description=[("a",)]), False),
    ],
)
def test_a_prepared_statement_is_recognised_by_its_effect(
    known: SimpleNamespace, *, expected: bool
) -> None:
    assert wrote("EXECUTE prepared", known) is expected


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ('SAVEPOINT "s1_x1"', Savepoint('"s1_x1"', set=True)),
        ("savepoint `s`", Savepoint("`s`", set=True)),
        ('ROLLBACK TO SAVEPOINT "s"', Savepoint('"s"', set=False)),
        ("ROLLBACK WORK TO s;", Savepoint("s", set=False)),
        ("RELEASE SAVEPOINT s", None),
        ("ROLLBACK", None),
        ("SELECT 'SAVEPOINT s'", None),
        (b"SAVEPOINT s", None),
    ],
)
def test_savepoints(sql: object, expected: Savepoint | None) -> None:
    assert savepoint_of(sql) == expected
