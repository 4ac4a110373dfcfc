"""Widgets: the tests of ``tests_before/test_widgets.py``, which now hide nothing."""

import pytest

from demoapp.models import Widget
from demoapp.services import rename_all, withdraw
from demoapp.tasks import rename_widget

pytestmark = pytest.mark.celery_sent_in_transaction("error")


def test_a_widget_is_withdrawn(widget, celery_inline):
    withdraw(widget)
    assert Widget.objects.get().archived
    celery_inline.run()
    assert not Widget.objects.exists()


def test_renaming_leaves_time_to_think_again(client, widget, celery_outbox):
    client.post(f"/widgets/{widget.pk}/rename/", {"name": "new"})
    assert celery_outbox == [rename_widget.s(widget.pk, "new").set(countdown=10)]


def test_all_widgets_are_renamed(widget, celery_inline):
    rename_all([widget], "new")
    celery_inline.run()
    assert Widget.objects.get().name == "new"
