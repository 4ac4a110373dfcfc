"""See every message that leaves, whichever way: through a broker or run at once by eager mode.

Private API, in the two functions that patch it. Celery's publish signals would be the public
way, but they tell neither the serializer nor the eager calls, and an error raised in a
receiver is logged and swallowed. Checked on Celery 5.4 to 5.7.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_djcelery import clock, locations
from pytest_djcelery.brokers.memory.addresses import in_memory
from pytest_djcelery.brokers.servers import explained
from pytest_djcelery.messages.embedded_signature import all_carried, carried
from pytest_djcelery.messages.headers import Recorded, received
from pytest_djcelery.messages.journal import NotSent, Published
from pytest_djcelery.messages.option_rules import NOT_SENT
from pytest_djcelery.messages.sent_task import Items, SentTask, header_moment
from pytest_djcelery.patching import replaced
from pytest_djcelery.recording.task_surroundings import Shared
from pytest_djcelery.recording.task_threads import TaskInPlace
from pytest_djcelery.transactions.hooks import WatchedHook
from pytest_djcelery.transactions.task_connections import test_connections_held_open

if TYPE_CHECKING:
    from types import FrameType

    from celery import Celery

    from pytest_djcelery.messages.journal import Journal
    from pytest_djcelery.recording.task_surroundings import Surroundings
    from pytest_djcelery.transactions.watch import Publishing, TransactionWatch


_PLAIN = frozenset({bool, int, str, type(None)})
_NAMES = frozenset({str})
_NONE: Items[Any] = Items()
# Options of a publish that a record has fields for, or that are over with it.
_RECORDED_APART = NOT_SENT | {
    *("exchange", "expiration", "headers", "priority", "queue", "routing_key", "serializer"),
}


class Tap:
    """Builds a `SentTask` for each publish, lets the watch judge it and the journal keep it.

    ``published`` is called after each that no transaction is open around, and ``sent`` with each
    message of ``app``, the project's, that has left. A task that eager mode runs in place of a
    publish is run in ``surroundings``.
    """

    def __init__(  # noqa: PLR0913 - each is told by another part
        self,
        watch: TransactionWatch,
        journal: Journal,
        published: Callable[[], None],
        surroundings: Surroundings,
        *,
        app: Celery,
        sent: Callable[[SentTask], None],
    ) -> None:
        self._watch = watch
        self._journal = journal
        self._published = published
        self._surroundings = surroundings
        self._app = app
        self._sent = sent

    def publish(
        self,
        app: Celery,
        name: str,
        options: Mapping[str, Any],
        producer: Any,
        send: Callable[[Any], Any],
    ) -> Any:
        """Send a message to the broker, by ``send(producer)``, whose result is returned."""
        __tracebackhide__ = True
        departure = _Departure(self, app, name, options, producer)
        try:
            result = send(departure)
        except BaseException:
            if departure.record is not None and not departure.left:
                self._journal.append(NotSent(message=departure.record))
            raise
        if departure.record is not None and app is self._app:
            self._sent(departure.record)
        if not self._watch.in_blocks:
            self._published()
        return result

    def departs(
        self, app: Celery, name: str, body: Any, options: Mapping[str, Any], queue: Any
    ) -> SentTask:
        """Record a message as it is handed to its producer, and judge the moment.

        Args:
            app: that sends it.
            name: of the task.
            body: of the message.
            options: what `kombu.Producer.publish` is given.
            queue: that the caller has asked for.
        """
        situation = self._watch.publishing()
        message = _Message(options["headers"], body)
        sent = sent_task(
            app, name, message, {**options, "headers": None, "queue": queue}, situation
        )
        self._watch.judge(sent)
        other = app is not self._app
        self._journal.append(Published(message=sent, hook=situation.hook, other_app=other))
        return sent

    @contextmanager
    def eager(
        self, task: Any, args: Any, kwargs: Any, options: Mapping[str, Any]
    ) -> Iterator[Callable[..., Any]]:
        """Around an eager run that stands for a publish; yields what to call it with."""
        frame = locations.publishing_frame()
        if frame is None:
            # ``task.apply()`` by the test itself: nothing would have been published.
            with self._watch.eager_task(), TaskInPlace(), test_connections_held_open():
                yield _called
            return
        from pytest_djcelery.recording import eager_canvas

        situation = self._watch.publishing()
        app = task.app
        message, routed = _as_published(app, task, args, kwargs, options)
        sent = sent_task(app, task.name, message, routed, situation, frame)
        if not locations.passes_by(frame, task):
            self._watch.judge(sent)
        self._journal.append(Published(message=sent, hook=situation.hook, eager=True))
        with self._watch.eager_task(), TaskInPlace(), test_connections_held_open(), Shared():
            yield partial(self._surroundings.run, carried=(eager_canvas.applied,))


def _called(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


class _Departure:
    """A producer for one message, which is recorded as it is handed over.

    That is after the receivers of ``before_task_publish``: they may have added to its headers,
    its arguments and its options. All else that is asked of it is the producer's.
    """

    __slots__ = ("_app", "_name", "_options", "_producer", "_tap", "in_memory", "left", "record")

    def __init__(
        self, tap: Tap, app: Celery, name: str, options: Mapping[str, Any], producer: Any
    ) -> None:
        self._tap = tap
        self._app = app
        self._name = name
        self._options = options
        self._producer = producer
        self.record: SentTask | None = None
        self.in_memory = False  # whether the broker is: then it is told the record
        self.left = False

    def publish(self, body: Any, **options: Any) -> Any:
        __tracebackhide__ = True
        if self.left:  # the ``task-sent`` event comes after it, through the same producer
            return self._producer.publish(body, **options)
        if self.record is None:  # else Celery tries once more
            queue = self._options.get("queue")
            self.record = self._tap.departs(self._app, self._name, body, options, queue)
        if self.in_memory:
            options["headers"] = Recorded(options["headers"], self.record)
        result = self._producer.publish(body, **options)
        self.left = True
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)


def _received(app: Celery, headers: Mapping[str, Any]) -> dict[str, Any]:
    """Headers as a worker gets them; those that can't be sent, a real broker refuses itself."""
    try:
        return received(headers)
    except (TypeError, ValueError):
        if in_memory(app):
            raise
        return dict(headers)


class _Message(NamedTuple):
    headers: Mapping[str, Any]
    body: Any
    properties: Mapping[str, Any] = {}  # they are among the options by then


def sent_task(  # noqa: PLR0913, PLR0917 - what Celery is given, and by whom
    app: Celery,
    name: str,
    message: Any,
    options: Mapping[str, Any],
    situation: Publishing,
    frame: FrameType | None = None,
) -> SentTask:
    """The record of a message: its headers and body, and the options that it is sent with."""
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
        location=locations.of_caller(frame, until=WatchedHook.__call__.__code__)
        or situation.hook_location,
        transaction=situation.transaction,
        serializer=serializer,
        exact_times=clock.stands(),
        properties={
            name: value
            for name, value in {**message.properties, **options}.items()
            if value is not None and name not in _RECORDED_APART
        },
    )


def _canvas(app: Celery, embed: Mapping[str, Any], serializer: str) -> tuple[Any, Any, Any, Any]:
    """What a message brings along: links, error links, the rest of its chain, its chord."""
    if not any(embed.values()):
        return _NONE, _NONE, _NONE, None

    def signatures(written: Any) -> Items[Any]:
        return Items(all_carried(written, app, serializer)) if written else _NONE

    return (
        signatures(embed.get("callbacks")),
        signatures(embed.get("errbacks")),
        signatures((embed.get("chain") or [])[::-1]),  # Celery pops the next step off its end
        carried(embed["chord"], app, serializer) if embed.get("chord") else None,
    )


def _round_trip(name: str, body: Any, serializer: str) -> Any:
    """What a worker would decode. Arguments that can't be encoded are named."""
    if serializer == "json" and _is_plain(body):
        return list(body[0]), dict(body[1]), body[2]
    from kombu import serialization
    from kombu.exceptions import EncodeError

    try:
        content_type, encoding, data = serialization.dumps(body, serializer)
    except EncodeError as error:
        from pytest_djcelery.messages.arguments import explain_unserializable

        explain_unserializable(error, name, body, serializer)
        raise
    return serialization.loads(data, content_type, encoding, accept=[content_type])


def _is_plain(body: Any) -> bool:
    """Whether arguments come out of JSON as they go in: most calls, and by far the quickest way."""
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
    """Queue, exchange and routing key, as ``AMQP.send_task_message`` settles them, or has."""
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


def _as_published(
    app: Celery, task: Any, args: Any, kwargs: Any, options: Mapping[str, Any]
) -> Any:
    """The message and the route that ``Celery.send_task`` would have made of an eager call."""
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


@contextmanager
def tapped(tap: Tap) -> Iterator[None]:
    """Route every publish in this process through ``tap``."""
    with _tapped_senders(tap), _tapped_eager_runs(tap):
        yield


@contextmanager
def _tapped_senders(tap: Tap) -> Iterator[None]:
    """Wrap ``AMQP._create_task_sender``: what it returns sees name, message and options.

    Celery builds the sender once for each ``app.amqp`` and keeps it, so those kept are
    dropped on the way in and out; they are rebuilt on the next publish.
    """
    from celery.app.amqp import AMQP
    from kombu import Queue

    create = vars(AMQP)["_create_task_sender"]

    def _create_task_sender(amqp: Any) -> Any:
        send = create(amqp)
        declared = _Declared()

        def send_task_message(producer: Any, name: str, message: Any, **options: Any) -> Any:
            def sending(departure: Any) -> Any:
                if not in_memory(amqp.app):
                    with explained(amqp.app, name):
                        return send(departure, name, message, **options)
                departure.in_memory = True
                options["retry"] = False  # there is no connection that could be lost
                if options.get("declare") is None and type(options.get("queue")) is Queue:
                    options["declare"] = declared.undeclared(producer.channel, options["queue"])
                return send(departure, name, message, **options)

            return tap.publish(amqp.app, name, options, producer, sending)

        return send_task_message

    try:
        with replaced(AMQP, _create_task_sender=_create_task_sender):
            _drop_senders()
            yield
    finally:
        _drop_senders()


class _Declared:
    """Whether the queue of the last message is declared on its channel, to the broker in memory.

    kombu binds a copy of the queue to the channel, for each message, to find that out.
    """

    def __init__(self) -> None:
        self._of: tuple[Any, Any] = None, None
        self._bound: Any = None
        self._ident: int = 0

    def undeclared(self, channel: Any, queue: Any) -> list[Any]:
        """What is to be declared: the queue, or nothing. As `kombu.common.maybe_declare`."""
        if self._of[0] is not channel or self._of[1] is not queue:
            self._of, self._bound = (channel, queue), queue.bind(channel)
            self._ident = hash(self._bound)
        declared = channel.connection.client.declared_entities
        known = self._bound.can_cache_declaration and self._ident in declared
        return [] if known else [self._bound]


def _drop_senders() -> None:
    from celery import _state

    apps: Any = vars(_state)["_apps"]
    for app in list(apps):
        amqp = vars(app).get("amqp")
        if amqp is not None:
            vars(amqp).pop("send_task_message", None)


@contextmanager
def _tapped_eager_runs(tap: Tap) -> Iterator[None]:
    """Wrap ``Task.apply``, which every eager call of tasks and canvas ends in.

    ``apply(throw=True)`` would skip ``on_failure`` and the errbacks; the task is run as a
    worker would run it, and what it raised is raised afterwards: the exception itself, where
    the result has what can be pickled.
    """
    from celery.app.task import Task
    from celery.utils import uuid
    from kombu.exceptions import EncodeError

    from pytest_djcelery.messages.arguments import explain_unserializable
    from pytest_djcelery.recording import eager_canvas as unrolled
    from pytest_djcelery.recording.task_signals import raised_eagerly

    apply = vars(Task)["apply"]
    called_with: dict[str, tuple[Any, Any]] = {}

    def tapped_apply(  # noqa: PLR0913, PLR0917 - Celery's signature
        self: Any, args: Any = None, kwargs: Any = None, link: Any = None, link_error: Any = None,
        task_id: Any = None, retries: Any = None, throw: Any = None, logfile: Any = None,
        loglevel: Any = None, headers: Any = None, **options: Any,
    ) -> Any:  # fmt: skip
        conf = self.app.conf
        throw = conf.task_eager_propagates if throw is None else throw
        task_id = task_id or uuid()
        published = {
            **options, "task_id": task_id, "link": link, "link_error": link_error,
            "retries": retries, "headers": headers,
        }  # fmt: skip
        sent_args, sent_kwargs = called_with.pop(task_id, (args, kwargs))
        with (
            unrolled.task_run(task_id, published) as published,
            tap.eager(self, sent_args or (), sent_kwargs or {}, published) as called,
        ):
            result = called(
                apply, self, args, kwargs, link=link, link_error=link_error, task_id=task_id,
                retries=retries, throw=False, logfile=logfile, loglevel=loglevel,
                headers=headers, **options,
            )  # fmt: skip
        error = raised.pop(task_id, None)
        if throw and isinstance(result.result, BaseException) and result.state == "FAILURE":
            raise result.result if error is None else error
        return result

    apply_async = vars(Task)["apply_async"]

    def tapped_apply_async(
        self: Any, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any
    ) -> Any:
        # An ``apply()`` of the task's own may be about to run it with others than it was sent with.
        noted = not rest and type(self).apply is not tapped_apply
        if noted:
            options["task_id"] = options.get("task_id") or uuid()
            called_with[options["task_id"]] = args, kwargs
        try:
            return apply_async(self, args, kwargs, *rest, **options)
        except EncodeError as error:
            # Celery encodes the arguments of an eager call itself, before it calls ``apply()``.
            serializer = options.get("serializer") or self.serializer
            body = args or (), kwargs or {}, None
            explain_unserializable(error, self.name, body, serializer)
            raise
        finally:
            if noted:
                called_with.pop(options["task_id"], None)

    with (
        raised_eagerly() as raised,
        unrolled.followed(),
        replaced(Task, apply=tapped_apply, apply_async=tapped_apply_async),
    ):
        yield
