"""A message sent inside an open transaction: the pitfall of Celery's Django tutorial.

The worker may run before the commit and not find the row. Eager mode and Django's ``TestCase``
hide it; the plugin names the line, in every test that uses one of its fixtures. The ini option
``djcelery_sent_in_transaction`` takes ``warn``, ``error`` or ``ignore`` for the whole suite.
"""

import pytest
from django.db import transaction
from pytest_djcelery import SentInTransactionError, SentInTransactionWarning

from demoapp.tasks import add, send_email
from tests.factories import UserFactory

pytestmark = pytest.mark.django_db


def test_the_pitfall_is_a_warning(client, celery_outbox):
    with pytest.warns(SentInTransactionWarning, match=r"views\.py:\d+ in create_user_pitfall"):
        client.post("/users/pitfall/", {"username": "ada"})
    [message] = celery_outbox.in_transaction
    assert message.location.function == "create_user_pitfall"


@pytest.mark.celery_sent_in_transaction("error")
def test_or_an_error_at_the_very_call(client, django_user_model, celery_outbox):
    with pytest.raises(SentInTransactionError, match="delay_on_commit"):
        client.post("/users/pitfall/", {"username": "ada"})
    assert celery_outbox == []
    assert not django_user_model.objects.exists()


@pytest.mark.celery_sent_in_transaction("ignore")
def test_or_meant_like_this(client, celery_outbox):
    client.post("/users/pitfall/", {"username": "ada"})
    assert len(celery_outbox.in_transaction) == 1


@pytest.mark.celery_sent_in_transaction("error")
def test_the_remedy(client, celery_outbox):
    client.post("/users/", {"username": "ada"})
    assert len(celery_outbox.after_commit) == 1


@pytest.mark.celery_sent_in_transaction("error")
def test_a_transaction_that_writes_nothing_is_no_race(user, celery_outbox):
    with transaction.atomic():
        add.delay(1, 1)
    assert celery_outbox == [add.s(1, 1)]


def test_a_write_after_the_message_is_a_race_too(user, celery_outbox):
    @transaction.atomic
    def send_and_write():
        send_email.delay(user.pk)
        UserFactory(username="grace")

    with pytest.warns(SentInTransactionWarning):
        send_and_write()
