"""The one place where every message of an app passes on its way to a producer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from celery import _state
from celery.app.amqp import AMQP

from pytest_djcelery.patching import patches, replaced

#: Sends a message: ``send(producer, name, message, **options)``.
Send = Callable[..., Any]


@patches(
    "celery.app.amqp:AMQP._create_task_sender",
    why="Celery's publish signals say neither which serializer is used nor whether the broker took "
    "the message, and swallow what a receiver raises.",
    checked_on="Celery 5.4 to 5.7",
)
@contextmanager
def senders_wrapped(wrap: Callable[[Any, Send], Send]) -> Iterator[None]:
    """Within the ``with``, send each message by what ``wrap(amqp, send)`` returns.

    Celery builds the sender once for each ``app.amqp`` and keeps it, so the kept ones are dropped
    on the way in and out; they are rebuilt on the next publish.
    """
    create = vars(AMQP)["_create_task_sender"]

    def _create_task_sender(amqp: Any) -> Send:
        return wrap(amqp, create(amqp))

    try:
        with replaced(AMQP, _create_task_sender=_create_task_sender):
            _drop_senders()
            yield
    finally:
        _drop_senders()


def _drop_senders() -> None:
    apps: Any = vars(_state)["_apps"]
    for app in list(apps):
        amqp = vars(app).get("amqp")
        if amqp is not None:
            vars(amqp).pop("send_task_message", None)
