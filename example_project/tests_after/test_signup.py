"""Signing up: the tests of ``tests_before/test_signup.py``, which now hide nothing.

The code that they found to be wrong is mended: the view sends after the commit, the service sends
a key.
"""

import pytest
from django.contrib.auth import get_user_model
from django.test import TestCase
from pytest_djcelery import inline

from demoapp.models import Widget
from demoapp.services import welcome_again
from demoapp.tasks import import_widgets, send_email

User = get_user_model()

# A message inside an open transaction that writes is an error, at the very line.
pytestmark = [pytest.mark.django_db, pytest.mark.celery_sent_in_transaction("error")]


def test_a_user_signs_up(client, celery_inline):
    assert client.post("/users/", {"username": "ada"}).status_code == 201
    assert User.objects.get().username == "ada"
    celery_inline.run()  # the mail, too: if its task failed, this would raise


def test_the_mail_waits_for_the_commit(client, celery_outbox):
    client.post("/users/", {"username": "ada"})
    assert celery_outbox.after_commit == [send_email.s(User.objects.get().pk)]


def test_the_mail_itself(client, celery_inline, mailoutbox):
    client.post("/users/", {"username": "ada"})
    celery_inline.run()
    assert mailoutbox[0].subject == "Welcome, ada"


@pytest.mark.celery_inline(auto=True)  # after each message, as eager mode: but after the commit
def test_the_mail_of_a_user_just_created(client, mailoutbox):
    client.post("/users/", {"username": "ada"})
    assert mailoutbox[0].subject == "Welcome, ada"


def test_the_mail_is_sent_with_the_users_key(client, celery_outbox):
    client.post("/users/", {"username": "ada"})
    assert celery_outbox == [send_email.s(User.objects.get().pk)]


def test_signing_up_sends_the_mail(client, celery_outbox):
    client.post("/users/", {"username": ""})  # rolled back
    assert celery_outbox == []
    client.post("/users/", {"username": "ada"})
    assert celery_outbox == [send_email.s(User.objects.get().pk)]


def test_a_user_is_welcomed_again(user, celery_outbox):
    welcome_again(user)
    assert celery_outbox == [send_email.s(user.pk)]


def test_an_import_is_started(celery_inline):
    import_widgets.delay(["a", "b"])
    celery_inline.run()
    assert Widget.objects.count() == 2


class SignUpTest(TestCase):
    def test_the_answer(self):
        with inline() as worker:
            response = self.client.post("/users/", {"username": "ada"})
            worker.run()
        assert response.status_code == 201
