"""``celery_eager``: each task runs at once, inside the call that sends it.

Quick and simple, and not what a worker does: no queue, no countdown. Good for the test of a
view that only has to make its task run.
"""

import pytest
from pytest_djcelery import Success

from demoapp.models import AuditEntry, Widget
from demoapp.tasks import add, archive_widget, count_widgets, import_widgets, send_email
from tests.factories import WidgetFactory

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("celery_eager")]


def test_the_mail_itself(client, mailoutbox):
    client.post("/users/", {"username": "ada"})
    [mail] = mailoutbox
    assert mail.subject == "Welcome, ada"


def test_a_task_sees_the_rows_of_the_test():
    WidgetFactory.create_batch(3)
    assert count_widgets.delay().get() == 3


def test_the_result_can_be_read_back(celery_app):
    sent = add.delay(4, 4)
    assert celery_app.AsyncResult(sent.id).get() == 8


def test_the_message_is_recorded_all_the_same(user, celery_outbox):
    send_email.delay(user.pk)
    assert celery_outbox == [send_email.s(user.pk)]


def test_progress_is_written_down(celery_results):
    result = import_widgets.delay(["a", "b"])
    assert celery_results[result] == Success(2)
    assert Widget.objects.count() == 2


def test_the_base_class_of_a_task_takes_part(widget):
    archive_widget.delay_on_commit(widget.pk)
    widget.refresh_from_db()
    assert widget.archived
    assert AuditEntry.objects.get().state == "SUCCESS"


def test_the_base_class_sees_a_failure_too():
    with pytest.raises(TypeError):
        archive_widget.delay([]).get()
    assert AuditEntry.objects.get().state == "FAILURE"
