"""``celery_app``: the project's own app, and how a test changes its configuration.

The broker in the settings is not used: for the whole run, messages stay in memory.
"""

import pytest
from django.test import override_settings

from demoapp.tasks import add
from proj.celery import app


def test_the_app_is_the_projects_own(celery_app):
    assert celery_app.main == "proj"
    assert celery_app.tasks is app.tasks


def test_messages_stay_in_memory(celery_app):
    with celery_app.connection_for_write() as connection:
        assert connection.transport.driver_type not in ("filesystem", "redis", "amqp")


@pytest.mark.celery(task_default_queue="marked")
def test_the_marker_configures_one_test(celery_outbox):
    add.delay(1, 1)
    assert celery_outbox.on_queue("marked") == [add.s(1, 1)]


def test_django_settings_count_at_once(settings, celery_outbox):
    settings.CELERY_TASK_DEFAULT_QUEUE = "from-settings"
    add.delay(1, 1)
    with override_settings(CELERY_TASK_DEFAULT_QUEUE="overridden"):
        add.delay(2, 2)
    assert [message.queue for message in celery_outbox] == ["from-settings", "overridden"]


def test_and_are_undone(celery_app, celery_outbox):
    add.delay(1, 1)
    assert celery_outbox.on_queue("celery") == [add.s(1, 1)]
    assert celery_app.conf.task_default_queue == "celery"
