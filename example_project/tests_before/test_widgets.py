"""Widgets, tested the old way: all green. Each test says what it hides."""

from demoapp.models import Widget
from demoapp.pitfalls import rename_all, withdraw
from demoapp.tasks import rename_widget


def test_a_widget_is_withdrawn(widget, eager):
    # Hides: a race, since the message is sent before the write; and that the task has failed,
    # since it ran before the write. Nobody reads its result.
    withdraw(widget)
    assert Widget.objects.get().archived


def test_renaming_leaves_time_to_think_again(client, widget, monkeypatch):
    # Hides: whether Celery would take this call.
    calls = []
    monkeypatch.setattr(rename_widget, "apply_async_on_commit", lambda **call: calls.append(call))
    client.post(f"/widgets/{widget.pk}/rename/", {"name": "new"})
    assert calls == [{"args": (widget.pk, "new"), "countdown": 10}]


def test_all_widgets_are_renamed(widget, monkeypatch):
    # Hides: the call fails in production. The task has no argument of this name.
    renamed = []
    monkeypatch.setattr(rename_widget, "delay", lambda pk, **_: renamed.append(pk))
    rename_all([widget], "new")
    assert renamed == [widget.pk]
