"""Signing up, tested the old way: all green. Each test says what it hides.

``pytest tests_before --djcelery-audit`` finds all of it; ``tests_after/test_signup.py`` has the
same tests with the plugin's fixtures, which hide nothing.
"""

from unittest import mock

import pytest
from django.contrib.auth import get_user_model
from django.test import TestCase

from demoapp.pitfalls import welcome_again
from demoapp.tasks import import_widgets, send_email

User = get_user_model()


@pytest.mark.django_db
def test_a_user_signs_up(client, eager):
    # Hides: the mail. pytest-django rolls the test back, so the on_commit hook never runs.
    assert client.post("/users/", {"username": "ada"}).status_code == 201
    assert User.objects.get().username == "ada"


@pytest.mark.django_db
def test_the_mail_waits_for_the_commit(client, django_capture_on_commit_callbacks):
    # Hides: what the hook does. It is counted, and not run.
    with django_capture_on_commit_callbacks() as callbacks:
        client.post("/users/", {"username": "ada"})
    assert len(callbacks) == 1


@pytest.mark.django_db
def test_the_mail_itself(client, eager, mailoutbox, django_capture_on_commit_callbacks):
    # Hides nothing: the hook runs, and the task too.
    with django_capture_on_commit_callbacks(execute=True):
        client.post("/users/", {"username": "ada"})
    assert mailoutbox[0].subject == "Welcome, ada"


@pytest.mark.django_db
def test_the_mail_of_a_user_just_created(client, eager, mailoutbox):
    # Hides: a race. Eager mode is in the transaction and sees the row; a worker may not see it.
    client.post("/users/pitfall/", {"username": "ada"})
    assert mailoutbox[0].subject == "Welcome, ada"


@pytest.mark.django_db
def test_the_mail_is_sent_with_the_users_key(client):
    # Hides: the same race.
    with mock.patch("demoapp.tasks.send_email.delay") as delay:
        client.post("/users/pitfall/", {"username": "ada"})
    delay.assert_called_once_with(User.objects.get().pk)


@pytest.mark.django_db
def test_signing_up_sends_the_mail(client):
    # Hides: whether anything is sent. A mock is called where the transaction is rolled back, too.
    with mock.patch("demoapp.views.send_email") as send_email:
        client.post("/users/", {"username": "ada"})
    send_email.delay_on_commit.assert_called_once_with(User.objects.get().pk)


def test_a_user_is_welcomed_again(user):
    # Hides: the call fails in production, where its argument must become JSON.
    with mock.patch.object(send_email, "delay") as delay:
        welcome_again(user)
    delay.assert_called_once_with(user)


def test_an_import_is_started(memory_app):
    # Hides: the import. The message lies in a queue that nobody reads.
    result = memory_app.send_task(import_widgets.name, (["a", "b"],))
    assert result.id


class SignUpTest(TestCase):
    def test_the_answer(self):
        # Hides: nothing makes Celery eager here, so the message goes to the real broker.
        with self.captureOnCommitCallbacks(execute=True):
            response = self.client.post("/users/", {"username": "ada"})
        assert response.status_code == 201
