"""``celery_inline``: a worker in the test's own thread, connection and transaction.

Messages go through Celery's own worker code, one at a time, when the test says so. The test
rolls back like any other, and hours pass as soon as the test says so.
"""

from datetime import timedelta

import pytest
from celery import chord
from django.contrib.auth import get_user_model
from django.utils import timezone
from pytest_djcelery import Failure, NeverReadyError, Success

from demoapp.models import AuditEntry, Widget
from demoapp.tasks import (
    add,
    archive_widget,
    count_widgets,
    delete_widget,
    flaky,
    import_widgets,
    rename_widget,
    send_email,
    xsum,
)
from tests.factories import WidgetFactory

pytestmark = pytest.mark.django_db


def test_the_mail_itself(client, celery_inline, mailoutbox):
    client.post("/users/", {"username": "ada"})
    assert mailoutbox == []  # the message is in its queue
    celery_inline.run()
    [mail] = mailoutbox
    assert mail.subject == "Welcome, ada"


def test_get_delivers_what_it_waits_for(celery_inline):
    WidgetFactory.create_batch(3)
    assert count_widgets.delay().get() == 3  # rows that only this transaction sees


def test_what_was_delivered(celery_inline):
    import_widgets.delay(["a", "b"])
    summary = celery_inline.run()
    assert summary.succeeded == 1
    execution = summary.executions[0]
    assert execution.message == import_widgets.s(["a", "b"])
    assert (execution.state, execution.value) == ("SUCCESS", 2)


# Time -------------------------------------------------------------------------------------


def test_ten_seconds_to_think_again(client, widget, celery_inline):
    client.post(f"/widgets/{widget.pk}/rename/", {"name": "new"})
    assert celery_inline.run().scheduled == 1  # nothing is due yet
    assert celery_inline.scheduled == [rename_widget.s(widget.pk, "new")]
    celery_inline.run(until=timedelta(seconds=10))
    widget.refresh_from_db()
    assert widget.name == "new"


def test_an_hour_of_back_off(celery_inline, celery_results):
    began = timezone.now()
    result = flaky.delay(failures=4)
    # From one retry to the next: after 1, 2, 4 and 8 seconds.
    summary = celery_inline.run(until=timedelta(hours=1))
    assert (summary.retried, summary.succeeded) == (4, 1)
    assert celery_results[result] == Success("ok", retries=4)
    # And all code sees that the hour has passed.
    assert timezone.now() - began >= timedelta(hours=1)


def test_the_world_changes_between_two_attempts(widget, celery_inline):
    delete_widget.delay(widget.pk)
    first = celery_inline.step()
    assert (first.state, first.attempt) == ("RETRY", 1)
    assert celery_inline.step() is None  # it waits for its ten minutes
    archive_widget.delay(widget.pk)
    celery_inline.run()
    celery_inline.advance(timedelta(minutes=10))
    second = celery_inline.step()
    assert (second.state, second.attempt) == ("SUCCESS", 2)
    assert not Widget.objects.exists()


def test_a_retry_gives_up_in_the_end(widget, celery_inline, celery_results):
    result = delete_widget.delay(widget.pk)
    with pytest.raises(Widget.DoesNotExist):
        celery_inline.run(until=timedelta(hours=2))
    assert celery_results[result] == Failure(Widget.DoesNotExist, retries=6)
    # The base class of the task has recorded that one end, and not the retries.
    assert [entry.state for entry in AuditEntry.objects.all()] == ["FAILURE"]


def test_a_result_that_can_not_be_ready_is_told_at_once(widget, celery_inline):
    result = rename_widget.apply_async((widget.pk, "new"), countdown=3600)
    with pytest.raises(NeverReadyError, match="it is scheduled for"):
        result.get()


# Failures ---------------------------------------------------------------------------------


def test_a_failure_is_raised_where_the_task_is_delivered(celery_inline):
    send_email.delay(0)
    with pytest.raises(get_user_model().DoesNotExist):
        celery_inline.run()


def test_or_told_in_the_summary(user, celery_inline, mailoutbox):
    send_email.delay(0)
    send_email.delay(user.pk)
    summary = celery_inline.run(raise_failures=False)
    assert (summary.failed, summary.succeeded) == (1, 1)
    failed = summary.executions[0]
    assert isinstance(failed.exception, get_user_model().DoesNotExist)
    assert len(mailoutbox) == 1


# Workflows --------------------------------------------------------------------------------


def test_a_chord_with_its_results_in_the_database(celery_inline, celery_outbox, celery_results):
    result = chord([add.s(n, n) for n in range(3)], xsum.s()).delay()
    # The body is published when the last of the header is done, and not before.
    assert xsum.s([0, 2, 4]) not in celery_outbox
    assert celery_results[result] == Success(6)
    assert xsum.s([0, 2, 4]) in celery_outbox


def test_a_message_that_comes_twice(widget, celery_inline, celery_outbox):
    # A broker delivers at least once: a task has to cope with that.
    archive_widget.delay(widget.pk)
    celery_inline.run()
    celery_inline.redeliver(celery_outbox[0])
    celery_inline.run()
    widget.refresh_from_db()
    assert widget.archived


# In place of eager mode -------------------------------------------------------------------


@pytest.mark.celery_inline(auto=True)
def test_delivered_by_itself(client, mailoutbox):
    # After each message, when its transaction is over. For a whole suite: djcelery_mode.
    client.post("/users/", {"username": "ada"})
    assert len(mailoutbox) == 1
