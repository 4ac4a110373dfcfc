"""`celery_beat` with the schedule that django-celery-beat keeps in the database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project, Run

pytest.importorskip("django_celery_beat")


@pytest.fixture(autouse=True)
def database_scheduler(project: Project) -> None:
    project.settings("""
        INSTALLED_APPS += ["django_celery_beat"]
        CELERY_BEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"
        CELERY_RESULT_EXPIRES = None  # no celery.backend_cleanup
        """)
    project.write(**{"shop/schedule": """
        import json
        from datetime import timedelta

        from django.utils import timezone
        from django_celery_beat.models import (
            ClockedSchedule, CrontabSchedule, IntervalSchedule, PeriodicTask,
        )
        from shop.tasks import add

        HOUR = timedelta(hours=1)


        def task(name, **fields):
            fields = {"task": add.name, "args": json.dumps([1, 2]), **fields}
            fields["headers"] = json.dumps({"entry": name})
            return PeriodicTask.objects.create(name=name, **fields)


        def every(hours):
            return {"interval": IntervalSchedule.objects.create(every=hours, period="hours")}


        def nightly(zone):
            schedule = CrontabSchedule.objects.create(hour=2, minute=30, timezone=zone)
            return {"crontab": schedule}


        def at(moment):
            schedule = ClockedSchedule.objects.create(clocked_time=moment)
            return {"clocked": schedule, "one_off": True}


        def hours(beat, span):
            now = timezone.now()
            due = beat.due(span)
            sent = beat.run(until=now + span)
            assert [each.sent_at for each in sent] == [moment for moment, _ in due]
            names = [each.headers["entry"] for each in sent]
            assert names == [name for _, name in due]
            return [(name, round((moment - now) / HOUR, 2)) for moment, name in due]
        """})  # fmt: skip


AT_NOON = """
from datetime import datetime, timedelta, timezone as tz

import django_celery_beat
import pytest
import time_machine
from django.utils import timezone
from django_celery_beat.models import PeriodicTask, PeriodicTasks
from shop.schedule import HOUR, at, every, hours, nightly, task
from shop.tasks import add, count_orders

@pytest.fixture(autouse=True)
def noon(db):
    with time_machine.travel(datetime(2031, 5, 1, 12, tzinfo=tz.utc), tick=False):
        yield
"""


def test_each_kind_of_schedule_fires_when_it_is_due(run: Run) -> None:
    result = run(
        """
        def test_an_interval(celery_beat):
            task("it", **every(4))
            assert list(celery_beat.entries) == ["it"]
            assert hours(celery_beat, 12 * HOUR) == [("it", 4), ("it", 8), ("it", 12)]
            stored = PeriodicTask.objects.get()
            assert (stored.total_run_count, stored.last_run_at) == (3, timezone.now())
            assert hours(celery_beat, 4 * HOUR) == [("it", 4)]

        def test_a_crontab_in_its_time_zone(celery_beat):
            for zone in ("UTC", "Asia/Kolkata", "America/New_York"):
                task(zone, **nightly(zone))
            assert hours(celery_beat, 24 * HOUR) == [
                ("Asia/Kolkata", 9), ("UTC", 14.5), ("America/New_York", 18.5),
            ]

        def test_one_off(celery_beat):
            task("once", **every(1), one_off=True)
            assert hours(celery_beat, 10 * HOUR) == [("once", 1)]
            assert not PeriodicTask.objects.get().enabled
            assert dict(celery_beat.entries) == {}

        def test_clocked(celery_beat):
            task("then", **at(timezone.now() + 30 * HOUR))
            task("too late", **at(timezone.now() - HOUR))
            assert hours(celery_beat, 40 * HOUR) == [("too late", 0), ("then", 30)]
            assert not PeriodicTask.objects.filter(enabled=True).exists()

        def test_start_time(celery_beat):
            task("later", **every(12), start_time=timezone.now() + 30 * HOUR)
            assert hours(celery_beat, 48 * HOUR) == [("later", 30), ("later", 42)]

        def test_a_year(celery_beat):
            task("nightly", **nightly("Europe/Berlin"))
            assert len(celery_beat.run(until=timedelta(days=365))) == 365

        def test_nothing_is_left():
            assert not PeriodicTask.objects.exists()
        """,
        preamble=AT_NOON,
    )
    result.assert_outcomes(passed=7)


def test_entries_that_are_disabled_changed_or_past_their_expiry_are_obeyed(run: Run) -> None:
    result = run(
        """
        def test_disabled_and_enabled_again(celery_beat):
            stored = task("off", **every(1), enabled=False)
            assert hours(celery_beat, 3 * HOUR) == []
            stored.enabled = True
            stored.save()
            assert hours(celery_beat, 1.5 * HOUR) == [("off", 1)]
            PeriodicTask.objects.update(enabled=False)
            assert hours(celery_beat, 3 * HOUR) == []

        def test_expires(celery_beat):
            task("short-lived", **every(1), expires=timezone.now() + 2.5 * HOUR)
            fired = hours(celery_beat, 10 * HOUR)
            if django_celery_beat.VERSION >= (2, 7):  # before, a schedule did not expire
                assert fired == [("short-lived", 1), ("short-lived", 2)]
                assert not PeriodicTask.objects.get().enabled

        def test_messages_expire(celery_beat, celery_outbox):
            task("it", **every(1), expire_seconds=90, queue="slow", priority=3)
            hours(celery_beat, HOUR)
            assert celery_outbox == [add.s(1, 2).set(queue="slow", priority=3)]
            assert celery_outbox[0].expires == timezone.now() + timedelta(seconds=90)

        def test_deleted_and_changed(celery_beat):
            first, second = task("first", **every(2)), task("second", **every(3))
            assert hours(celery_beat, 3 * HOUR) == [("first", 2), ("second", 3)]
            first.delete()
            second.interval.every = 5
            second.interval.save()
            assert hours(celery_beat, 5 * HOUR) == [("second", 5)]

        def test_nothing_is_left():
            assert not PeriodicTask.objects.exists()
        """,
        preamble=AT_NOON,
    )
    result.assert_outcomes(passed=5)


def test_due_writes_nothing_and_keeps_the_order_of_the_table(run: Run) -> None:
    result = run(
        """
        def test_due_writes_nothing(celery_beat):
            task("once", **every(1), one_off=True)
            task("short-lived", **every(1), expires=timezone.now() + 2.5 * HOUR)
            task("too late", **at(timezone.now() - HOUR))
            rows = list(PeriodicTask.objects.values())
            changed = PeriodicTasks.last_change()
            names = {name for _, name in celery_beat.due(10 * HOUR)}
            assert names == {"once", "short-lived", "too late"}
            past = (timezone.now() - 20 * HOUR, timezone.now() - 10 * HOUR)
            assert [name for _, name in celery_beat.due(past)][:2] == ["once", "short-lived"]
            assert list(PeriodicTask.objects.values()) == rows
            assert PeriodicTasks.last_change() == changed

        def test_what_is_due_together_is_sent_in_the_order_of_the_table(celery_beat):
            names = [f"n{number}" for number in (3, 1, 2, 5, 4)]
            for name in names:
                task(name, **nightly("UTC"))
            assert [name for name, _ in hours(celery_beat, 48 * HOUR)] == names * 2

        def test_nothing_is_left():
            assert not PeriodicTask.objects.exists()
        """,
        preamble=AT_NOON,
    )
    result.assert_outcomes(passed=3)


def test_entries_of_the_settings_and_of_celery_are_stored_and_sent(run: Run) -> None:
    result = run(
        """
        SETTINGS = {"from settings": {"task": count_orders.name, "schedule": HOUR}}

        @pytest.mark.celery(beat_schedule=SETTINGS)
        def test_entries_of_the_settings_are_stored(celery_beat):
            assert PeriodicTask.objects.get().name == "from settings"
            assert celery_beat.run(until=2 * HOUR) == [count_orders.s()] * 2

        @pytest.mark.celery(result_expires=3600)
        def test_and_celerys_own(celery_beat):
            assert celery_beat.entries["celery.backend_cleanup"].options["expires"] == 12 * 3600
            assert len(celery_beat.run(until=24 * HOUR)) == 1

        def test_nothing_is_left():
            assert not PeriodicTask.objects.exists()
        """,
        preamble=AT_NOON,
    )
    result.assert_outcomes(passed=3)


def test_daylight_saving(run: Run) -> None:
    result = run("""
        from datetime import datetime, timedelta
        from zoneinfo import ZoneInfo

        import pytest
        import time_machine
        from shop.schedule import nightly, task

        BERLIN = ZoneInfo("Europe/Berlin")

        @pytest.mark.django_db
        @pytest.mark.parametrize(("day", "expected"), [
            ("2026-03-28", "02:30+01:00 03:00+02:00|03:30+02:00 02:30+02:00"),  # it is missing
            ("2026-10-24", "02:30+02:00 02:30+02:00 02:30+01:00"),  # it comes twice
        ])
        @pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Europe/Berlin"])
        def test_nightly(celery_beat, settings, day, expected, zone):
            settings.CELERY_TIMEZONE = zone
            start = datetime.fromisoformat(day).replace(tzinfo=BERLIN)
            with time_machine.travel(start, tick=False):
                task("nightly", **nightly("Europe/Berlin"))
                sent = celery_beat.run(until=timedelta(days=3, hours=1))
            local = [each.sent_at.astimezone(BERLIN).isoformat() for each in sent]
            local = [each[11:16] + each[19:] for each in local]
            # What half past two becomes where it is missing depends on Celery and on dateutil.
            for each, wanted in zip(local, expected.split(), strict=True):
                assert each in wanted.split("|")
    """)
    result.assert_outcomes(passed=6)


def test_tasks_may_change_the_schedule(run: Run, project: Project) -> None:
    project.tasks("""
        from django.utils import timezone

        @shared_task
        def stop(name):
            from django_celery_beat.models import PeriodicTask
            periodic = PeriodicTask.objects.get(name=name)
            periodic.enabled = False
            periodic.save()

        @shared_task
        def begin():
            from shop.schedule import every, task
            task("new", **every(1))
    """)
    result = run("""
        import pytest
        from django.utils import timezone
        from django_celery_beat.models import PeriodicTask
        from shop.schedule import HOUR, every, task
        from shop.tasks import add, begin, stop

        @pytest.mark.django_db
        def test_it(celery_inline, celery_beat):
            task("it", **every(1))
            now = timezone.now()
            stop.apply_async(("it",), eta=now + 3.5 * HOUR)
            begin.apply_async(eta=now + 7.5 * HOUR)
            sent = celery_beat.run(until=10 * HOUR)
            assert sent == [add.s(1, 2)] * 5
            moments = [round((each.sent_at - now) / HOUR, 1) for each in sent]
            assert moments == [1, 2, 3, 8.5, 9.5]

        @pytest.mark.django_db(transaction=True)
        def test_where_transactions_are_real(celery_inline, celery_beat):
            task("it", **every(1))
            stop.apply_async(("it",), countdown=2.5 * 3600)
            assert len(celery_beat.due(5 * HOUR)) == 5
            assert len(celery_beat.run(until=5 * HOUR)) == 2
            assert PeriodicTask.objects.get().total_run_count == 2
    """)
    result.assert_outcomes(passed=2)


def test_everything_is_put_back(run: Run) -> None:
    result = run("""
        from datetime import timedelta
        from multiprocessing import util

        import pytest
        from django.db import close_old_connections
        from django.db.models.signals import post_save
        from django_celery_beat import schedulers
        from django_celery_beat.models import PeriodicTask, PeriodicTasks
        from shop.schedule import HOUR, every, task

        def state():
            return (
                len(post_save._live_receivers(PeriodicTasks)),
                len(util._finalizer_registry),
                getattr(schedulers, "SCHEDULE_SYNC_MAX_INTERVAL", None),
                schedulers.close_old_connections,
            )

        found = []

        def test_before():
            found.append(state())

        @pytest.mark.django_db
        def test_it(celery_beat):
            task("it", **every(1))
            celery_beat.run(until=3 * HOUR)
            celery_beat.due(3 * HOUR)

        def test_after():
            assert [state()] == found
            assert schedulers.close_old_connections is close_old_connections

        def test_without_the_database(celery_app):
            from pytest_djcelery import beat
            with pytest.raises(RuntimeError, match="Database access not allowed"):
                with beat():
                    pass

        def test_after_that():
            assert [state()] == found
    """)
    result.assert_outcomes(passed=5)
