"""The clock that `celery_inline` moves, and those that a test moves itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project, Run

WITH_TIME_OF_CHANGE = {"shop/models": """
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
    """}  # fmt: skip


CLOCKS = """
import time
from datetime import datetime, timedelta, timezone as tz

import pytest
import time_machine
from django.utils import timezone
from pytest_djcelery import Revoked, Success
from shop.models import Order
from shop.tasks import add
"""


def test_code_under_test_sees_the_moved_clock(run: Run, project: Project) -> None:
    project.write(**WITH_TIME_OF_CHANGE)
    project.tasks("""
        @shared_task
        def expiring():
            return "in time"
    """)
    result = run(
        """
        from shop.tasks import expiring, ship

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

        def test_monotonic_clocks_go_on(celery_inline):
            celery_inline.advance(timedelta(days=1))
            before = time.monotonic()
            time.sleep(0.01)
            assert 0.01 <= time.monotonic() - before < 5

        def test_until_a_datetime_stands_there(celery_inline):
            end = timezone.now() + timedelta(hours=5)
            celery_inline.run(until=end)
            assert timezone.now() == end == timezone.now()
        """,
        preamble=CLOCKS,
    )
    result.assert_outcomes(passed=4)


def test_the_clock_moves_to_etas_in_the_order_of_sending_and_for_queues_asked_for(run: Run) -> None:
    result = run(
        """
        def test_ties_are_delivered_in_the_order_they_were_sent(celery_inline):
            eta = timezone.now() + timedelta(hours=1)
            sent = [add.apply_async((n, n), eta=eta).id for n in range(20)]
            first = add.apply_async((0, 0), eta=eta - timedelta(seconds=1)).id
            assert [each.id for each in celery_inline.scheduled] == [first, *sent]
            summary = celery_inline.run(until=timedelta(hours=2))
            assert [each.id for each in summary.executions] == [first, *sent]

        @pytest.mark.celery_queues("celery", "other")
        def test_only_the_queues_asked_for_wake_the_clock(celery_inline):
            add.apply_async((1, 2), countdown=60, queue="other")
            mine = add.apply_async((3, 4), countdown=120)
            summary = celery_inline.run(queues=["celery"], until=timedelta(hours=1))
            assert [each.id for each in summary.executions] == [mine.id]
            assert [each.queue for each in celery_inline.pending] == ["other"]
            assert celery_inline.run().succeeded == 1
        """,
        preamble=CLOCKS,
    )
    result.assert_outcomes(passed=2)


def test_the_clock_is_put_back(run: Run) -> None:
    result = run(
        """
        def test_put_back():
            assert not time_machine.escape_hatch.is_travelling()
            assert datetime.now(tz.utc).year < 2900

        def test_put_back_after_an_error(celery_inline):
            celery_inline.advance(timedelta(days=400_000))
            assert datetime.now(tz.utc).year > 2900

        def test_put_back_again():
            assert datetime.now(tz.utc).year < 2900
        """,
        preamble=CLOCKS,
    )
    result.assert_outcomes(passed=3)


def test_times_compare_exactly_where_the_clock_stands(run: Run) -> None:
    result = run("""
        from datetime import timedelta

        import pytest
        import time_machine
        from django.utils import timezone
        from shop.tasks import add

        def compare(sent, near):
            moment = sent[0].sent_at + timedelta(seconds=60)
            half = timedelta(seconds=0.5)
            assert sent == [add.s(1, 2).set(countdown=60)]
            assert sent == [add.s(1, 2).set(eta=moment, expires=120)]
            assert (sent == [add.s(1, 2).set(countdown=60.5)]) is near
            assert (sent == [add.s(1, 2).set(eta=moment + half)]) is near
            assert (sent == [add.s(1, 2).set(expires=120.5)]) is near
            assert sent != [add.s(1, 2).set(countdown=62)]

        def test_real_time(celery_outbox):
            add.apply_async((1, 2), countdown=60, expires=120)
            compare(celery_outbox, near=True)

        def test_a_clock_that_stands(celery_inline, celery_outbox):
            celery_inline.advance(timedelta(days=1))
            add.apply_async((1, 2), countdown=60, expires=120)
            compare(celery_outbox, near=False)

        @pytest.mark.parametrize("ticks", [True, False])
        def test_a_journey_of_the_tests_own(celery_outbox, ticks):
            with time_machine.travel("2030-01-01 00:00 +0000", tick=ticks):
                add.apply_async((1, 2), countdown=60, expires=120)
            compare(celery_outbox, near=ticks)
    """)
    result.assert_outcomes(passed=4)


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


def test_the_innermost_traveller_is_moved_whoever_it_is(run: Run) -> None:
    pytest.importorskip("freezegun")
    result = run("""
        import time
        from datetime import datetime, timedelta, timezone as tz

        import freezegun
        import pytest
        from django.utils import timezone
        from shop.tasks import add

        YEAR = datetime(2040, 1, 1, tzinfo=tz.utc)
        HOUR = timedelta(hours=1)

        def test_freezegun_over_a_clock_that_was_moved(celery_inline, celery_results):
            celery_inline.advance(HOUR)
            before = time.time()
            with freezegun.freeze_time(YEAR):
                result = add.apply_async((1, 2), countdown=60)
                celery_inline.advance(timedelta(seconds=30))
                assert timezone.now() == YEAR + timedelta(seconds=30)
                celery_inline.run(until=YEAR + HOUR)
                assert timezone.now() == YEAR + HOUR
                assert result.date_done == YEAR + timedelta(seconds=60)
            assert time.time() == before
            celery_inline.advance(HOUR)
            assert time.time() == before + 3600

        @pytest.mark.celery(beat_schedule={
            "sum": {"task": "shop.tasks.add", "schedule": 600.0, "args": (1, 2)},
        })
        def test_beat(celery_inline, celery_beat):
            celery_inline.advance(HOUR)
            with freezegun.freeze_time(YEAR):
                celery_inline.advance(HOUR)
                assert timezone.now() == YEAR + HOUR
                assert len(celery_beat.due(HOUR)) == 6
                assert timezone.now() == YEAR + HOUR
                assert len(celery_beat.run(until=HOUR)) == 6
                assert timezone.now() == YEAR + 2 * HOUR

        def test_one_freeze_in_another(celery_inline):
            with freezegun.freeze_time(YEAR):
                with freezegun.freeze_time("2050-01-01", tz_offset=-2):
                    celery_inline.advance(HOUR)
                    assert datetime.now() == datetime(2049, 12, 31, 23)
                assert timezone.now() == YEAR
                celery_inline.advance(HOUR)
                assert timezone.now() == YEAR + HOUR
    """)
    result.assert_outcomes(passed=3)


def test_all_kinds_of_freezes_are_moved_by_as_much_as_was_asked_for(run: Run) -> None:
    pytest.importorskip("freezegun")
    result = run("""
        import time
        from datetime import datetime, timedelta, timezone as tz

        import freezegun
        import pytest
        from django.utils import timezone
        from shop.tasks import add

        HOUR = timedelta(hours=1)
        AWARE = datetime(2030, 1, 1, 9, tzinfo=tz(timedelta(hours=9)))

        @pytest.mark.parametrize("start", ["2030-01-01", datetime(2030, 1, 1), AWARE])
        @pytest.mark.parametrize("offset", [0, 3, timedelta(hours=-5, minutes=-30)])
        def test_it_stands(celery_inline, start, offset):
            with freezegun.freeze_time(start, tz_offset=offset):
                result = add.apply_async((1, 2), countdown=60)
                before = timezone.now(), datetime.now(), time.time()
                celery_inline.advance(timedelta(seconds=59))
                assert celery_inline.run().scheduled == 1
                celery_inline.run(until=HOUR - timedelta(seconds=59))
                assert result.date_done == before[0] + timedelta(seconds=60)
                after = timezone.now(), datetime.now(), time.time()
                assert after == (before[0] + HOUR, before[1] + HOUR, before[2] + 3600)

        @pytest.mark.parametrize("ticks", [dict(tick=True), dict(auto_tick_seconds=2)])
        def test_it_goes_on(celery_inline, ticks):
            with freezegun.freeze_time("2030-01-01", tz_offset=3, **ticks):
                moment = timezone.now() + HOUR
                celery_inline.run(until=moment)
                assert timedelta(0) <= timezone.now() - moment < HOUR
                result = add.apply_async((1, 2), countdown=3600)
                celery_inline.run(until=2 * HOUR)
                assert result.get() == 3
    """)
    result.assert_outcomes(passed=11)


def test_a_clock_that_cannot_be_moved_is_an_error(run: Run) -> None:
    result = run("""
        import datetime
        from datetime import timedelta

        import pytest
        from pytest_djcelery import ClockError
        from shop.tasks import add

        class Fixed(datetime.datetime):
            @classmethod
            def now(cls, tz=None):
                return cls(2030, 1, 1, tzinfo=tz)

        def test_patched(celery_inline, monkeypatch):
            add.apply_async((1, 2), countdown=60)
            monkeypatch.setattr(datetime, "datetime", Fixed)
            with pytest.raises(ClockError, match="such as a patched datetime.datetime"):
                celery_inline.advance(timedelta(hours=1))

        @pytest.mark.parametrize("year", [2026, 2106, 2300, 9000])
        def test_where_floats_are_coarser_than_the_clock(celery_inline, year):
            start = datetime.datetime(year, 12, 30, tzinfo=datetime.timezone.utc)
            for step in range(1, 200):
                moment = start + timedelta(seconds=step, microseconds=step * 997)
                celery_inline.advance(moment - datetime.datetime.now(datetime.timezone.utc))
                late = datetime.datetime.now(datetime.timezone.utc) - moment
                assert timedelta(0) <= late < timedelta(milliseconds=1)
    """)
    result.assert_outcomes(passed=5)


@pytest.mark.parametrize("real", ["real time", "moved", "ticking", "still", "freezegun", "1.5 µs"])
def test_a_distance_counts_from_where_the_clock_was(run: Run, project: Project, real: str) -> None:
    if real == "freezegun":
        pytest.importorskip("freezegun")
    project.tasks("""
        import time
        from threading import Event

        @shared_task(bind=True, max_retries=3)
        def backs_off(self):
            Event().wait(0.002)  # no task takes no time
            if self.request.retries < 3:
                raise self.retry(countdown=2 ** (self.request.retries + 1))
    """)
    around = {
        "real time": "nullcontext()",
        "moved": "moved(celery_inline)",
        "ticking": 'time_machine.travel("2034-05-06 07:08:09.123457 +0000")',
        "still": 'time_machine.travel("2034-05-06 07:08:09.123457 +0000", tick=False)',
        "freezegun": 'freezegun.freeze_time("2034-05-06 07:08:09.123457")',
        "1.5 µs": "time_machine.travel(2030001000.0000015, tick=False)",
    }[real]
    result = run(f"""
        from contextlib import nullcontext
        from datetime import timedelta

        import pytest
        import time_machine
        from django.utils import timezone
        from pytest_djcelery import Retrying, Success
        from shop.tasks import backs_off
        {"import freezegun" if real == "freezegun" else ""}

        def moved(celery_inline):
            celery_inline.advance(timedelta(days=1.3))
            return nullcontext()

        def test_to_the_end_of_a_back_off(celery_inline, celery_results):
            with {around}:
                before = timezone.now()
                result = backs_off.delay()
                celery_inline.run(until=timedelta(seconds=14))
                assert celery_results[result] == Success(None, retries=3)
                assert timedelta(0) <= timezone.now() - before - timedelta(seconds=14) < EXACT

        def test_in_two_runs(celery_inline, celery_results):
            with {around}:
                result = backs_off.delay()
                celery_inline.run(until=timedelta(seconds=6))
                celery_inline.run(until=timedelta(seconds=8))
                assert celery_results[result] == Success(None, retries=3)

        def test_not_beyond(celery_inline, celery_results):
            with {around}:
                result = backs_off.delay()
                celery_inline.run(until=timedelta(seconds=14) - SHORT)
                assert isinstance(celery_results.now(result), Retrying)

        EXACT = timedelta(seconds=0.5)
        # By what real time may pass.
        SHORT = timedelta(milliseconds={1 if real in ("still", "freezegun", "1.5 µs") else 1000})
    """)
    result.assert_outcomes(passed=3)
