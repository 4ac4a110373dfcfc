"""The parts of the inline worker that take the place of a worker's: consumer, strategies, pool.

Private API (`celery.worker.consumer.Consumer` without its event loop, ``celery.app.trace``),
checked on Celery 5.4 to 5.7.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

from celery.app.trace import build_tracer
from celery.concurrency.base import BasePool
from celery.exceptions import TaskRevokedError
from celery.worker import state
from celery.worker.consumer import Consumer as CeleryConsumer

from pytest_djcelery.messages.events import Started
from pytest_djcelery.recording.task_threads import RunningTask, TaskInPlace
from pytest_djcelery.workers.applying import apply_as_prefork, ends_the_test
from pytest_djcelery.workers.celery_parts import Strategies
from pytest_djcelery.workers.inline.coroutines import event_loop_hidden

if TYPE_CHECKING:
    from celery import Celery
    from celery.worker.request import Request

    from pytest_djcelery.messages.events import Note
    from pytest_djcelery.recording.task_surroundings import Surroundings
    from pytest_djcelery.workers.inline.timer import Timer

_RUNS_IN_PLACE = 1  # tasks at a time
_OF_TEST = frozenset({"_worker", "controller", "pool", "refused", "timer"})  # of a consumer


class InPlaceWorker(Protocol):
    """The worker, as far as its parts need it."""

    app: Celery
    hostname: str
    timer: Timer
    surroundings: Surroundings

    @property
    def note(self) -> Callable[[Note], None]:
        """Adds what only the timeline reads to the journal."""

    def keep_tracer(self, task: Any) -> None:
        """Remember a tracer that is about to be replaced."""


class _Controller:
    """Takes the place of the worker for the project's boot steps and receivers."""

    concurrency = _RUNS_IN_PLACE
    semaphore = None
    use_eventloop = False

    def __init__(self, worker: InPlaceWorker) -> None:
        self.state = state
        self.app = worker.app
        self.hostname = worker.hostname
        self.timer = worker.timer
        self.steps: list[Any] = []  # of the project, which add themselves


class InlineConsumer(CeleryConsumer):
    """Celery's consumer without connection loop, events, heartbeat and gossip."""

    class Blueprint(CeleryConsumer.Blueprint):
        """No steps: what they would start is an event loop and what lives in it."""

        default_steps = ()

        def __init__(self, *_: Any, **kwargs: Any) -> None:
            super().__init__(**{**kwargs, "steps": ()})

    event_dispatcher = None
    task_consumer = None

    def __init__(self, worker: InPlaceWorker, connection: Any) -> None:
        self.refused: BaseException | None = None
        self._worker = worker
        super().__init__(
            self._execute,
            hostname=worker.hostname,
            pool=_InPlacePool(worker, limit=_RUNS_IN_PLACE, app=worker.app),
            app=worker.app,
            timer=worker.timer,
            controller=_Controller(worker),
            disable_rate_limits=True,
        )
        self.connection = connection
        self.qos = SimpleNamespace(increment_eventually=_no_window, decrement_eventually=_no_window)
        self.strategies = _Strategies(self)
        self._as_built = dict(vars(self))

    def serve(self, worker: InPlaceWorker) -> None:
        """Become the consumer of another test's worker."""
        self._worker = worker
        self.timer = worker.timer
        self.pool = _InPlacePool(worker, limit=_RUNS_IN_PLACE, app=worker.app)
        self.controller = _Controller(worker)

    def put_back(self) -> bool:
        """Forget what belongs to a test, and return whether all else is as it was built."""
        self.refused = None
        self.strategies.clear()
        self.task_buckets.clear()
        own: Any = self
        own._worker = own.timer = own.pool = own.controller = None
        if self._pending_operations or self.on_task_message or self.steps:
            return False
        now, of_test = vars(self), _OF_TEST
        return now.keys() - {"_as_built"} == self._as_built.keys() and all(
            now[name] is value for name, value in self._as_built.items() if name not in of_test
        )

    def reset_rate_limits(self) -> None:
        """Do nothing: there are none."""

    def call_soon(self, p: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call at once: before Celery 5.7 a message is acknowledged this way as its task starts."""
        promised = super().call_soon(p, *args, **kwargs)
        self.perform_pending_operations()
        return promised

    def built(self, task: Any) -> Any:
        """Build a task's strategy and tracer, as a worker that starts now would."""
        self._worker.keep_tracer(task)
        task.__trace__ = build_tracer(task.name, task, self.app.loader, self.hostname, app=self.app)
        return task.start_strategy(self.app, self)

    def _execute(self, request: Request) -> None:
        """Do what `WorkController._process_task` does."""
        timer = self._worker.timer
        if request.eta is not None and request is not timer.started:
            # Celery converts an ETA to the time since the machine was started. It passes the timer
            # no earlier ETA, and the order of the others would depend on the machine.
            timer.hold(request, partial(self._execute, request))
            return
        with suppress(TaskRevokedError):  # the request has reported it
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


class _Strategies(Strategies):
    """Strategies that are built when their tasks are delivered."""

    def build(self, task: Any) -> Any:
        return self._consumer.built(task)


class _InPlacePool(BasePool):
    """Runs a task in the calling thread, with the outcome that prefork would give it."""

    def __init__(self, worker: InPlaceWorker, **options: Any) -> None:
        super().__init__(**options)
        # Under prefork the consumer is in another process, whose context a task doesn't see.
        self._new_context = worker.surroundings.context
        self._note = worker.note

    def on_apply(
        self, target: Callable[..., Any], args: Any = (), kwargs: Any = None, **options: Any
    ) -> None:
        target = partial(self._new_context().run, target)
        task_id = options.get("correlation_id")
        if task_id is not None:  # else it is a whole batch
            self._note(Started(task_id=task_id))
        with RunningTask(), TaskInPlace(), event_loop_hidden():
            apply_as_prefork(target, args, kwargs, passes=ends_the_test, **options)


def _no_window(_count: int = 1) -> None:
    """One message at a time needs no prefetch window."""
