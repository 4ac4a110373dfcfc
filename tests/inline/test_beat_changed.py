"""`celery_beat` goes by a schedule that changes while the test runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project, Run

SETTINGS = """
    from datetime import timedelta

    CELERY_RESULT_EXPIRES = None  # no celery.backend_cleanup
    CELERY_BEAT_SCHEDULE = {
        "hourly": {"task": "shop.tasks.add", "schedule": timedelta(hours=1), "args": (1, 2)},
    }
    """
SCHEDULER = """
    CELERY_BEAT_SCHEDULER = "{}"
    """
DATABASE = """
    INSTALLED_APPS += ["django_celery_beat"]
    CELERY_BEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"
    """


@pytest.fixture(autouse=True)
def schedule(project: Project) -> None:
    project.settings(SETTINGS)


@pytest.mark.parametrize("scheduler", ["celery.beat:Scheduler", "celery.beat:PersistentScheduler"])
def test_it_is_sent_however_it_was_changed(run: Run, project: Project, scheduler: str) -> None:
    project.settings(SCHEDULER.format(scheduler))
    result = run("""
        from datetime import timedelta

        import pytest
        from django.test import override_settings
        from shop.tasks import add, count_orders

        OFTEN = {"often": {"task": count_orders.name, "schedule": 60.0}}
        SPAN = timedelta(minutes=5)

        def check(beat):
            assert "often" in beat.entries
            assert [name for _, name in beat.due(SPAN)] == ["often"] * 5
            assert beat.run(until=SPAN) == [count_orders.s()] * 5

        def test_by_settings(celery_beat, settings):
            settings.CELERY_BEAT_SCHEDULE = OFTEN
            assert list(celery_beat.entries) == ["often"]
            check(celery_beat)

        @override_settings(CELERY_BEAT_SCHEDULE=OFTEN)
        def test_by_a_decorator(celery_beat):
            check(celery_beat)

        def test_for_a_block(celery_beat):
            with override_settings(CELERY_BEAT_SCHEDULE=OFTEN):
                check(celery_beat)
            assert list(celery_beat.entries) == ["hourly"]
            assert celery_beat.run(until=SPAN) == []

        def test_on_the_app(celery_beat, celery_app):
            celery_app.conf.beat_schedule = OFTEN
            check(celery_beat)

        def test_an_entry_on_the_app(celery_beat, celery_app):
            celery_app.conf.beat_schedule["often"] = OFTEN["often"]
            assert list(celery_beat.entries) == ["hourly", "often"]
            check(celery_beat)
            del celery_app.conf.beat_schedule["often"]
            assert list(celery_beat.entries) == ["hourly"]
            assert celery_beat.run(until=SPAN) == []

        def test_by_add_periodic_task(celery_beat, celery_app):
            celery_app.add_periodic_task(60.0, count_orders.s(), name="often")
            check(celery_beat)

        def test_nothing_is_left(celery_beat):
            assert list(celery_beat.entries) == ["hourly"]
            assert OFTEN == {"often": {"task": count_orders.name, "schedule": 60.0}}
    """)
    result.assert_outcomes(passed=7)


@pytest.mark.parametrize("scheduler", ["celery.beat:Scheduler", "celery.beat:PersistentScheduler"])
def test_entries_that_did_not_change_go_on(run: Run, project: Project, scheduler: str) -> None:
    project.settings(SCHEDULER.format(scheduler))
    result = run("""
        from datetime import timedelta

        import pytest
        from shop.tasks import add, count_orders
        from pytest_djcelery import BadScheduleError

        MINUTES = timedelta(minutes=1)

        def test_an_entry_keeps_its_times_and_counts(celery_beat, celery_app):
            celery_beat.run(until=90 * MINUTES)
            before = celery_beat.entries["hourly"]
            celery_app.conf.beat_schedule["often"] = {"task": count_orders.name, "schedule": 900}
            after = celery_beat.entries["hourly"]
            assert after.total_run_count == before.total_run_count == 1
            assert after.last_run_at == before.last_run_at
            sent = celery_beat.run(until=40 * MINUTES)
            assert sent == [count_orders.s(), add.s(1, 2), count_orders.s()]

        def test_one_that_changed_keeps_when_it_last_ran(celery_beat, celery_app):
            celery_beat.run(until=90 * MINUTES)
            last = celery_beat.entries["hourly"].last_run_at
            celery_app.conf.beat_schedule["hourly"]["schedule"] = 40 * MINUTES
            celery_app.conf.beat_schedule["hourly"]["args"] = (3, 4)
            [sent] = celery_beat.run(until=20 * MINUTES)
            assert sent == add.s(3, 4)
            assert sent.sent_at == last + 40 * MINUTES

        def test_celerys_own_entry_goes_on(celery_beat, celery_app, settings):
            settings.CELERY_RESULT_EXPIRES = 60
            settings.CELERY_BEAT_SCHEDULE = {}
            first = celery_beat.entries
            celery_beat.run(until=timedelta(days=2))
            settings.CELERY_BEAT_SCHEDULE = {"x": {"task": add.name, "schedule": 60, "args": (1,)}}
            assert celery_beat.entries.keys() - {"x"} == first.keys()
            for name in first:
                assert celery_beat.entries[name].total_run_count == 2

        def test_check_sees_it(celery_beat, settings):
            celery_beat.check()
            settings.CELERY_BEAT_SCHEDULE = {"wrong": {"task": add.name, "schedule": 60}}
            with pytest.raises(BadScheduleError, match="'wrong'"):
                celery_beat.check()
    """)
    result.assert_outcomes(passed=4)


def test_a_task_may_change_it(run: Run, project: Project) -> None:
    project.tasks("""
        from celery import current_app

        @shared_task
        def more():
            current_app.add_periodic_task(60.0, count_orders.s(), name="often")
        """)
    result = run("""
        from datetime import timedelta

        from shop.tasks import count_orders, more

        def test_it(celery_inline, celery_beat, db):
            celery_beat.run(until=timedelta(0))  # the clock stands
            more.apply_async(countdown=120)
            assert celery_beat.run(until=timedelta(minutes=5)) == [count_orders.s()] * 3
    """)
    result.assert_outcomes(passed=1)


def test_the_database_is_updated_as_when_beat_starts(run: Run, project: Project) -> None:
    """What changed is written to its table; what has gone from the settings stays there."""
    pytest.importorskip("django_celery_beat")
    project.settings(DATABASE)
    result = run("""
        from datetime import timedelta

        import pytest
        from django_celery_beat.models import PeriodicTask
        from shop.tasks import add, count_orders

        MINUTES = timedelta(minutes=1)

        def check(celery_beat, settings):
            celery_beat.run(until=90 * MINUTES)
            PeriodicTask.objects.filter(name="hourly").update(args="[5, 6]")
            settings.CELERY_BEAT_SCHEDULE = {
                **settings.CELERY_BEAT_SCHEDULE,
                "often": {"task": count_orders.name, "schedule": 20 * MINUTES},
            }
            due = [name for _, name in celery_beat.due(45 * MINUTES)]
            assert due == ["often", "hourly", "often"]
            sent = celery_beat.run(until=45 * MINUTES)
            assert sent == [count_orders.s(), add.s(5, 6), count_orders.s()]
            settings.CELERY_BEAT_SCHEDULE = {}
            assert set(celery_beat.entries) == {"hourly", "often"}

        @pytest.mark.django_db
        def test_rolled_back(celery_beat, settings):
            check(celery_beat, settings)

        @pytest.mark.django_db(transaction=True)
        def test_real_transactions(celery_beat, settings):
            check(celery_beat, settings)
    """)
    result.assert_outcomes(passed=2)


def test_another_scheduler_is_started_where_the_test_chooses_one(
    run: Run, project: Project
) -> None:
    project.settings(DATABASE + SCHEDULER.format("celery.beat:Scheduler"))
    run("""
        from datetime import timedelta

        import pytest
        from django_celery_beat.models import IntervalSchedule, PeriodicTask
        from shop.tasks import add, count_orders

        pytestmark = pytest.mark.django_db
        DATABASE = "django_celery_beat.schedulers:DatabaseScheduler"
        SPAN = timedelta(hours=1)

        @pytest.fixture
        def entry(db):
            every, _ = IntervalSchedule.objects.get_or_create(every=1, period="hours")
            PeriodicTask.objects.create(name="counted", task=count_orders.name, interval=every)

        def test_the_settings(celery_beat, entry):
            assert celery_beat.run(until=SPAN) == [add.s(1, 2)]

        def test_obeyed(celery_beat, entry, settings):
            settings.CELERY_BEAT_SCHEDULER = DATABASE
            assert count_orders.s() in celery_beat.run(until=SPAN)
            assert "counted" in celery_beat.entries

        def test_and_back(celery_beat, entry, settings):
            settings.CELERY_BEAT_SCHEDULER = DATABASE
            assert "counted" in celery_beat.entries
            del settings.CELERY_BEAT_SCHEDULER
            settings.CELERY_BEAT_SCHEDULER = "celery.beat:Scheduler"
            assert list(celery_beat.entries) == ["hourly"]

        def test_a_name_that_is_none(celery_beat, settings):
            settings.CELERY_BEAT_SCHEDULER = "no.such:Scheduler"
            with pytest.raises(ImportError, match="no"):
                celery_beat.run(until=SPAN)
    """).assert_outcomes(passed=4)
