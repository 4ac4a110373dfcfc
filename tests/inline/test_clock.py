"""The clock that `celery_inline` moves, and those that a test moves itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Project

Run = Callable[..., pytest.RunResult]


def test_what_code_under_test_sees(run: Run, project: Project) -> None:
    project.write(**{"shop/models": """
        from django.db import models


        class Order(models.Model):
            name = models.CharField(max_length=50, default="")
            changed = models.DateTimeField(auto_now=True)
        """, "shop/migrations/0002_changed": """
        from django.db import migrations, models


        class Migration(migrations.Migration):
            dependencies = [("shop", "0001_initial")]
            operations = [
                migrations.AddField("Order", "changed", models.DateTimeField(auto_now=True))
            ]
        """})  # fmt: skip
    project.tasks("""
        @shared_task
        def expiring():
            return "in time"
    """)
    result = run("""
        import time
        from datetime import datetime, timedelta, timezone as tz

        import pytest
        import time_machine
        from django.utils import timezone
        from pytest_djcelery import Revoked, Success
        from shop.models import Order
        from shop.tasks import add, expiring, ship

        @pytest.mark.django_db
        def test_auto_now_and_date_done(celery_inline):
            order = Order.objects.create()
            began = timezone.now()
            result = ship.apply_async((order.pk,), countdown=7200)
            assert celery_inline.run(until=timedelta(hours=3)).succeeded == 1
            order.refresh_from_db()
            assert abs(order.changed - began - timedelta(hours=2)) < timedelta(seconds=1)
            assert abs(result.date_done - order.changed) < timedelta(seconds=1)

        def test_expiry(celery_inline, celery_results):
            soon = expiring.apply_async(countdown=60, expires=3600)
            late = expiring.apply_async(countdown=7200, expires=3600)
            celery_inline.advance(timedelta(minutes=5))
            waiting = expiring.apply_async(expires=60)
            celery_inline.advance(timedelta(minutes=5))
            summary = celery_inline.run(until=timedelta(days=1))
            assert (summary.succeeded, summary.expired, summary.revoked) == (1, 2, 0)
            assert celery_results[soon] == Success("in time")
            assert celery_results[late] == celery_results[waiting] == Revoked()

        def test_ties_are_delivered_in_the_order_they_were_sent(celery_inline):
            eta = timezone.now() + timedelta(hours=1)
            sent = [add.apply_async((n, n), eta=eta).id for n in range(20)]
            first = add.apply_async((0, 0), eta=eta - timedelta(seconds=1)).id
            assert [each.id for each in celery_inline.scheduled] == [first, *sent]
            summary = celery_inline.run(until=timedelta(hours=2))
            assert [each.id for each in summary.executions] == [first, *sent]

        def test_monotonic_clocks_go_on(celery_inline):
            celery_inline.advance(timedelta(days=1))
            before = time.monotonic()
            time.sleep(0.01)
            assert 0.01 <= time.monotonic() - before < 5

        def test_until_a_datetime_stands_there(celery_inline):
            end = timezone.now() + timedelta(hours=5)
            celery_inline.run(until=end)
            assert timezone.now() == end == timezone.now()

        def test_only_the_queues_asked_for_wake_the_clock(celery_inline):
            add.apply_async((1, 2), countdown=60, queue="other")
            mine = add.apply_async((3, 4), countdown=120)
            summary = celery_inline.run(queues=["celery"], until=timedelta(hours=1))
            assert [each.id for each in summary.executions] == [mine.id]
            assert [each.queue for each in celery_inline.pending] == ["other"]
            assert celery_inline.run().succeeded == 1

        def test_put_back():
            assert not time_machine.escape_hatch.is_travelling()
            assert datetime.now(tz.utc).year < 2900

        def test_put_back_after_an_error(celery_inline):
            celery_inline.advance(timedelta(days=400_000))
            assert datetime.now(tz.utc).year > 2900

        def test_put_back_again():
            assert datetime.now(tz.utc).year < 2900
    """)
    result.assert_outcomes(passed=9)


def test_pitfall_44_the_clock_follows_a_test_that_travels_by_itself(run: Run) -> None:
    pytest.importorskip("freezegun")
    result = run("""
        import time
        from datetime import datetime, timedelta, timezone as tz
        from zoneinfo import ZoneInfo

        import freezegun
        import time_machine
        from django.utils import timezone
        from pytest_djcelery import Success
        from shop.tasks import add

        @time_machine.travel(datetime(2030, 1, 1, 12, tzinfo=ZoneInfo("Asia/Tokyo")), tick=False)
        def test_time_machine(celery_inline, celery_results):
            result = add.apply_async((1, 2), countdown=3600)
            celery_inline.run(until=timedelta(hours=2))
            assert celery_results[result] == Success(3)
            assert datetime.now() == datetime(2030, 1, 1, 14)  # local time is still Tokyo's

        def test_the_fixture_of_time_machine(celery_inline, time_machine):
            time_machine.move_to("2031-01-01 00:00 +0000")
            add.apply_async((1, 2), countdown=3600)
            assert celery_inline.run(until=timedelta(hours=2)).succeeded == 1
            assert f"{timezone.now():%Y-%m-%d %H:%M}" == "2031-01-01 02:00"

        @freezegun.freeze_time("2032-01-01")
        def test_freezegun(celery_inline, celery_results):
            result = add.apply_async((1, 2), countdown=3600)
            assert celery_inline.run().succeeded == 0
            celery_inline.run(until=timedelta(hours=2))
            assert celery_results[result] == Success(3)
            assert datetime.now() == datetime(2032, 1, 1, 2)

        def test_freezegun_inside(celery_inline):
            with freezegun.freeze_time("2033-01-01") as frozen:
                result = add.apply_async((1, 2), countdown=3600)
                frozen.tick(3601)
                assert celery_inline.run().succeeded == 1

        def test_travelling_inside_a_moved_clock(celery_inline):
            celery_inline.advance(timedelta(days=1))
            before = time.time()
            with time_machine.travel("2034-01-01 00:00 +0000", tick=False):
                add.apply_async((1, 2), countdown=60)
                assert celery_inline.run(until=timedelta(minutes=2)).succeeded == 1
            assert time.time() == before

        def test_real_time_again():
            assert not time_machine.escape_hatch.is_travelling()
    """)
    result.assert_outcomes(passed=6)
