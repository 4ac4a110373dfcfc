"""``@pytest.mark.celery_explore``: one test, run once for each schedule that can happen."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.project import Project, Run

STOCK = """
    import pytest
    from celery import shared_task
    from shop.models import Order

    pytestmark = pytest.mark.django_db

    @shared_task
    def reserve(order):
        stock = Order.objects.get()
        stock.name = str(int(stock.name) * 2 if order == 1 else int(stock.name) - 3)
        stock.save()

    @pytest.mark.celery_explore(duplicates=1)
    def test_stock_is_never_negative(celery_inline, celery_outbox):
        Order.objects.create(name="2")
        reserve.delay(order=1)
        reserve.delay(order=2)
        assert len(celery_outbox) == 2
        celery_inline.run()
        assert int(Order.objects.get().name) >= 0
"""


def test_the_least_failing_schedule_is_reported_and_replayed(project: Project, run: Run) -> None:
    result = run(STOCK)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            ">       assert int(Order.objects.get().name) >= 0",
            "The above exception was the direct cause*",
            "E   *ScheduleFailedError: 5 of 8 schedules fail; the least that does:",
            "E     1  reserve(order=2)   delivered before reserve(order=1)",
            "E   AssertionError: assert -2 >= 0",
            "E   Replay: pytest test_it.py::test_stock_is_never_negative --djcelery-schedule=*",
            "*FAILED test_it.py::test_stock_is_never_negative*",
        ],
        consecutive=False,
    )
    result.stdout.no_fnmatch_line("*traceback entries are hidden*")
    [token] = set(re.findall(r"--djcelery-schedule=(\S+)", result.stdout.str()))
    replayed = run(STOCK, f"--djcelery-schedule={token}", "-v")
    replayed.assert_outcomes(failed=1)
    replayed.stdout.fnmatch_lines(
        [
            "E   *ScheduleFailedError: The schedule fails:",
            "E     1  reserve(order=2)   delivered before reserve(order=1)",
            f"E   Replay: * --djcelery-schedule={token}",
        ]
    )


def test_a_green_test_says_what_it_covered(project: Project, run: Run) -> None:
    result = run(
        """
        import pytest
        from shop.models import Order
        from shop.tasks import add, count_orders, ship

        orders = []

        @pytest.mark.django_db
        @pytest.mark.celery_explore
        def test_all(celery_inline, celery_outbox):
            assert not Order.objects.exists() and not celery_outbox
            order = Order.objects.create()
            for number in range(3):
                add.delay(number, 1)
            summary = celery_inline.run()
            orders.append([execution.message.args[0] for execution in summary.executions])

        def test_each_order_came_once():
            assert len(orders) == 6 == len(set(map(tuple, orders)))
            assert orders[0] == [0, 1, 2]

        @pytest.mark.celery_explore(examples=30)
        def test_some(celery_inline):
            for number in range(5):
                add.delay(number, 1)
            celery_inline.run()

        @pytest.mark.celery_explore(orders=False, crashes=1)
        def test_lost(celery_inline):
            add.delay(1, 2)
            celery_inline.run()
        """,
        "-v", "--junitxml=report.xml",
    )  # fmt: skip
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(
        [
            "*::test_all PASSED (6 schedules, all there are)*",
            "*::test_some PASSED (30 schedules: all of up to 1 deviation, and 19 drawn)*",
            "*::test_lost PASSED (3 schedules, all there are)*",
        ]
    )
    report = (project.path / "report.xml").read_text()
    assert 'name="celery_explore" value="6 schedules, all there are"' in report
    assert (
        'name="celery_explore_lost" value="add(1, 2) was lost with its worker at the end' in report
    )
