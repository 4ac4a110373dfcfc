"""``celery_outbox``: every message that the test's code sent, oldest first.

The tasks do not run: these are tests of the code that sends them. The outbox contains what a
worker would receive, and is compared with Celery's own signatures.
"""

from unittest.mock import ANY

import pytest
from celery import chain, chord
from kombu.exceptions import EncodeError

from demoapp.tasks import add, mul, rename_widget, send_email, xsum

pytestmark = pytest.mark.django_db


def test_signing_up_sends_the_mail(client, django_user_model, celery_outbox):
    client.post("/users/", {"username": "ada"})
    user = django_user_model.objects.get()
    assert celery_outbox == [send_email.s(user.pk)]
    # And it waited for the commit, so the worker will find the user.
    assert celery_outbox.after_commit == [send_email.s(user.pk)]


def test_a_name_that_is_taken_sends_nothing(client, user, celery_outbox):
    response = client.post("/users/", {"username": user.username})
    assert response.status_code == 400
    assert celery_outbox == []


def test_arguments_compare_as_the_task_would_receive_them(celery_outbox):
    add.delay(1, y=2)
    # Positional or by keyword: the same call. Anything with ``==`` can be inside.
    assert celery_outbox == [add.s(1, 2)]
    assert add.s(x=1, y=ANY) in celery_outbox


def test_options_count_where_the_signature_sets_them(client, widget, celery_outbox):
    client.post(f"/widgets/{widget.pk}/rename/", {"name": "new"})
    assert rename_widget.s(widget.pk, "new") in celery_outbox
    assert rename_widget.s(widget.pk, "new").set(countdown=10) in celery_outbox
    assert rename_widget.s(widget.pk, "new").set(countdown=3600) not in celery_outbox


def test_looking_at_some_of_the_messages(celery_outbox):
    add.delay(1, 1)
    mul.apply_async((2, 3), queue="slow")
    add.delay(1, 1)
    assert celery_outbox.of(add) == [add.s(1, 1), add.s(1, 1)]
    assert celery_outbox.on_queue("slow") == [mul.s(2, 3)]
    assert celery_outbox.count(add.s(1, 1)) == 2
    # The one message that fits, with all that is known of it.
    message = celery_outbox.one(mul.s(2, 3))
    assert message.queue == "slow"
    assert message.transaction == "autocommit"


def test_the_messages_of_one_block(celery_outbox):
    add.delay(1, 1)
    with celery_outbox.record() as sent:
        mul.delay(2, 3)
    assert sent == [mul.s(2, 3)]
    assert celery_outbox == [add.s(1, 1), mul.s(2, 3)]


def test_workflows(celery_outbox):
    chain(add.s(1, 1), mul.s(10)).delay()
    chord([add.s(1, 1), add.s(2, 2)])(xsum.s())
    # Only what can start has been sent; what follows is inside it.
    assert celery_outbox == [add.s(1, 1), add.s(1, 1), add.s(2, 2)]
    assert celery_outbox.canvas == [
        chain(add.s(1, 1), mul.s(10)),
        chord([add.s(1, 1), add.s(2, 2)], xsum.s()),
    ]


def test_a_task_sent_by_its_name(celery_app, celery_outbox):
    celery_app.send_task("demoapp.tasks.add", (1, 2))
    assert celery_outbox == [add.s(1, 2)]


def test_what_does_not_serialize_is_an_error_where_it_is_sent(user, celery_outbox):
    with pytest.raises(EncodeError):
        send_email.delay(user)  # meant user.pk
    assert celery_outbox == []
