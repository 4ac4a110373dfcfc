"""`celery_beat` with a schedule that stands in the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project, Run

SCHEDULE = """
    from datetime import timedelta

    from celery.schedules import crontab

    CELERY_TIMEZONE = "Europe/Berlin"
    CELERY_BEAT_SCHEDULE = {
        "hourly": {
            "task": "shop.tasks.add",
            "schedule": timedelta(hours=1),
            "args": (1, 2),
            "options": {"queue": "often", "headers": {"from": "settings"}},
        },
        "nightly": {"task": "shop.tasks.count_orders", "schedule": crontab(hour=2, minute=30)},
    }
    """


@pytest.fixture(autouse=True)
def schedule(project: Project) -> None:
    project.settings(SCHEDULE)


TIMES = """
import os
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
import time_machine
from celery.schedules import crontab
from django.utils import timezone
from shop.tasks import add, count_orders

HOUR = timedelta(hours=1)
BERLIN = ZoneInfo("Europe/Berlin")
"""


def test_entries_are_sent_when_they_are_due(run: Run) -> None:
    result = run(
        """
        def test_an_interval_first_fires_one_interval_after_the_start(celery_beat, celery_outbox):
            began = celery_beat.entries["hourly"].last_run_at
            assert celery_beat.run(until=began + HOUR - timedelta(microseconds=1)) in (
                [], [count_orders.s()],
            )
            celery_outbox.clear()
            assert celery_beat.run(until=timedelta(microseconds=1)) == [add.s(1, 2)]
            assert celery_outbox == [add.s(1, 2).set(queue="often")]
            assert celery_outbox[0].sent_at == began + HOUR
            assert celery_outbox[0].headers["from"] == "settings"
            sent = celery_beat.run(until=timedelta(days=10))
            hourly = [each.sent_at for each in sent if each.task == add.name]
            assert hourly == [began + n * HOUR for n in range(2, 2 + 24 * 10)]
            assert celery_outbox[0].location.function == (
                "test_an_interval_first_fires_one_interval_after_the_start"
            )

        @time_machine.travel("2031-05-01 10:00Z", tick=False)
        def test_a_crontab_fires_at_its_minute(celery_beat):
            sent = celery_beat.run(until=timedelta(days=3))
            nightly = [each.sent_at.astimezone(BERLIN) for each in sent if each == count_orders.s()]
            assert len(nightly) == 3
            for each in nightly:
                assert each.timetuple()[3:6] == (2, 30, 0)
                assert each.microsecond == 0

        NIGHTLY = {"task": count_orders.name, "schedule": crontab(hour=2, minute=30)}

        @pytest.mark.celery(beat_schedule={"nightly": NIGHTLY})
        def test_a_year(celery_beat):
            sent = celery_beat.run(until=timedelta(days=365))
            days = [each.sent_at.astimezone(BERLIN).date() for each in sent]
            assert 364 <= len(days) <= 366
            assert days == [days[0] + n * timedelta(days=1) for n in range(len(days))]

        NAMES = [f"n{number}" for number in (3, 1, 2, 5, 4)]

        @pytest.mark.celery(beat_schedule=dict.fromkeys(NAMES, NIGHTLY))
        def test_what_is_due_together_is_sent_in_the_order_of_the_settings(celery_beat):
            assert [name for _, name in celery_beat.due(timedelta(days=5))] == NAMES * 5
            assert list(celery_beat.entries) == NAMES
        """,
        preamble=TIMES,
    )
    result.assert_outcomes(passed=4)


def test_due_is_what_run_sends_and_changes_nothing(run: Run) -> None:
    result = run(
        """
        def test_due_is_what_run_sends_and_changes_nothing(celery_beat, celery_outbox):
            celery_beat.run(until=timedelta(minutes=7))
            celery_outbox.clear()
            now = timezone.now()
            due = celery_beat.due(timedelta(days=3))
            assert timezone.now() == now
            assert celery_beat.due(timedelta(days=3)) == due
            assert celery_outbox == []
            later = celery_beat.due((now + timedelta(days=1), now + timedelta(days=3)))
            assert later == [each for each in due if each[0] >= now + timedelta(days=1)]
            assert {name for _, name in due} == {"hourly", "nightly"}
            names = {add.name: "hourly", count_orders.name: "nightly"}
            sent = celery_beat.run(until=timedelta(days=3))
            assert [(each.sent_at, names[each.task]) for each in sent] == due

        def test_due_leaves_the_real_time(celery_beat):
            celery_beat.due(timedelta(days=300))
            first = timezone.now()
            while timezone.now() == first:
                pass
            assert first.year < 2900
        """,
        preamble=TIMES,
    )
    result.assert_outcomes(passed=2)


def test_a_run_moves_the_clock_and_counts_in_the_entries_and_touches_no_file(run: Run) -> None:
    result = run(
        """
        def test_the_clock_is_left_at_the_end(celery_beat):
            end = timezone.now() + timedelta(minutes=90)
            celery_beat.run(until=end)
            assert timezone.now() == end
            celery_beat.run(until=timedelta(0))
            assert timezone.now() == end

        def test_entries_are_celerys_own(celery_beat):
            assert set(celery_beat.entries) == {"hourly", "nightly"}
            entry = celery_beat.entries["hourly"]
            assert (entry.task, entry.args, entry.total_run_count) == (add.name, (1, 2), 0)
            celery_beat.run(until=timedelta(hours=2))
            assert celery_beat.entries["hourly"].total_run_count == 2
            with pytest.raises(TypeError):
                celery_beat.entries["more"] = entry

        def test_no_file_is_touched():
            assert not [name for name in os.listdir() if "celerybeat" in name]
        """,
        preamble=TIMES,
    )
    result.assert_outcomes(passed=3)


TASKS_THAT_NOTE_THE_TIME = """
from django.utils import timezone

ran = []

@shared_task
def later(name):
    ran.append((name, timezone.now()))

@shared_task
def begin():
    ran.append(("begin", timezone.now()))
    later.apply_async(("later",), countdown=90 * 60)

@shared_task
def fails_at(number):
    ran.append(("fails", timezone.now()))
    if len(ran) == number:
        raise ValueError("no")
"""


EVERY_HOUR = """
import asyncio
from datetime import timedelta

import pytest
from django.utils import timezone
from shop.tasks import add, begin, count_orders, fails_at, later, ran

HOUR = timedelta(hours=1)

def every(interval, task, *args):
    return {"it": {"task": task.name, "schedule": interval, "args": args}}

@pytest.fixture(autouse=True)
def nothing_ran():
    ran.clear()
"""


def test_celery_inline_delivers_messages_as_the_clock_passes_them(
    run: Run, project: Project
) -> None:
    project.tasks(TASKS_THAT_NOTE_THE_TIME)
    result = run(
        """
        @pytest.mark.celery(beat_schedule=every(HOUR, begin))
        def test_tasks_run_at_due_times_and_at_etas_in_between(celery_inline, celery_beat):
            start = celery_beat.entries["it"].last_run_at
            sent = celery_beat.run(until=start + 3.25 * HOUR)
            assert sent == [begin.s()] * 3
            assert [(name, (moment - start) / HOUR) for name, moment in ran] == [
                ("begin", 1), ("begin", 2), ("later", 2.5), ("begin", 3),
            ]
            assert celery_inline.scheduled == [later.s("later")] * 2
            celery_beat.run(until=start + 3.5 * HOUR)
            assert ran[-1] == ("later", start + 3.5 * HOUR)

        @pytest.mark.celery(beat_schedule=every(HOUR, fails_at, 2))
        def test_a_failure_is_raised_and_the_next_run_goes_on(celery_inline, celery_beat):
            start = celery_beat.entries["it"].last_run_at
            with pytest.raises(ValueError, match="no"):
                celery_beat.run(until=timedelta(hours=9.5))
            assert timezone.now() == start + 2 * HOUR
            assert celery_beat.run(until=timedelta(hours=2)) == [fails_at.s(2)] * 2
            assert [(moment - start) / HOUR for _, moment in ran] == [1, 2, 3, 4]

        @pytest.mark.celery(beat_schedule=every(HOUR, fails_at, 2))
        @pytest.mark.celery_inline(auto=True)
        def test_automatic_delivery_changes_nothing(celery_beat):
            with pytest.raises(ValueError, match="no"):
                celery_beat.run(until=timedelta(hours=9.5))
            assert len(ran) == 2

        @pytest.mark.celery(beat_schedule=every(HOUR, begin))
        def test_due_delivers_nothing(celery_inline, celery_beat):
            add.delay(1, 2)
            assert len(celery_beat.due(timedelta(hours=5.5))) == 5
            assert celery_inline.pending == [add.s(1, 2)]
            assert ran == []
        """,
        preamble=EVERY_HOUR,
    )
    result.assert_outcomes(passed=4)


def test_beats_messages_are_run_in_coroutines_in_eager_mode_and_by_workers(
    run: Run, project: Project
) -> None:
    project.tasks(TASKS_THAT_NOTE_THE_TIME)
    result = run(
        """
        @pytest.mark.celery(beat_schedule=every(HOUR, add, 1, 2))
        def test_async(celery_inline, celery_beat, celery_results):
            assert asyncio.run(celery_beat.arun(until=timedelta(hours=2.5))) == [add.s(1, 2)] * 2
            assert [each.value for each in celery_results.of(add)] == [3, 3]

        @pytest.mark.celery(beat_schedule=every(HOUR, begin))
        def test_eager(celery_eager, celery_beat):
            assert len(celery_beat.run(until=timedelta(hours=1.5))) == 1
            assert [name for name, _ in ran] == ["begin", "later"]

        @pytest.mark.celery(beat_schedule=every(HOUR, add, 1, 2))
        def test_a_worker_runs_them_by_itself(celery_worker, celery_beat, celery_results):
            celery_beat.run(until=timedelta(hours=3.5))
            celery_worker.settle()
            assert [each.value for each in celery_results.of(add)] == [3, 3, 3]
        """,
        preamble=EVERY_HOUR,
    )
    result.assert_outcomes(passed=3)


def test_daylight_saving_is_handled_as_in_celery(run: Run) -> None:
    result = run("""
        from datetime import datetime, timedelta
        from zoneinfo import ZoneInfo

        import celery
        import pytest
        import time_machine
        from celery.beat import Scheduler
        from celery.schedules import crontab
        from django.utils import timezone

        BERLIN = ZoneInfo("Europe/Berlin")
        RECENT = celery.VERSION >= (5, 7)

        class Told(Scheduler):
            def apply_entry(self, entry, producer=None):
                self.told.append(timezone.now())

        def beat_itself(app, start, end):
            \"\"\"As `celery beat` loops, to the second: awake at least every five minutes.\"\"\"
            with time_machine.travel(start, tick=False) as traveller:
                scheduler = Told(app)
                scheduler.told = []
                scheduler.merge_inplace({"nightly": app.conf.beat_schedule["nightly"]})
                while timezone.now() < end:
                    traveller.shift(max(scheduler.tick(), 0.001))
            return [each.replace(microsecond=0) for each in scheduler.told]

        @pytest.mark.parametrize(("day", "expected"), [
            ("2026-03-28", "02:30+01:00 03:00+02:00|03:30+02:00 02:30+02:00"),  # it is missing
            ("2026-10-24", "02:30+02:00 02:30+02:00 02:30+01:00"),  # it comes twice
        ])
        def test_nightly(celery_app, celery_beat, day, expected):
            start = datetime.fromisoformat(day).replace(tzinfo=BERLIN)
            end = start + timedelta(days=3)
            due = celery_beat.due((start, end))
            nightly = [moment for moment, name in due if name == "nightly"]
            local = [moment.astimezone(BERLIN).isoformat() for moment in nightly]
            local = [each[11:16] + each[19:] for each in local]
            # What half past two becomes where it is missing depends on Celery and on dateutil.
            for each, wanted in zip(local, expected.split(), strict=True):
                assert each in wanted.split("|")
            for moment, truth in zip(nightly, beat_itself(celery_app, start, end), strict=True):
                assert timedelta(0) <= truth - moment < timedelta(minutes=5)  # it wakes up so often
                assert truth == moment or not RECENT
            with time_machine.travel(start, tick=False):
                sent = celery_beat.run(until=timedelta(days=3, hours=1))
                sent = [each for each in sent if each.task == "shop.tasks.count_orders"]
                assert [each.sent_at for each in sent] == nightly
    """)
    result.assert_outcomes(passed=2)


def test_a_test_that_travels_by_itself(run: Run) -> None:
    pytest.importorskip("freezegun")
    result = run("""
        from datetime import datetime, timedelta, timezone as tz

        import freezegun
        import pytest
        import time_machine
        from django.utils import timezone
        from pytest_djcelery import beat
        from shop.tasks import add

        HOUR = timedelta(hours=1)
        HOURLY = {"task": add.name, "schedule": HOUR, "args": (1, 2)}
        pytestmark = pytest.mark.celery(beat_schedule={"hourly": HOURLY})

        @time_machine.travel("2031-05-01 10:00Z", tick=False)
        def test_beat_starts_at_the_destination(celery_beat):
            assert celery_beat.due(HOUR) == [(datetime(2031, 5, 1, 11, tzinfo=tz.utc), "hourly")]
            assert [each.sent_at.hour for each in celery_beat.run(until=HOUR * 3)] == [11, 12, 13]

        @freezegun.freeze_time("2001-05-01 10:00")
        def test_in_the_past_too(celery_beat):
            assert [each.sent_at.hour for each in celery_beat.run(until=HOUR * 3)] == [11, 12, 13]

        def test_and_at_home_again(celery_beat):
            with time_machine.travel("2001-05-01 10:00Z"):
                assert celery_beat.run(until=HOUR / 2) == []
            assert celery_beat.run(until=HOUR / 2) == []
            assert timezone.now().year > 2024

        def test_a_block_starts_where_the_clock_stands(celery_inline):
            celery_inline.advance(timedelta(days=30))
            now = timezone.now()
            with beat() as celery_beat:
                [sent] = celery_beat.run(until=HOUR)
                assert sent.sent_at == now + HOUR

        def test_time_that_passed_without_beat_is_caught_up_with(celery_inline, celery_beat):
            celery_inline.advance(3.5 * HOUR)
            assert celery_beat.run(until=timedelta(0)) == [add.s(1, 2)]
    """)
    result.assert_outcomes(passed=5)


def test_bad_use(run: Run) -> None:
    result = run("""
        from datetime import datetime, timedelta, timezone as tz

        import pytest
        from celery.exceptions import NotRegistered
        from celery.beat import SchedulingError
        from pytest_djcelery import BadOptionError, BeatError
        from shop.tasks import add

        HOUR = timedelta(hours=1)

        @pytest.mark.parametrize(("until", "text"), [
            (None, "until=None: expected a timedelta or a datetime"),
            (-HOUR, "is negative: the clock of a test only goes forward"),
            (datetime(2001, 1, 1, tzinfo=tz.utc), "until=2001-.* has passed"),
            (datetime(2901, 1, 1), "has no time zone, and USE_TZ is on"),
        ])
        def test_run(celery_beat, until, text):
            with pytest.raises(BadOptionError, match=text):
                celery_beat.run(until=until)

        @pytest.mark.parametrize(("between", "text"), [
            (3600, "expected a timedelta from now, or .start, end."),
            (-HOUR, "is negative"),
            ((datetime(2901, 1, 1), datetime(2902, 1, 1)), "has no time zone"),
            ((datetime(2902, 1, 1, tzinfo=tz.utc), datetime(2901, 1, 1, tzinfo=tz.utc)),
             "the span ends before it starts"),
        ])
        def test_due(celery_beat, between, text):
            with pytest.raises(BadOptionError, match=text):
                celery_beat.due(between)

        def test_until_must_be_said(celery_beat):
            with pytest.raises(TypeError, match="until"):
                celery_beat.run()

        def schedule(every, *args):
            entry = {"task": add.name, "schedule": every, "args": args}
            fine = {"task": "shop.tasks.count_orders", "schedule": HOUR}
            return {"bad": entry, "fine": fine}

        @pytest.mark.celery(beat_schedule=schedule(HOUR, 1, object()))
        def test_what_cannot_be_sent_is_raised(celery_beat, celery_outbox):
            with pytest.raises(SchedulingError, match="Couldn't apply scheduled task bad: Object"):
                celery_beat.run(until=timedelta(days=2))
            celery_beat.run(until=timedelta(seconds=1))  # the clock stands where it failed
            assert [each.task for each in celery_outbox] == ["shop.tasks.count_orders"]

        @pytest.mark.celery(beat_schedule=schedule(0, 1, 2))
        def test_an_entry_without_interval(celery_beat):
            with pytest.raises(BeatError, match="'bad' was due 101 times at one moment"):
                celery_beat.run(until=HOUR)
    """)
    result.assert_outcomes(passed=11)


def test_all_is_put_back_at_the_end(run: Run) -> None:
    result = run("""
        from copy import deepcopy
        from datetime import timedelta

        from celery.schedules import crontab
        from django.conf import settings
        from django.utils import timezone
        from shop.tasks import add

        found = settings.CELERY_BEAT_SCHEDULE
        copied = {name: {**entry} for name, entry in found.items()}

        def test_it(celery_app, celery_beat):
            celery_beat.run(until=timedelta(days=3))
            celery_app.add_periodic_task(60, add.s(1, 2), name="more")

        def test_nothing_is_left(celery_app):
            assert settings.CELERY_BEAT_SCHEDULE is found
            assert celery_app.conf.beat_schedule == copied
            assert found["hourly"]["options"] == {"queue": "often", "headers": {"from": "settings"}}
            nightly = found["nightly"]["schedule"]
            assert vars(nightly).keys() == vars(crontab(hour=2, minute=30)).keys()
            assert nightly._app is None
            assert celery_app.conf.beat_scheduler == "celery.beat:PersistentScheduler"
            assert timezone.now().year < 2900
    """)
    result.assert_outcomes(passed=2)


def test_a_schedule_of_the_sun(run: Run, project: Project) -> None:
    pytest.importorskip("ephem")
    project.settings("""
        from celery.schedules import solar

        CELERY_BEAT_SCHEDULE = {
            "at dawn": {"task": "shop.tasks.fail", "schedule": solar("sunrise", 52.5, 13.4)}
        }
        """)
    result = run("""
        from datetime import datetime, timedelta, timezone as tz

        def test_it(celery_beat):
            start = datetime(2026, 6, 20, tzinfo=tz.utc)
            due = celery_beat.due((start, start + timedelta(days=3)))
            assert [name for _, name in due] == ["at dawn"] * 3
            assert {(each.hour, each.minute // 10) for each, _ in due} == {(2, 4)}
            assert len(celery_beat.run(until=timedelta(days=30))) in (29, 30, 31)
    """)
    result.assert_outcomes(passed=1)


def test_the_projects_own_scheduler_is_used(run: Run, project: Project) -> None:
    project.write(**{"shop/beat": """
        from celery.beat import PersistentScheduler


        class Mine(PersistentScheduler):
            def apply_entry(self, entry, producer=None):
                if entry.name != "hourly":
                    super().apply_entry(entry, producer)
        """})  # fmt: skip
    project.settings("""
        CELERY_BEAT_SCHEDULER = "shop.beat:Mine"
        CELERY_BEAT_SCHEDULE_FILENAME = "nowhere/at/all"
        """)
    result = run("""
        from datetime import timedelta

        import pytest
        import time_machine
        from shop.tasks import count_orders

        @time_machine.travel("2031-05-01 10:00Z", tick=False)
        def test_it(celery_beat):
            assert celery_beat.run(until=timedelta(days=1)) == [count_orders.s()]

        @pytest.mark.celery(beat_scheduler="celery.beat:Scheduler")
        def test_another(celery_beat):
            assert len(celery_beat.run(until=timedelta(hours=23.5))) in (23, 24)
    """)
    result.assert_outcomes(passed=2)


CHECKED = """
import pytest
from kombu import Exchange, Queue
from pytest_djcelery import BadScheduleError, DjceleryError

def entry(task, *args, **options):
    kwargs = options.pop("kwargs", {})
    return {
        "task": task, "schedule": 60, "args": args, "kwargs": kwargs, "options": options,
    }

def told(beat, **arguments):
    with pytest.raises(BadScheduleError) as error:
        beat.check(**arguments)
    assert isinstance(error.value, (DjceleryError, AssertionError))
    first, *lines, last = str(error.value).splitlines()
    assert first == "Entries of the beat schedule that no worker could run:"
    assert last.startswith("Correct them where they are: in beat_schedule, ")
    return [line.strip() for line in lines]

def configured(**entries):
    return pytest.mark.celery(beat_schedule=entries)
"""


def test_check_names_entries_that_no_task_can_take(run: Run, project: Project) -> None:
    project.settings("""
        CELERY_TASK_ROUTES = {"shop.tasks.ship": {"queue": "parcels"}}
        """)
    result = run(
        """
        @configured(
            typo=entry("shop.tasks.ad", 1, 2), moved=entry("orders.jobs.ship", 1),
            gone=entry("elsewhere"), fine=entry("shop.tasks.add", 1, kwargs={"y": 2}),
        )
        def test_tasks(celery_beat):
            assert told(celery_beat) == [
                "'typo' sends shop.tasks.ad, but no task of this name is registered. "
                "Did you mean 'shop.tasks.add'?",
                "'moved' sends orders.jobs.ship, but no task of this name is registered. "
                "Did you mean 'shop.tasks.ship'?",
                "'gone' sends elsewhere, but no task of this name is registered.",
            ]

        @configured(
            few=entry("shop.tasks.add", 1), wrong=entry("shop.tasks.flaky", kwargs={"x": 1})
        )
        def test_arguments(celery_beat):
            assert told(celery_beat) == [
                "'few' sends shop.tasks.add(1): missing a required argument: 'y'; the task is "
                "shop.tasks.add(x, y).",
                "'wrong' sends shop.tasks.flaky(x=1): got an unexpected keyword argument 'x'; the "
                "task is shop.tasks.flaky(succeed_at=2).",
            ]

        @configured(fine=entry("shop.tasks.add", 1, 2), cleanup=entry("celery.backend_cleanup"))
        def test_clean(celery_beat):
            assert celery_beat.check() is None
        """,
        preamble=CHECKED,
    )
    result.assert_outcomes(passed=3)


def test_check_names_entries_that_no_worker_would_receive(run: Run, project: Project) -> None:
    project.settings("""
        CELERY_TASK_ROUTES = {"shop.tasks.ship": {"queue": "parcels"}}
        """)
    result = run(
        """
        CONSUME = "which no worker consumes; they consume 'celery', 'parcels'. If "

        @configured(
            own=entry("shop.tasks.add", 1, 2, queue="sums"), routed=entry("shop.tasks.ship", 1),
            default=entry("shop.tasks.fail"),
        )
        def test_queues(celery_app, celery_beat):
            [line] = told(celery_beat)  # what static routes name is consumed
            assert line.startswith(f"'own' goes to queue 'sums', {CONSUME}")
            assert list(celery_app.amqp.queues) == ["celery"]
            celery_beat.check(queues=["celery", "sums", "parcels"])
            [line] = told(celery_beat, queues=["celery", "sums"])
            assert "'parcels', which no worker consumes; they consume 'celery', 'sums'." in line

        QUEUES = [Queue("celery"), Queue("sums", Exchange("numbers"), routing_key="sum")]

        @configured(
            fine=entry("shop.tasks.add", 1, 2, exchange="numbers", routing_key="sum"),
            lost=entry("shop.tasks.add", 1, 2, exchange="numbers", routing_key="product"),
        )
        @pytest.mark.celery(task_queues=QUEUES)
        def test_exchanges(celery_beat):
            assert told(celery_beat) == [
                "'lost' goes to exchange 'numbers' with routing key 'product', from which no "
                "worker consumes; they consume 'celery', 'parcels', 'sums'.",
            ]

        @configured(no_such=entry("shop.tasks.add", 1, 2, queue="sums"))
        @pytest.mark.celery(task_create_missing_queues=False)
        def test_a_queue_that_is_not_made(celery_beat):
            assert told(celery_beat) == [
                "'no_such' can't be routed: \\"Queue 'sums' missing from task_queues\\".",
            ]
        """,
        preamble=CHECKED,
    )
    result.assert_outcomes(passed=3)
