"""A worker without a thread: Celery's consumer, requests and tracer, one message at a time.

Messages come off the in-memory broker through a kombu channel. From there all is Celery's own:
`Consumer.create_task_handler` finds the strategy, the strategy builds the request and checks
what is revoked or expired, the request goes to the pool and is acknowledged by what the pool
calls back. Ours are the parts that a worker is built from: a pool that runs in place, a timer
that asks the test's clock, and no event loop. What solo and threads pools do otherwise than
prefork, this pool does as prefork.

Private API (`celery.worker.consumer.Consumer` without its event loop, ``celery.app.trace``),
checked on Celery 5.4 to 5.7.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from time import monotonic
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionInfo
from celery import _state
from celery.app.trace import build_tracer, setup_worker_optimizations
from celery.concurrency.base import BasePool
from celery.exceptions import TaskRevokedError, WorkerLostError
from celery.utils.nodenames import default_nodename
from celery.worker import state
from celery.worker.consumer import Consumer as CeleryConsumer
from celery.worker.pidbox import Pidbox
from kombu.serialization import prepare_accept_content
from kombu.utils.json import loads

from pytest_djcelery.workers import parts
from pytest_djcelery.workers.process import process_as_found
from pytest_djcelery.workers.threads import running_task

if TYPE_CHECKING:
    from celery import Celery
    from celery.worker.request import Request

    from pytest_djcelery.broker import Broker
    from pytest_djcelery.workers.limits import Limits

_RUNS_IN_PLACE = 1  # tasks at a time
_POLL = "celery.chord_unlock"


@dataclass(order=True, slots=True)
class Scheduled:
    """A request that waits for its ETA, unacknowledged, as a worker holds it."""

    eta: datetime
    order: int
    request: Request = field(compare=False)
    queue: str = field(compare=False)
    start: Callable[[], None] = field(compare=False)
    received_at: int = field(compare=False)  # how many tasks had been delivered by then


class InlineWorker:
    """Delivers the messages of a broker, one when it is told to.

    Args:
        app: the project's app.
        broker: the in-memory broker that the app publishes to.
        now: the clock: an aware datetime.
        limits: tells of limits that can't be enforced here.
    """

    def __init__(
        self, app: Celery, broker: Broker, *, now: Callable[[], datetime], limits: Limits
    ) -> None:
        self.app = app
        self.broker = broker
        self._limits = limits
        self.hostname = default_nodename(None)
        self.timer = _Timer(now)
        self._tracers: dict[str, Any] = {}  # of the tasks, as they were found

    @contextmanager
    def started(self) -> Iterator[InlineWorker]:
        """Be a worker for the time of a block; what it has not acknowledged goes back."""
        with ExitStack() as stack:
            stack.enter_context(process_as_found(self.app))
            stack.enter_context(_current_app_as_found())
            stack.callback(self._put_tracers_back)
            connection = stack.enter_context(self.app.connection_for_read())
            self._consumer = _Consumer(self, connection)
            self._handle = self._consumer.create_task_handler()
            self._channel = connection.channel()
            self._channel.qos.restore_at_shutdown = False  # done here, and silently
            stack.callback(self._channel.qos.restore_unacked)
            self.read_configuration()
            mailbox = Pidbox(self._consumer)
            mailbox.start(self._consumer)
            stack.callback(mailbox.shutdown, self._consumer)
            self._mailbox_queue = mailbox.consumer.queues[0].name
            self._connection = connection
            yield self

    def read_configuration(self) -> None:
        """Go by the settings of now, as a worker would that starts now."""
        setup_worker_optimizations(self.app, self.hostname)
        self._consumer.strategies.clear()
        for queue in self.app.amqp.queues.consume_from.values():
            queue(self._channel).declare()
        self._accept = prepare_accept_content(self.app.conf.accept_content)

    def _put_tracers_back(self) -> None:
        for name, tracer in self._tracers.items():
            if name in self.app.tasks:
                self.app.tasks[name].__trace__ = tracer

    def keep_tracer(self, task: Any) -> None:
        """Remember a tracer that is about to be replaced."""
        self._tracers.setdefault(task.name, task.__trace__)

    def takes(self, queue: str) -> bool:
        """Whether a queue is one of tasks: no mailbox of remote control, no results."""
        found = self.broker.queues.get(queue)
        return queue in self.app.amqp.queues or not (found is not None and found.auto_delete)

    def deliver(self, takes: Callable[[str], bool]) -> Any:
        """Hand the next message that is due to Celery, and return it; ``None``: there is none.

        A message with an ETA to come is received, and waits in `timer`.

        Args:
            takes: which queues to deliver from.
        """
        self._obey_remote_control()
        self._consumer.refused = None
        while True:
            due = self.timer.take_due(takes)
            if due is not None:
                return self._start(due)
            queue = self.broker.oldest(takes)
            if queue is None:
                poll = self.timer.take_poll(takes)
                return None if poll is None else self._start(poll)
            scheduled = len(self.timer)
            with self._limits.told(self.app, self.broker.peek(queue)["headers"]):
                message = self._receive(queue)
            if len(self.timer) == scheduled:
                self.timer.delivered += 1
                return message

    def _start(self, scheduled: Scheduled) -> Any:
        message = scheduled.request.message
        self.timer.delivered += scheduled.request.type != _POLL
        with self._limits.told(self.app, message.headers):
            scheduled.start()
        return message

    @property
    def refused(self) -> BaseException | None:
        """Why the message last delivered is none that a worker can read."""
        return self._consumer.refused

    def _receive(self, queue: str) -> Any:
        message = self._channel.basic_get(queue)
        message.accept = self._accept
        self.timer.receiving = queue
        self._handle(message)
        return message

    def _obey_remote_control(self) -> None:
        while self.broker.depth(self._mailbox_queue):
            self._connection.drain_events(timeout=0)


class _Consumer(CeleryConsumer):
    """Celery's consumer without connection loop, events, heartbeat and gossip."""

    class Blueprint(CeleryConsumer.Blueprint):
        """No steps: what they would start is an event loop and what lives in it."""

        default_steps = ()

        def __init__(self, *_: Any, **kwargs: Any) -> None:
            super().__init__(**{**kwargs, "steps": ()})

    event_dispatcher = None
    task_consumer = None

    def __init__(self, worker: InlineWorker, connection: Any) -> None:
        self.refused: BaseException | None = None
        self._worker = worker
        super().__init__(
            self._execute,
            hostname=worker.hostname,
            pool=_InPlacePool(limit=_RUNS_IN_PLACE, app=worker.app),
            app=worker.app,
            timer=worker.timer,
            controller=SimpleNamespace(
                state=state, app=worker.app, semaphore=None, use_eventloop=False
            ),
            disable_rate_limits=True,
        )
        self.connection = connection
        self.qos = SimpleNamespace(increment_eventually=_no_window, decrement_eventually=_no_window)
        self.strategies = _Strategies(self)

    def reset_rate_limits(self) -> None:
        """There are none."""

    def call_soon(self, p: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """At once: before Celery 5.7 this is how a message is acknowledged as its task starts."""
        promised = super().call_soon(p, *args, **kwargs)
        self.perform_pending_operations()
        return promised

    def built(self, task: Any) -> Any:
        """A task's strategy and tracer, built as a worker that starts now would build them."""
        self._worker.keep_tracer(task)
        task.__trace__ = build_tracer(task.name, task, self.app.loader, self.hostname, app=self.app)
        return task.start_strategy(self.app, self)

    def _execute(self, request: Request) -> None:
        """As `WorkController._process_task`."""
        with suppress(TaskRevokedError):  # the request has told it
            request.execute_using_pool(self.pool)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        self.refused = exc
        super().on_decode_error(message, exc)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        self.refused = exc
        super().on_invalid_task(body, message, exc)

    def on_unknown_message(self, body: Any, message: Any) -> None:
        self.refused = ValueError("The message names no task")
        super().on_unknown_message(body, message)


class _Strategies(parts.Strategies):
    """Built for the tasks that are delivered, when they are."""

    def build(self, task: Any) -> Any:
        return self._consumer.built(task)


class _InPlacePool(BasePool):
    """Runs a task in the calling thread, with the outcome that prefork would give it."""

    def on_apply(  # noqa: PLR0913, PLR0917 - what `BasePool.apply_async` passes on
        self,
        target: Callable[..., Any],
        args: Any,
        kwargs: Any,
        callback: Callable[[Any], None],
        error_callback: Callable[[Any], None],
        accept_callback: Callable[[int, float], None],
        **_: Any,
    ) -> None:
        with running_task():
            accept_callback(os.getpid(), monotonic())
            try:
                result = target(*args, **kwargs)
            except SystemExit as error:
                # Under prefork it ends the child, and what the parent sees is a lost worker.
                error_callback(_lost(error))
            else:
                callback(result)


def _lost(error: SystemExit) -> ExceptionInfo:
    lost = WorkerLostError(f"The task exited with {error.code!r}")
    lost.__cause__ = error
    return ExceptionInfo((WorkerLostError, lost, error.__traceback__))


class _Timer:
    """The requests that wait for their ETA; the clock is the test's."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self.receiving = ""  # the queue of the message that is being received
        self.delivered = 0  # tasks, but for those that only look whether others are done
        self._now = now
        self._order = count()
        self._entries: list[Scheduled] = []

    def __len__(self) -> int:
        return len(self._entries)

    def call_at(
        self, _eta: float, start: Callable[..., None], args: tuple[Any, ...], **_: Any
    ) -> Scheduled:
        """Celery's way to say: start this request at its ETA."""
        entry = Scheduled(
            eta=args[0].eta,
            order=next(self._order),
            request=args[0],
            queue=self.receiving,
            start=lambda: start(*args),
            received_at=self.delivered,
        )
        heapq.heappush(self._entries, entry)
        return entry

    def entries(self) -> list[Scheduled]:
        """All of them, by ETA."""
        return sorted(self._entries)

    def take_due(self, takes: Callable[[str], bool]) -> Scheduled | None:
        """Remove and return the first that is due."""
        passed_over = []
        found = None
        while self._entries and self._entries[0].eta <= self._now():
            entry = heapq.heappop(self._entries)
            if takes(entry.queue):
                found = entry
                break
            passed_over.append(entry)
        for entry in passed_over:
            heapq.heappush(self._entries, entry)
        return found

    def take_poll(self, takes: Callable[[str], bool]) -> Scheduled | None:
        """Remove and return a ``chord_unlock`` that may find something new.

        Over a backend that can't count, Celery has this task look every second whether the
        header of a chord is done. That second is nothing that a test should have to wait for.
        """
        for entry in sorted(self._entries):
            if (
                entry.request.type == _POLL
                and entry.received_at < self.delivered
                and takes(entry.queue)
            ):
                self._entries.remove(entry)
                heapq.heapify(self._entries)
                return entry
        return None

    def next_eta(self, takes: Callable[[str], bool]) -> datetime | None:
        """The earliest ETA, of the queues that are delivered from."""
        return min((each.eta for each in self._entries if takes(each.queue)), default=None)


def _no_window(_count: int = 1) -> None:
    """One message at a time needs no prefetch window."""


@contextmanager
def _current_app_as_found() -> Iterator[None]:
    current = _state._tls.current_app
    try:
        yield
    finally:
        _state._tls.current_app = current


def fields_of(headers: Mapping[str, Any], body: Any) -> Mapping[str, Any]:
    """What a message says of its task: in its headers, or in its body by the first protocol."""
    if "id" in headers:
        return headers
    try:
        fields = loads(body)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}
