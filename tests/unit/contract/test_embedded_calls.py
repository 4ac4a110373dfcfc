"""The messages that a message carries."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery, chain, chord, group

from pytest_djcelery.contract.sent_shapes import (
    RESULT,
    LaterCall,
    calls_in,
    calls_of_items,
)

app = Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False)


@app.task(name="add")
def add(*args: Any, **kwargs: Any) -> None: ...


@app.task(name="note")
def note(*args: Any, **kwargs: Any) -> None: ...


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The embedded parts of what is published."""
    found: list[Any] = []
    send = app.amqp.send_task_message

    def record(producer: Any, name: str, message: Any, **options: Any) -> Any:
        found.append(message.body[2])
        return send(producer, name, message, **options)

    monkeypatch.setattr(app.amqp, "send_task_message", record)
    return found


def _call(task: str, *args: Any, **rest: Any) -> LaterCall:
    return LaterCall(task=task, args=args, kwargs=rest.pop("kwargs", {}), **rest)


@pytest.mark.parametrize(
    ("send", "expected"),
    [
        (lambda: add.delay(1), []),
        (
            lambda: chain(add.s(1), add.s(2, x=1), note.si(3)).apply_async(),
            [_call("note", 3), _call("add", RESULT, 2, kwargs={"x": 1})],
        ),
        (
            lambda: add.apply_async((1,), link=[add.s(2), note.si()], link_error=note.s("who")),
            [_call("add", RESULT, 2), _call("note"), _call("note", "who", way="error link")],
        ),
        (
            lambda: add.apply_async((1,), link=add.s(2).set(link=note.s(3), serializer="pickle")),
            [_call("add", RESULT, 2, serializer="pickle"), _call("note", RESULT, 3)],
        ),
        (
            lambda: add.apply_async((1,), link=chain(add.s(2), note.s(3))),
            [_call("add", RESULT, 2), _call("note", RESULT, 3)],
        ),
        (
            lambda: add.apply_async((1,), link=group(add.s(2), note.s(3))),
            [_call("add", RESULT, 2), _call("note", RESULT, 3)],
        ),
        (
            lambda: add.apply_async((1,), link=chord([add.s(2)], note.s(3))),
            [_call("add", RESULT, 2), _call("note", [], 3)],
        ),
        (
            lambda: add.apply_async((1,), link=add.map([1, 2])),
            [_call("add", 1), _call("add", 2)],
        ),
        (lambda: chord([add.s(1)], note.s(3)).apply_async(), [_call("note", [], 3)]),
    ],
)
def test_what_is_carried(published: list[Any], send: Any, expected: list[LaterCall]) -> None:
    send()
    assert [*calls_in(published[0])] == expected


def test_items_are_calls() -> None:
    kwargs = {"task": add.s(), "it": [[1, 2], [3]]}
    assert [*calls_of_items("celery.starmap", kwargs)] == [
        LaterCall(task="add", args=[1, 2], kwargs={}),
        LaterCall(task="add", args=[3], kwargs={}),
    ]
    assert [*calls_of_items("celery.map", kwargs)][1] == _call("add", [3])
    assert not [*calls_of_items("celery.chord_unlock", kwargs)]
    assert not [*calls_of_items("celery.map", {"task": None, "it": [1]})]
