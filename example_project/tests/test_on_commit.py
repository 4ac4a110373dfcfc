"""``celery_on_commit``: what waits for the commit, what ran, and what never will.

pytest-django wraps each test in a transaction that is rolled back at its end. Hooks run
nevertheless, as in production: when the code's own outermost ``atomic`` block exits.
"""

import pytest
from django.db import transaction

from demoapp.tasks import add, mul, send_email

pytestmark = pytest.mark.django_db


def test_the_mail_waits_for_the_commit(user, celery_outbox, celery_on_commit):
    with transaction.atomic():
        send_email.delay_on_commit(user.pk)
        [hook] = celery_on_commit.pending
        assert celery_outbox == []
    assert celery_on_commit.ran == [hook]
    assert celery_outbox == [send_email.s(user.pk)]


def test_nothing_goes_out_when_the_transaction_rolls_back(client, celery_outbox, celery_on_commit):
    client.post("/users/", {"username": ""})
    assert celery_outbox == []
    [hook] = celery_on_commit.discarded
    assert hook.location.function == "sign_up"


def test_a_savepoint_is_not_a_commit(celery_outbox):
    with transaction.atomic():
        with transaction.atomic():
            add.delay_on_commit(1, 1)
        assert celery_outbox == []
    assert celery_outbox == [add.s(1, 1)]


def test_a_savepoint_that_rolls_back_discards_only_its_own(celery_outbox, celery_on_commit):
    with transaction.atomic():
        add.delay_on_commit(1, 1)
        with transaction.atomic():
            mul.delay_on_commit(2, 2)
            transaction.set_rollback(True)  # or an exception that leaves the block
    assert celery_outbox == [add.s(1, 1)]
    assert len(celery_on_commit.discarded) == 1


def test_with_no_transaction_a_hook_runs_at_once(celery_outbox):
    add.delay_on_commit(1, 1)
    assert celery_outbox == [add.s(1, 1)]


def test_what_each_hook_sent(celery_on_commit):
    with transaction.atomic():
        add.delay_on_commit(1, 1)
        transaction.on_commit(lambda: None)
    tasks, nothing = celery_on_commit.ran
    assert list(tasks.sent) == [add.s(1, 1)]
    assert list(nothing.sent) == []


def test_holding_the_hooks_back(celery_outbox, celery_on_commit):
    # The moment between the commit and its hooks, which other requests can see.
    with celery_on_commit.hold():
        with transaction.atomic():
            add.delay_on_commit(1, 1)
        assert celery_outbox == []
    assert celery_outbox == [add.s(1, 1)]
