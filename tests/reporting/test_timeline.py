"""The table that a failing test prints, wherever and however its tasks run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project, Run

TITLE = "*-- celery: timeline --*"
VIEWS = {
    "proj/urls": """
        from django.urls import path
        from shop import views

        urlpatterns = [path("orders/", views.order)]
        """,
    "shop/views": """
        from django.db import transaction
        from django.http import HttpResponse
        from shop import tasks
        from shop.models import Order

        def order(request):
            with transaction.atomic():
                order = Order.objects.create()
                tasks.ship.delay_on_commit(order.pk)
            tasks.fail.apply_async(("late",), countdown=3600)
            return HttpResponse("ok")
        """,
}


def test_a_failing_test_shows_what_happened_and_a_passing_one_nothing(
    run: Run, project: Project
) -> None:
    project.write(**VIEWS)
    result = run("""
        from datetime import timedelta
        from pytest_djcelery import timeline
        from shop.tasks import add

        def test_failing(db, client, celery_inline):
            client.post("/orders/")
            celery_inline.run(until=timedelta(hours=2))

        def test_passing(db, client, celery_inline, celery_outbox):
            client.post("/orders/")
            celery_inline.run()
            assert len(celery_outbox) == 2
            assert "② fail('late')" in timeline()
            assert "ETA in 1 h" in timeline(limit=2)

        def test_without_a_fixture():
            assert timeline() == ""
            raise KeyError("own")

        def test_without_a_message(celery_outbox):
            raise KeyError("own")
        """)
    result.assert_outcomes(passed=1, failed=3)
    result.stdout.fnmatch_lines(
        [
            TITLE,
            "*ms  clock *what *queue *took  outcome",
            ' *  test_it.py:7  client.post("/orders/")',
            " *    request POST /orders/*.?",
            " *      atomic shop/views.py:*.?  committed",
            " *        hook ship.delay_on_commit*.?  ran",
            " *          publish ① ship(1)*celery",
            " *      publish ② fail('late')*celery*ETA in 1 h",
            " *            run ① ship*.?  SUCCESS 'shipped'",
            ">*  ??:??:?? *run ② fail*.?  FAILURE ValueErr*",
            "  *  FAILURE ValueError: late",
            "  *  fail('late') was sent at shop/views.py:*.",
        ]
    )
    result.stdout.fnmatch_lines([TITLE, "No message was published and no task ran."])
    assert str(result.stdout).count("celery: timeline") == 2


@pytest.mark.parametrize("options", [("-n", "2"), ("-p", "no:terminal"), ("--color=yes",)])
def test_the_table_travels_through_xdist_and_has_the_colours_of_the_terminal(
    run: Run, options: tuple[str, ...]
) -> None:
    result = run(
        """
        from unittest import TestCase

        import pytest
        from shop.tasks import add, fail

        def test_worker(celery_worker):
            fail.delay("boo")

        @pytest.mark.usefixtures("celery_inline")
        class TestClass(TestCase):
            def test_method(self):
                add.delay(1, 2)
                self.fail("unrelated")
        """,
        *options,
    )
    if "no:terminal" in options:
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        assert not str(result.stderr)
        return
    result.assert_outcomes(failed=2)
    start, end = ("\x1b[[]31m\x1b[[]1m", "\x1b[[]0m") if "--color=yes" in options else ("", "")
    result.stdout.fnmatch_lines([TITLE, f"{start}>*run ① fail*FAILURE ValueError: boo*{end}"])
    result.stdout.fnmatch_lines([TITLE, f"{start}>*publish ① add(1, 2)*never ran: due{end}"])


def test_a_clock_that_the_test_moves_is_shown_and_a_real_one_is_not(run: Run) -> None:
    result = run("""
        import asyncio
        import datetime as dt

        import time_machine
        from freezegun import freeze_time
        from pytest_djcelery import timeline
        from shop.tasks import add

        def test_real(celery_inline):
            add.delay(1, 2)
            celery_inline.run()
            heading, *_ = timeline().splitlines()
            assert heading.split() == ["ms", "what", "queue", "took", "outcome"]

        @freeze_time("2031-02-03 04:05:06")
        def test_frozen(celery_inline):
            add.delay(1, 2)
            raise KeyError(timeline())

        def test_travelled(celery_eager):
            with time_machine.travel(dt.datetime(2032, 1, 1, tzinfo=dt.timezone.utc)):
                asyncio.run(asyncio.to_thread(add.delay, 1, 2))
                with time_machine.travel(dt.datetime(2032, 2, 1, tzinfo=dt.timezone.utc)):
                    add.delay(1, 2)
                raise KeyError("own")
        """)
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(
        [TITLE, "*04:05:06*publish ① add(1, 2)*", "  The clock was moved; it is *UTC, 2031-02-03."]
    )
    result.stdout.fnmatch_lines(
        [
            TITLE,
            "*01-01 00:00:00 *eager*",
            "*02-01 00:00:00 *eager*",
            "*UTC, 2032-01-01 to 2032-02-01.",
        ]
    )


def test_a_limit_that_is_none_is_refused(run: Run) -> None:
    result = run("""
        import pytest
        from pytest_djcelery import BadOptionError, timeline

        @pytest.mark.parametrize("limit", [0, -1, True, "all", None])
        def test_limit(limit):
            with pytest.raises(BadOptionError, match="expected a whole number greater than zero"):
                timeline(limit)
        """)
    result.assert_outcomes(passed=5)
