"""Makes the record of a message: what a worker would receive, and what only its sender knows."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

from kombu import serialization
from kombu.exceptions import EncodeError

from pytest_djcelery import clock, locations
from pytest_djcelery.brokers.memory.addresses import in_memory
from pytest_djcelery.messages.arguments import explain_unserializable
from pytest_djcelery.messages.canvas import embedded_signature, embedded_signatures
from pytest_djcelery.messages.headers import received
from pytest_djcelery.messages.option_rules import NOT_SENT
from pytest_djcelery.messages.sent_task import SentTask
from pytest_djcelery.messages.task_message import Items, header_moment
from pytest_djcelery.transactions.hooks import WatchedHook

if TYPE_CHECKING:
    from types import FrameType

    from celery import Celery

    from pytest_djcelery.messages.task_message import DjangoCall
    from pytest_djcelery.transactions.watch import Publishing


_PLAIN = frozenset({bool, int, str, type(None)})
_NAMES = frozenset({str})
_NONE: Items[Any] = Items()
# Options of a publish that a record has fields for, or that matter only to the publish itself.
_RECORDED_APART = NOT_SENT | {
    *("exchange", "expiration", "headers", "priority", "queue", "routing_key", "serializer"),
}


class Message(NamedTuple):
    """A message as Celery hands it to a producer."""

    headers: Mapping[str, Any]
    body: Any
    properties: Mapping[str, Any] = {}  # by then they are among the options


def sent_task(
    app: Celery,
    name: str,
    message: Any,
    options: Mapping[str, Any],
    situation: Publishing,
    frame: FrameType | None = None,
    django_call: DjangoCall | None = None,
) -> SentTask:
    """The record of a message, from its headers, its body and the options it is sent with."""
    serializer = options.get("serializer") or app.conf.task_serializer
    given = options.get("headers")
    headers = _received(app, {**message.headers, **given} if given else message.headers)
    if isinstance(message.body, tuple):  # protocol 2
        body = message.body
    else:  # protocol 1 keeps everything in the body
        headers = {**message.body, **headers}
        embed = {key: headers.get(key) for key in ("callbacks", "errbacks", "chord")}
        body = headers.pop("args"), headers.pop("kwargs"), embed
    args, kwargs, embed = _round_trip(name, body, serializer)
    if kwargs:  # records of one task share the names of its arguments
        kwargs = {sys.intern(key): value for key, value in kwargs.items()}
    queue, exchange, routing_key = _destination(app, options)
    links, link_errors, chain, chord = _canvas(app, embed, serializer)
    return SentTask(
        task=name,
        args=Items(args),
        kwargs=kwargs,
        id=headers["id"],
        queue=queue,
        exchange=exchange,
        routing_key=routing_key,
        eta=header_moment(app, headers.get("eta")),
        expires=header_moment(app, headers.get("expires")),
        priority=options.get("priority"),
        retries=headers.get("retries") or 0,
        headers=headers,
        root_id=headers.get("root_id"),
        parent_id=headers.get("parent_id"),
        group_id=headers.get("group"),
        links=links,
        link_errors=link_errors,
        chain=chain,
        chord=chord,
        sent_at=datetime.now(timezone.utc),
        location=(
            locations.of_caller(frame, until=WatchedHook.__call__.__code__)
            if django_call is None
            else django_call.location  # the backend, too, may be the project's own
        )
        or situation.hook_location,
        transaction=situation.transaction,
        serializer=serializer,
        exact_times=clock.stands_still(),
        properties={
            name: value
            for name, value in {**message.properties, **options}.items()
            if value is not None and name not in _RECORDED_APART
        },
        django_call=None if django_call is None else _as_sent(django_call, serializer),
    )


def _as_sent(call: DjangoCall, serializer: str) -> DjangoCall:
    """The call with the arguments that its task will get, as far as that can be known.

    A backend that sends them in another form makes plain data of them, as Django's own do.
    """
    from django.utils.json import normalize_json

    try:
        content_type, encoding, data = serialization.dumps((call.args, call.kwargs), serializer)
        args, kwargs = serialization.loads(data, content_type, encoding, accept=[content_type])
    except EncodeError:
        try:
            args, kwargs = normalize_json(call.args), normalize_json(call.kwargs)
        except (TypeError, ValueError):
            return call
    return replace(call, args=Items(args), kwargs=kwargs)


def as_published(app: Celery, task: Any, args: Any, kwargs: Any, options: Mapping[str, Any]) -> Any:
    """The message and the route that ``Celery.send_task`` would have made from an eager call."""
    options = {key: value for key, value in options.items() if value is not None}
    task_id = options.pop("task_id")
    routed = app.amqp.router.route(dict(options), task.name, args, kwargs, task)
    known = {
        key: routed.pop(key)
        for key in ("countdown", "eta", "expires", "group_id", "group_index", "retries", "chord",
                    "root_id", "parent_id", "shadow", "chain", "time_limit", "soft_time_limit",
                    "ignore_result", "stamped_headers")
        if key in routed
    }  # fmt: skip
    stamps = {key: routed[key] for key in known.get("stamped_headers") or () if key in routed}
    message = app.amqp.create_task_message(
        task_id,
        task.name,
        args,
        kwargs,
        callbacks=_listed(routed.pop("link", None)),
        errbacks=_listed(routed.pop("link_error", None)),
        **known,
        **stamps,
    )
    return message, routed


def _listed(value: Any) -> Any:
    return value if value is None or isinstance(value, list | tuple) else [value]


def _received(app: Celery, headers: Mapping[str, Any]) -> dict[str, Any]:
    """Headers as a worker gets them; a real broker itself refuses those that can't be sent."""
    try:
        return received(headers)
    except (TypeError, ValueError):
        if in_memory(app):
            raise
        return dict(headers)


def _canvas(app: Celery, embed: Mapping[str, Any], serializer: str) -> tuple[Any, Any, Any, Any]:
    """What a message carries: links, error links, the rest of its chain, its chord."""
    if not any(embed.values()):
        return _NONE, _NONE, _NONE, None

    def signatures(written: Any) -> Items[Any]:
        return Items(embedded_signatures(written, app, serializer)) if written else _NONE

    return (
        signatures(embed.get("callbacks")),
        signatures(embed.get("errbacks")),
        signatures((embed.get("chain") or [])[::-1]),  # Celery pops the next step off its end
        embedded_signature(embed["chord"], app, serializer) if embed.get("chord") else None,
    )


def _round_trip(name: str, body: Any, serializer: str) -> Any:
    """What a worker would decode. The error for arguments that can't be encoded names them."""
    if serializer == "json" and _is_plain(body):
        return list(body[0]), dict(body[1]), body[2]
    try:
        content_type, encoding, data = serialization.dumps(body, serializer)
    except EncodeError as error:
        explain_unserializable(error, name, body, serializer)
        raise
    return serialization.loads(data, content_type, encoding, accept=[content_type])


def _is_plain(body: Any) -> bool:
    """Whether JSON leaves the arguments unchanged: true of most calls, and by far the fastest."""
    args, kwargs, embed = body
    return (
        type(args) in (list, tuple)
        and type(kwargs) is dict
        and _PLAIN.issuperset(map(type, args))
        and _NAMES.issuperset(map(type, kwargs))
        and _PLAIN.issuperset(map(type, kwargs.values()))
        and not any(embed.values())
    )


def _destination(
    app: Celery, options: Mapping[str, Any]
) -> tuple[str | None, str | None, str | None]:
    """Queue, exchange and routing key, as ``AMQP.send_task_message`` chooses them."""
    exchange, routing_key = options.get("exchange"), options.get("routing_key")
    queue = options.get("queue")
    if queue is None and (exchange is None or (not exchange and routing_key)):
        queue = app.amqp.default_queue
    if isinstance(queue, str):
        queue = app.amqp.queues[queue]
    exchange_name = getattr(exchange, "name", exchange)
    queue_name = queue.name if queue is not None else None
    kind = getattr(getattr(queue, "exchange", None), "type", None) or "direct"
    if (not exchange_name or not routing_key) and kind == "direct":
        return queue_name, "", queue_name  # straight to the queue, past any exchange
    if exchange_name is None and queue is not None:
        exchange_name = queue.exchange.name or app.conf.task_default_exchange
        routing_key = routing_key or queue.routing_key or app.conf.task_default_routing_key
    return queue_name, exchange_name, routing_key
