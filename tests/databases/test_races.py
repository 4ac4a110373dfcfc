"""What counts as a write of a transaction that has sent a message, as each database tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import databases

if TYPE_CHECKING:
    from tests.support.project import Project, Run

STATEMENTS = {
    databases.IN_MEMORY: {
        True: (
            "INSERT INTO shop_order (name) VALUES ('new')",
            "INSERT INTO shop_order (name) VALUES ('new') RETURNING id",
            "WITH x AS (SELECT 'new' AS name) INSERT INTO shop_order (name) SELECT name FROM x",
        ),
        False: (
            "INSERT INTO shop_order (id, name) VALUES (1000, 'taken') ON CONFLICT DO NOTHING",
            "UPDATE shop_order SET name = 'x' WHERE id = 9",
            "EXPLAIN INSERT INTO shop_order (name) VALUES ('new')",
        ),
    },
    databases.POSTGRESQL: {
        True: (
            "INSERT INTO shop_order (name) VALUES ('new') RETURNING id",
            "CALL settle()",
            "DO $$ BEGIN UPDATE shop_order SET name = 'x'; END $$",
            "SELECT * INTO copy FROM shop_order",
            "EXPLAIN ANALYZE INSERT INTO shop_order (name) VALUES ('new')",
            "EXECUTE write('new')",
            "REFRESH MATERIALIZED VIEW names",
            "WITH x AS (DELETE FROM shop_order RETURNING *) SELECT * FROM x WHERE id = 9",
        ),
        False: (
            "INSERT INTO shop_order (id, name) VALUES (1000, 'taken') ON CONFLICT DO NOTHING",
            "INSERT INTO shop_order VALUES (1000, '') ON CONFLICT DO NOTHING RETURNING id",
            "UPDATE shop_order SET name = 'x' WHERE id = 9 RETURNING id",
            "WITH x AS (SELECT 9 AS id) DELETE FROM shop_order o USING x WHERE o.id = x.id",
            "EXECUTE look",
            "EXPLAIN ANALYZE SELECT * FROM shop_order",
        ),
    },
    databases.MARIADB: {
        True: (
            "INSERT INTO shop_order (name) VALUES ('new') RETURNING id",
            "CALL settle()",
            "EXECUTE write_it",
            "EXECUTE IMMEDIATE 'DELETE FROM shop_order'",
            "ANALYZE DELETE FROM shop_order",
        ),
        False: (
            "INSERT IGNORE INTO shop_order (id, name) VALUES (1000, 'taken')",
            "DELETE FROM shop_order WHERE id = 9 RETURNING id",
            "EXECUTE look",
            "SELECT name INTO @name FROM shop_order WHERE id = 1000",
            "DO SLEEP(0)",
        ),
    },
}
PREPARED = {
    databases.IN_MEMORY: (),
    databases.POSTGRESQL: (
        "CREATE OR REPLACE PROCEDURE settle() AS $$ DELETE FROM shop_order $$ LANGUAGE sql",
        "CREATE MATERIALIZED VIEW names AS SELECT name FROM shop_order",
        "PREPARE write(text) AS INSERT INTO shop_order (name) VALUES ($1)",
        "PREPARE look AS SELECT * FROM shop_order",
    ),
    databases.MARIADB: (
        "CREATE OR REPLACE PROCEDURE settle() UPDATE shop_order SET name = 'x'",
        "PREPARE write_it FROM 'UPDATE shop_order SET name = NOW()'",
        "PREPARE look FROM 'SELECT * FROM shop_order'",
    ),
}
UNDONE = {
    databases.IN_MEMORY: (),
    databases.POSTGRESQL: (
        "DEALLOCATE ALL", "DROP MATERIALIZED VIEW names", "DROP TABLE IF EXISTS copy",
    ),
    databases.MARIADB: (),
}  # fmt: skip
TESTS = """
    import warnings

    import pytest
    from django.db import connection, transaction
    from shop.models import Order
    from shop.tasks import add
    from statements import PREPARED, STATEMENTS, UNDONE

    from pytest_djcelery import SentInTransactionWarning

    def run(*statements):
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
                if cursor.description:
                    cursor.fetchall()

    @pytest.fixture
    def prepared(request):
        Order.objects.create(id=1000, name="taken")
        run(*PREPARED)
        yield
        run(*UNDONE)

    class InEither:
        @pytest.mark.parametrize("statement", STATEMENTS[True])
        @pytest.mark.usefixtures("prepared")
        def test_writes(self, celery_outbox, statement):
            with pytest.warns(SentInTransactionWarning), transaction.atomic():
                run(statement)
                add.delay(1, 2)

        @pytest.mark.parametrize("statement", STATEMENTS[False])
        @pytest.mark.usefixtures("prepared")
        def test_writes_nothing(self, celery_outbox, statement):
            with transaction.atomic():  # warnings are errors
                run(statement)
                add.delay(1, 2)

        @pytest.mark.usefixtures("prepared")
        def test_querysets_that_touch_no_row(self, celery_outbox):
            with transaction.atomic():
                Order.objects.bulk_create([Order(id=1000)], ignore_conflicts=True)
                Order.objects.filter(name="nobody").update(name="x")
                Order.objects.get_or_create(id=1000)
                add.delay(1, 2)
"""
STYLES = {
    "rollback": "@pytest.mark.django_db\nclass Test(InEither):\n    pass\n",
    "real": "@pytest.mark.django_db(transaction=True)\nclass Test(InEither):\n    pass\n",
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("database", STATEMENTS)
def test_a_statement_counts_by_what_it_did(
    run: Run, project: Project, database: str, style: str
) -> None:
    if database == databases.MARIADB and style == "rollback":
        pytest.skip("to create a procedure ends the test's transaction")
    databases.use(project, database)
    statements = STATEMENTS[database]
    project.write(
        statements=f"PREPARED = {PREPARED[database]!r}\n"
        f"STATEMENTS = {statements!r}\nUNDONE = {UNDONE[database]!r}\n"
    )
    result = run(TESTS + "\n\n" + "\n".join(f"    {line}" for line in STYLES[style].splitlines()))
    result.assert_outcomes(passed=sum(map(len, statements.values())) + 1)
