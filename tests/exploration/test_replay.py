"""A schedule runs alone by its token, in the debugger too; and each run sees the same schedules."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Run

#: The bugs of the tutorial, on the model that the project has.
BUGS = """
    import pytest
    from celery import shared_task
    from django.core.mail import send_mail
    from shop.models import Order

    pytestmark = pytest.mark.django_db

    @shared_task
    def change(pk, by):
        order = Order.objects.get(pk=pk)
        order.name = str(int(order.name) + by)
        order.save()

    @shared_task
    def announce(pk):
        send_mail(f"New: {pk}", "", None, ["customers@example.com"])

    @shared_task
    def import_early(names):
        Order.objects.bulk_create([Order(name=name) for name in names])

    @pytest.mark.celery_explore
    def test_stock(celery_inline):
        stock = Order.objects.create(name="0")
        change.delay(stock.pk, +9)
        for _ in range(3):
            change.delay(stock.pk, -1)
        worst = 0
        while celery_inline.step():
            worst = min(worst, int(Order.objects.get().name))
        assert worst >= 0

    @pytest.mark.celery_explore(duplicates=1)
    def test_mail(celery_inline, mailoutbox):
        for number in range(3):
            announce.delay(number)
        celery_inline.run()
        assert len(mailoutbox) == 3

    @pytest.mark.celery_explore(crashes=1)
    def test_import(celery_inline):
        import_early.delay(["a", "b"])
        import_early.delay(["c"])
        celery_inline.run()
        assert Order.objects.count() == 3
"""


def reported(result: pytest.RunResult) -> list[str]:
    """The first line of each report, its steps, and its token."""
    text = result.stdout.str()
    return re.findall(r"ScheduleFailedError: (.*schedules fail;.*(?:\nE     .*)+)", text) + sorted(
        re.findall(r"--djcelery-schedule=(\S+)", text)
    )


@pytest.mark.long
def test_each_run_finds_the_same_bugs_within_fifty_schedules(run: Run) -> None:
    first = run(BUGS)
    first.assert_outcomes(failed=3)
    found = reported(first)
    assert all(int(re.search(r"of (\d+) schedules", text)[1]) <= 50 for text in found[:3])  # type: ignore[index]
    assert found[0].splitlines()[1:] == [
        "E     1  change(1, -1) #1   delivered before change(1, 9)"
    ]
    assert found[1].splitlines()[2:] == ["E     2  announce(0)   delivered again"]
    again = run(BUGS, "-p", "randomly", "-p", "xdist", "-n", "2", "-p", "no:cacheprovider")
    again.assert_outcomes(failed=3)
    assert sorted(reported(again)) == sorted(found)


DEBUGGER = """
    import pdb

    class Debugger(pdb.Pdb):
        "Says where it stops, and goes on."

        def interaction(self, frame, tb_or_exc, *rest):
            import traceback
            tb = getattr(tb_or_exc, "__traceback__", tb_or_exc)
            while tb.tb_next:
                tb = tb.tb_next
            print("STOPPED IN", tb.tb_frame.f_code.co_name)
"""


def test_a_token_alone_runs_its_test_in_the_debugger(run: Run) -> None:
    found = re.search(r"--djcelery-schedule=(\S+)", run(BUGS, "-k", "mail").stdout.str())
    assert found is not None
    project = run.__self__  # type: ignore[attr-defined]
    project.write(debugger=DEBUGGER)
    result = run(
        BUGS, f"--djcelery-schedule={found[1]}", "--pdb", "--pdbcls=debugger:Debugger", "-s"
    )
    result.assert_outcomes(failed=1, deselected=2)
    result.stdout.fnmatch_lines(["STOPPED IN test_mail"])
