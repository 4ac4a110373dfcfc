"""``celery_beat``: the periodic schedule, on the test's clock.

It sends what ``celery beat`` would send, through the project's own scheduler: here
django-celery-beat's, which keeps its entries in the database.
"""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
import time_machine
from django.conf import settings
from pytest_djcelery import BadScheduleError

from demoapp.models import Widget
from demoapp.tasks import delete_archived_widgets
from tests.factories import WidgetFactory

pytestmark = pytest.mark.django_db

TASMANIA = ZoneInfo("Australia/Tasmania")  # CELERY_TIMEZONE


def test_the_schedule_can_be_run_by_a_worker(celery_beat):
    # Each entry names a task that is registered, with arguments that fit it, on a queue that a
    # worker consumes.
    celery_beat.check()


def test_archived_widgets_are_gone_in_the_morning(celery_beat, celery_inline):
    kept = WidgetFactory()
    WidgetFactory(archived=True)
    # With celery_inline, each message is delivered as the clock passes it.
    celery_beat.run(until=timedelta(days=1))
    assert list(Widget.objects.all()) == [kept]


@pytest.mark.parametrize(
    ("friday", "hours"),
    [
        (datetime(2026, 4, 3, 12, tzinfo=TASMANIA), 25),  # on Sunday the clocks go back
        (datetime(2026, 10, 2, 12, tzinfo=TASMANIA), 23),  # on Sunday the clocks go forward
    ],
)
def test_the_night_of_a_daylight_saving_change(celery_beat, celery_outbox, friday, hours):
    with time_machine.travel(friday, tick=False):
        celery_beat.run(until=timedelta(days=3))
    saturday, sunday, monday = (
        message.sent_at for message in celery_outbox.of(delete_archived_widgets)
    )
    # Each night at half past three, by the clock on the wall.
    for moment in (saturday, sunday, monday):
        assert f"{moment.astimezone(TASMANIA):%H:%M}" == "03:30"
    assert sunday - saturday == timedelta(hours=hours)
    assert monday - sunday == timedelta(hours=24)


def test_a_preview_sends_nothing(celery_beat, celery_outbox):
    names = [name for _, name in celery_beat.due(timedelta(days=7))]
    assert names.count("delete-archived-widgets") == 7
    assert celery_outbox == []


@pytest.mark.skipif(not settings.BEAT_INSTALLED, reason="django-celery-beat is not installed")
def test_an_entry_from_the_admin_that_points_nowhere_is_named(celery_beat):
    from django_celery_beat.models import IntervalSchedule, PeriodicTask

    hourly = IntervalSchedule.objects.create(every=1, period=IntervalSchedule.HOURS)
    PeriodicTask.objects.create(
        name="tidy up", task="demoapp.views.delete_archived_widgets", interval=hourly
    )
    with pytest.raises(BadScheduleError, match="'tidy up' sends demoapp"):
        celery_beat.check()
