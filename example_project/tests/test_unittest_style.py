"""Django's own test classes: context managers in place of fixtures, or beside them."""

import pytest
from django.contrib.auth import get_user_model
from django.test import TestCase, TransactionTestCase
from pytest_djcelery import Success, eager, inline, on_commit, outbox, results, worker

from demoapp.tasks import add, send_email


class SignUpTest(TestCase):
    def test_the_mail_goes_out_after_the_commit(self):
        with outbox() as sent:
            self.client.post("/users/", {"username": "ada"})
        user = get_user_model().objects.get()
        assert sent.after_commit == [send_email.s(user.pk)]

    def test_a_rollback_discards_the_mail(self):
        with on_commit() as hooks:
            self.client.post("/users/", {"username": ""})
        assert len(hooks.discarded) == 1

    def test_the_mail_itself(self):
        from django.core import mail

        with eager():
            self.client.post("/users/", {"username": "ada"})
        assert [message.subject for message in mail.outbox] == ["Welcome, ada"]

    def test_the_mail_through_a_workers_code(self):
        from django.core import mail

        with inline() as worker:
            self.client.post("/users/", {"username": "ada"})
            worker.run()
        assert [message.subject for message in mail.outbox] == ["Welcome, ada"]


class WorkerTest(TransactionTestCase):
    def test_through_a_running_worker(self):
        with worker(), results() as outcomes:
            assert outcomes[add.delay(4, 4)] == Success(8)


@pytest.mark.usefixtures("celery_eager")
class FixtureTest(TestCase):
    """A fixture for the whole class, and one that the tests need by name."""

    @pytest.fixture(autouse=True)
    def _sent(self, celery_outbox):
        self.sent = celery_outbox

    def test_tasks_run_and_are_recorded(self):
        assert add.delay(4, 4).get() == 8
        assert self.sent == [add.s(4, 4)]
