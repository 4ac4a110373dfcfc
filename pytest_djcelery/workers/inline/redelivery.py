"""A message delivered once more, as a broker does that never got the acknowledgement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_djcelery.errors import BadOptionError
from pytest_djcelery.messages.headers import Recorded
from pytest_djcelery.messages.sent_task import SentTask

if TYPE_CHECKING:
    from celery import Celery


def redeliver(message: object, app: Celery) -> None:
    """Put a message at the head of its queue, marked as redelivered.

    Raises:
        BadOptionError: when it is no message, or went to no queue of the in-memory broker.
    """
    if not isinstance(message, SentTask):
        msg = f"redeliver() takes a message of the outbox, got {message!r}."
        raise BadOptionError(msg)
    if message.queue is None:
        msg = f"{message.task} [{message.id}] went to an exchange: its queue is not known."
        raise BadOptionError(msg)
    with app.connection_for_write() as connection:
        channel: Any = connection.default_channel
        channel.broker.put(message.queue, _as_redelivered(message, channel), first=True)


def _as_redelivered(message: SentTask, channel: Any) -> dict[str, Any]:
    from kombu import serialization

    embed = {
        "callbacks": list(message.links) or None,
        "errbacks": list(message.link_errors) or None,
        "chain": list(message.chain[::-1]) or None,  # Celery pops the next step off its end
        "chord": message.chord,
    }
    body = list(message.args), dict(message.kwargs), embed
    content_type, encoding, data = serialization.dumps(body, message.serializer)
    prepared: dict[str, Any] = channel.prepare_message(
        data,
        message.priority or 0,
        content_type,
        encoding,
        Recorded(message.headers, message),
        {"correlation_id": message.id, "reply_to": message.headers.get("reply_to")},
    )
    prepared["properties"]["delivery_info"] = {
        "exchange": message.exchange,
        "routing_key": message.routing_key,
        "redelivered": True,
    }
    return prepared
