"""Records every message that is sent, whether through a broker or run at once by eager mode.

Private API, in the two functions that patch it. Celery's publish signals would be the public
way, but they include neither the serializer nor the eager calls, and an error raised in a
receiver is logged and swallowed. Checked on Celery 5.4 to 5.7.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import _state
from celery.app.amqp import AMQP
from celery.app.task import Task
from celery.utils import uuid
from kombu import Queue
from kombu.exceptions import EncodeError

from pytest_djcelery import locations
from pytest_djcelery.brokers.memory.addresses import in_memory
from pytest_djcelery.brokers.servers import unreachable_broker_explained
from pytest_djcelery.messages.arguments import explain_unserializable
from pytest_djcelery.messages.django_tasks import enqueueing
from pytest_djcelery.messages.events import NotSent, Published
from pytest_djcelery.messages.headers import Recorded
from pytest_djcelery.patching import patches, replaced
from pytest_djcelery.recording.eager_canvas import (
    applied_part,
    eager_canvases_followed,
    placed_in_canvas,
)
from pytest_djcelery.recording.outages import REFUSALS
from pytest_djcelery.recording.sent_records import Message, as_published, sent_task
from pytest_djcelery.recording.task_signals import raised_eagerly, task_replaced
from pytest_djcelery.recording.task_surroundings import SharedStateRestored
from pytest_djcelery.recording.task_threads import TaskInPlace
from pytest_djcelery.transactions.connections import test_connections_held_open

if TYPE_CHECKING:
    from celery import Celery

    from pytest_djcelery.messages.journal import Journal
    from pytest_djcelery.messages.sent_task import SentTask
    from pytest_djcelery.messages.task_message import DjangoCall
    from pytest_djcelery.patching import Current
    from pytest_djcelery.recording.task_surroundings import Surroundings
    from pytest_djcelery.transactions.watch import TransactionWatch


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishRecorder:
    """Makes a `SentTask` of each publish, has the watch check it and the journal keep it."""

    app: Celery  # the project's
    watch: TransactionWatch
    journal: Journal
    surroundings: Surroundings  # of a task that eager mode runs instead of publishing it
    sent: Callable[[SentTask], None]  # called with each message that the project's app has sent
    published: Callable[[], None]  # called after each publish outside any open transaction

    def publish(
        self,
        app: Celery,
        name: str,
        options: Mapping[str, Any],
        producer: Any,
        send: Callable[[Any], Any],
    ) -> Any:
        """Send a message to the broker by ``send(producer)``, and return what that returns."""
        __tracebackhide__ = True
        recording = _RecordingProducer(self, app, name, options, producer)
        try:
            result = send(recording)
        except BaseException:
            if recording.record is not None and not recording.sent:
                self.journal.append(NotSent(message=recording.record))
            raise
        if recording.record is not None and app is self.app:
            self.sent(recording.record)
        if not self.watch.in_blocks:
            self.published()
        return result

    def record(
        self, app: Celery, name: str, body: Any, options: Mapping[str, Any], queue: Any
    ) -> SentTask:
        """Record a message as it is handed to its producer, and check for a race.

        Args:
            app: The app that sends it.
            name: The name of the task.
            body: The body of the message.
            options: What is passed to `kombu.Producer.publish`.
            queue: The queue that the caller asked for.
        """
        situation = self.watch.publishing()
        message = Message(options["headers"], body)
        sent = sent_task(
            app,
            name,
            message,
            {**options, "headers": None, "queue": queue},
            situation,
            django_call=self._django_call(message.headers),
        )
        self.watch.check_race(sent)
        other = app is not self.app
        line = locations.of_test(sent.location)
        self.journal.append(
            Published(message=sent, hook=situation.hook, other_app=other, test_line=line)
        )
        return sent

    def _django_call(self, headers: Mapping[str, Any]) -> DjangoCall | None:
        """The Django task's call that a message is sent for, if any: a retry's is the first's."""
        running = enqueueing()
        if running is not None:
            return running.call
        if not headers.get("retries") or "django.tasks.base" not in sys.modules:
            return None
        calls = (message.django_call for message in self.journal.sent(headers["id"]))
        return next(filter(None, calls), None)

    @contextmanager
    def eager(
        self, task: Any, args: Any, kwargs: Any, options: Mapping[str, Any]
    ) -> Iterator[Callable[..., Any]]:
        """Enter around an eager run in place of a publish; yields the function to call it with."""
        frame = locations.publishing_frame()
        if frame is None:
            # The test itself called ``task.apply()``: nothing would have been published.
            with self.watch.eager_task(), TaskInPlace(), test_connections_held_open():
                yield _called
            return
        situation = self.watch.publishing()
        app = task.app
        message, routed = as_published(app, task, args, kwargs, options)
        running = enqueueing()
        call = None if running is None else running.call
        sent = sent_task(app, task.name, message, routed, situation, frame, call)
        if not locations.skips_own_apply_async(frame, task):
            self.watch.check_race(sent)
        line = locations.of_test(sent.location)
        self.journal.append(
            Published(message=sent, hook=situation.hook, eager=True, test_line=line)
        )
        with (
            self.watch.eager_task(),
            TaskInPlace(),
            test_connections_held_open(),
            SharedStateRestored(),
        ):
            yield partial(self.surroundings.run, carried=(applied_part,))


def _called(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


class _RecordingProducer:
    """A producer for one message, which is recorded as it is handed over.

    By then the receivers of ``before_task_publish`` have run, which may have added to its headers,
    its arguments and its options. Any other attribute is the wrapped producer's.
    """

    __slots__ = (
        "_app", "_name", "_options", "_producer", "_recorder", "in_memory", "record", "sent",
    )  # fmt: skip

    def __init__(
        self,
        recorder: PublishRecorder,
        app: Celery,
        name: str,
        options: Mapping[str, Any],
        producer: Any,
    ) -> None:
        self._recorder = recorder
        self._app = app
        self._name = name
        self._options = options
        self._producer = producer
        self.record: SentTask | None = None
        self.in_memory = False  # whether the broker is in memory, which then keeps the record
        self.sent = False

    def publish(self, body: Any, **options: Any) -> Any:
        __tracebackhide__ = True
        if self.sent:  # the ``task-sent`` event follows the message through the same producer
            return self._producer.publish(body, **options)
        if self.record is None:  # else Celery is trying again
            queue = self._options.get("queue")
            self.record = self._recorder.record(self._app, self._name, body, options, queue)
        if REFUSALS.publish is not None:
            REFUSALS.publish(self.record)
        if self.in_memory:
            options["headers"] = Recorded(options["headers"], self.record)
        result = self._producer.publish(body, **options)
        self.sent = True
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)


@contextmanager
def publishes_recorded(recorder: Current[PublishRecorder]) -> Iterator[None]:
    """Within the ``with``, route every publish in this process through ``recorder``."""
    with _senders_recorded(recorder), _eager_runs_recorded(recorder):
        yield


@contextmanager
def _senders_recorded(current: Current[PublishRecorder]) -> Iterator[None]:
    """Have each message recorded as it is handed over to a producer."""

    def wrap(amqp: Any, send: Send) -> Send:
        def send_task_message(producer: Any, name: str, message: Any, **options: Any) -> Any:
            recorder = current.now
            if recorder is None:
                return send(producer, name, message, **options)

            def send_by(recording: Any) -> Any:
                if not in_memory(amqp.app):
                    with unreachable_broker_explained(amqp.app, name):
                        return send(recording, name, message, **options)
                recording.in_memory = True
                options["retry"] = False  # there is no connection that could be lost
                queue: Any = options.get("queue")
                if options.get("declare") is not None or type(queue) is not Queue:
                    return send(recording, name, message, **options)
                declarations = producer.channel.broker.declarations
                if declarations.redeclare(queue):
                    options["declare"] = []
                    return send(recording, name, message, **options)
                # kombu would bind a copy of the queue to the channel for each message.
                sent = send(recording, name, message, **options)
                declarations.note(queue)
                return sent

            return recorder.publish(amqp.app, name, options, producer, send_by)

        return send_task_message

    with senders_wrapped(wrap):
        yield


@contextmanager
def _eager_runs_recorded(current: Current[PublishRecorder]) -> Iterator[None]:
    """Wrap ``Task.apply``, which every eager call of a task or a canvas ends in.

    ``apply(throw=True)`` would skip ``on_failure`` and the errbacks. Instead the task is run as a
    worker would run it, and its error is raised afterwards: the original exception, where the
    result only has one that can be pickled.
    """
    apply = vars(Task)["apply"]
    called_with: dict[str, tuple[Any, Any]] = {}

    def wanted() -> bool:
        return current.now is not None

    def recorded_apply(
        self: Any, args: Any = None, kwargs: Any = None, link: Any = None, link_error: Any = None,
        task_id: Any = None, retries: Any = None, throw: Any = None, logfile: Any = None,
        loglevel: Any = None, headers: Any = None, **options: Any,
    ) -> Any:  # fmt: skip
        recorder = current.now
        if recorder is None:
            return apply(
                self, args, kwargs, link=link, link_error=link_error, task_id=task_id,
                retries=retries, throw=throw, logfile=logfile, loglevel=loglevel,
                headers=headers, **options,
            )  # fmt: skip
        conf = self.app.conf
        throw = conf.task_eager_propagates if throw is None else throw
        task_id = task_id or uuid()
        published = {
            **options, "task_id": task_id, "link": link, "link_error": link_error,
            "retries": retries, "headers": headers,
        }  # fmt: skip
        sent_args, sent_kwargs = called_with.pop(task_id, (args, kwargs))
        with (
            placed_in_canvas(task_id, published) as published,
            recorder.eager(self, sent_args or (), sent_kwargs or {}, published) as called,
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

    def recorded_apply_async(
        self: Any, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any
    ) -> Any:
        if current.now is None:
            return apply_async(self, args, kwargs, *rest, **options)
        # An overridden ``apply()`` may be about to run it with other arguments than those sent.
        noted = not rest and type(self).apply is not recorded_apply
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
        raised_eagerly(wanted) as raised,
        eager_canvases_followed(wanted),
        task_replaced(apply=recorded_apply, apply_async=recorded_apply_async),
    ):
        yield


# The one place where every message of an app passes on its way to a producer --------------

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
