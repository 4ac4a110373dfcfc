"""Hundreds of tests through workers on PostgreSQL and MariaDB: then the database can be dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import databases

if TYPE_CHECKING:
    from tests.support.project import Project, Run

pytestmark = pytest.mark.usefixtures("unmeasured")


@pytest.mark.parametrize("database", databases.SERVERS)
def test_pitfall_38_five_hundred_tests_leave_no_connection(
    run: Run, project: Project, database: str
) -> None:
    databases.use(project, database)
    project.settings('INSTALLED_APPS = ["shop"]')  # each test empties all tables
    result = run(
        """
        import pytest
        from shop.models import Order
        from shop.tasks import ship

        @pytest.fixture(scope="session")
        def celery_worker_pool():
            return "threads"

        @pytest.mark.parametrize("number", range(500))
        def test_it(transactional_db, celery_worker, number):
            result = ship.delay(Order.objects.create().pk)
            if number % 2:  # else the end of the test waits for it
                assert result.get() == "shipped"
        """,
        "--create-db",
    )
    result.assert_outcomes(passed=500)
    assert result.ret == 0
    result.stdout.no_fnmatch_line("*being accessed by other users*")
    result.stdout.no_fnmatch_line("*Error when trying to teardown test databases*")
    assert databases.left_on_server(database) == []
