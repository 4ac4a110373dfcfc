"""``celery_worker``: a real worker of the project's own app, in a thread of this process.

Each test has real transactions (the worker has a database connection of its own and sees only
what is committed); say so with ``transaction=True``, or leave it to the fixture.
"""

import logging
from unittest.mock import patch

import pytest
from celery import chain
from django.contrib.auth import get_user_model
from pytest_djcelery import Success

from demoapp.models import AuditEntry
from demoapp.tasks import add, archive_widget, count_widgets, mul, send_email
from tests.factories import WidgetFactory

pytestmark = pytest.mark.django_db(transaction=True)


def test_through_a_running_worker(celery_worker, celery_results):
    assert celery_results[add.delay(4, 4)] == Success(8)


def test_get_wakes_when_the_task_ends(celery_worker):
    assert add.delay(4, 4).get(timeout=5) == 8


def test_tasks_that_a_view_sent(client, celery_worker, mailoutbox):
    client.post("/users/", {"username": "ada"})
    # The view doesn't keep its task's result: wait until the worker has nothing left to do.
    celery_worker.wait_until_idle()
    assert [mail.subject for mail in mailoutbox] == ["Welcome, ada"]


def test_the_worker_sees_what_is_committed(celery_worker):
    WidgetFactory.create_batch(3)
    assert count_widgets.delay().get(timeout=5) == 3


def test_a_workflow(celery_worker):
    assert chain(add.s(2, 2), mul.s(10)).delay().get(timeout=5) == 40


def test_a_failure_is_raised_where_the_result_is_read(celery_worker):
    # If nobody had read it, the test would fail at its end.
    with pytest.raises(get_user_model().DoesNotExist):
        send_email.delay(0).get(timeout=5)


def test_the_base_class_of_a_task_takes_part(widget, celery_worker):
    archive_widget.delay(widget.pk)
    celery_worker.wait_until_idle()
    widget.refresh_from_db()
    assert widget.archived
    assert AuditEntry.objects.get().state == "SUCCESS"


def test_patches_reach_the_task(user, celery_worker):
    with patch("demoapp.tasks.send_mail") as send_mail:
        send_email.delay(user.pk).get(timeout=5)
    assert send_mail.call_args.kwargs["subject"] == "Welcome, ada"


def test_its_log_is_captured(celery_worker, caplog):
    with caplog.at_level(logging.INFO, logger="celery"):
        add.delay(4, 4).get(timeout=5)
        celery_worker.wait_until_idle()
    assert "demoapp.tasks.add" in caplog.text
