"""``celery_live_worker``: ``celery -A proj worker -l INFO``, in separate processes.

It is started once, for the first test that requests it, and serves those after it. Patches, signal
receivers and ``mailoutbox`` of the test don't reach its processes; what they log, publish and
store does reach the test.
"""

import pytest
from celery import chord, group
from celery.exceptions import TimeLimitExceeded
from django.db import connection
from pytest_djcelery import Failure, Success

from demoapp.models import AuditEntry
from demoapp.tasks import add, archive_widget, count_widgets, send_email, work, xsum
from tests.factories import WidgetFactory


def test_through_the_processes_of_a_worker(celery_live_worker, celery_results):
    assert celery_results[add.delay(4, 4)] == Success(8)


def test_tasks_that_a_view_sent(client, celery_live_worker, celery_outbox):
    client.post("/users/", {"username": "ada"})
    celery_live_worker.wait_until_idle()
    [sent] = celery_outbox.of(send_email)
    assert f"Task demoapp.tasks.send_email[{sent.id}] succeeded" in celery_live_worker.log


def test_both_see_what_the_other_has_committed(widget, celery_live_worker):
    WidgetFactory.create_batch(2)
    assert count_widgets.delay().get() == 3
    archive_widget.delay(widget.pk)
    celery_live_worker.wait_until_idle()
    widget.refresh_from_db()
    assert widget.archived
    assert AuditEntry.objects.get().state == "SUCCESS"


def test_a_workflow(celery_live_worker):
    assert chord((add.s(each, each) for each in range(10)), xsum.s()).delay().get() == 90


def test_a_time_limit_ends_the_task(celery_live_worker, celery_results):
    # Only a process can be ended: in celery_worker, which is a thread, this task would go on.
    result = work.apply_async((60,), time_limit=1)
    assert celery_results[result] == Failure(TimeLimitExceeded)


@pytest.mark.celery_live_worker(concurrency=1, queues=["celery", "mail"])
def test_options_of_the_command_line(celery_live_worker):
    assert add.apply_async((4, 4), queue="mail").get() == 8


@pytest.mark.skipif(
    "pool" not in connection.settings_dict["OPTIONS"],
    reason="needs DATABASE=postgresql DATABASE_POOL=1, with Django 5.1 and Celery 5.6 or later",
)
def test_each_process_has_a_connection_pool_of_its_own(celery_live_worker):
    # A connection can't be shared between processes, so Celery closes the pool that a child
    # inherits from its parent, and the child opens its own.
    WidgetFactory.create_batch(2)
    results = group(count_widgets.si() for _ in range(20)).delay()
    assert results.get() == [2] * 20
