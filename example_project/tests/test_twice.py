"""``celery_redeliver``: is a task safe to run twice?

A broker delivers each message at least once: if a worker dies, or loses its connection, before it
has acknowledged a message, the broker delivers that message again, and the task runs twice. With
the marker each message that ``celery_inline`` has run to success is delivered once more, and the
test fails if the second run makes a difference.

    pytest --djcelery-redeliver=report

does so for all tests, fails none of them, and lists the tasks at the end of the run.
"""

import pytest
from pytest_djcelery import NotIdempotentError

from demoapp.models import AuditEntry, Widget
from demoapp.tasks import (
    archive_widget,
    import_widgets,
    rename_widget,
    send_email,
    send_email_once,
)

pytestmark = pytest.mark.django_db


# A mail that is sent twice ------------------------------------------------------------------


@pytest.mark.celery_redeliver
@pytest.mark.xfail(raises=NotIdempotentError, strict=True, reason="the mail is sent twice")
def test_a_mail_that_nothing_remembers_is_sent_twice(user, celery_inline):
    send_email.delay(user.pk)
    celery_inline.run()
    # What fails this test is its end:
    #
    #   demoapp.tasks.send_email(1) [57e9…], sent at tests/test_twice.py:34 in test_a_mail_…
    #     mail "Welcome, ada" to ada@example.com


@pytest.mark.celery_redeliver
def test_a_mail_with_a_row_that_remembers_it_is_sent_once(user, celery_inline, mailoutbox):
    send_email_once.delay(user.pk)
    celery_inline.run()
    [mail] = mailoutbox
    assert mail.subject == "Welcome, ada"


# Rows ---------------------------------------------------------------------------------------


@pytest.mark.celery_redeliver
def test_a_task_that_sets_a_value_may_come_twice(widget, celery_inline):
    rename_widget.delay(widget.pk, "new")
    celery_inline.run()
    widget.refresh_from_db()
    assert widget.name == "new"


@pytest.mark.celery_redeliver
@pytest.mark.xfail(raises=NotIdempotentError, strict=True, reason="it inserts the rows again")
def test_a_task_that_only_inserts_may_not(celery_inline):
    import_widgets.delay(["a", "b"])
    celery_inline.run()
    assert Widget.objects.count() == 2  # the second run's rows are gone by now


# A second run that is meant to make a difference --------------------------------------------


@pytest.mark.celery_redeliver(exempt=[archive_widget])
def test_a_task_that_writes_down_each_of_its_runs_is_exempt(widget, celery_inline):
    archive_widget.delay(widget.pk)
    rename_widget.delay(widget.pk, "new")  # this one is not
    celery_inline.run()
    widget.refresh_from_db()
    assert (widget.name, widget.archived) == ("new", True)
    assert AuditEntry.objects.count() == 1


# What each delivery was ---------------------------------------------------------------------


@pytest.mark.celery_redeliver("report")
def test_both_runs_are_among_the_executions(widget, celery_inline):
    rename_widget.delay(widget.pk, "new")
    summary = celery_inline.run()
    assert summary.succeeded == 1  # the counts are of what the test has sent
    first, second = summary.executions
    assert (first.redelivered, second.redelivered) == (False, True)
