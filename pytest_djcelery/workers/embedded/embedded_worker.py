"""Celery's own `WorkController` in a thread of this process, which starts in milliseconds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from celery.app.trace import setup_worker_optimizations
from celery.exceptions import WorkerShutdown
from celery.utils.nodenames import default_nodename
from celery.worker import state

from pytest_djcelery.errors import BadOptionError, WorkerError
from pytest_djcelery.messages.events import Started
from pytest_djcelery.project.derived import close_backends_of_ended_threads
from pytest_djcelery.recording import batches
from pytest_djcelery.recording.task_threads import enter_worker_thread, stack_of
from pytest_djcelery.workers.boot import BootReceivers, Controller, limits_changed, process_as_found
from pytest_djcelery.workers.celery_parts import Consumer, Timer
from pytest_djcelery.workers.database import WorkerConnections, fixups_kept_to_workers
from pytest_djcelery.workers.embedded import pools
from pytest_djcelery.workers.embedded.received_again import received_again

if TYPE_CHECKING:
    from celery import Celery
    from celery.worker.request import Request

    from pytest_djcelery.brokers.memory.queues import Topology
    from pytest_djcelery.messages.events import Note
    from pytest_djcelery.messages.journal import Journal
    from pytest_djcelery.recording.task_surroundings import Surroundings


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """How to build a worker: what `celery.contrib.pytest` lets a conftest.py choose."""

    pool: Any = "solo"
    concurrency: int = 1
    parameters: Mapping[str, Any] = field(default_factory=dict)  # for `WorkController`
    logging: bool = False
    queues: tuple[str, ...] = ()  # if empty, those that the app declares

    # Parameters of ``start_worker`` that are not the worker's; they have no meaning here.
    IGNORED = ("perform_ping_check", "shutdown_timeout", "ping_task_timeout")

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for `WorkController`."""
        given = {key: value for key, value in self.parameters.items() if key not in self.IGNORED}
        return {
            "concurrency": self.concurrency,
            "without_heartbeat": True,
            "without_mingle": True,
            "without_gossip": True,
            **({"queues": list(self.queues)} if self.queues else {}),
            **given,
        }


class EmbeddedWorker:
    """An embedded worker: its thread, and the controller in it.

    Args:
        app: The project's app.
        settings: How to build the worker.
        timeout: Seconds that each of start, idle and stop may take.
        wake: Called whenever a task is over, to wake whatever waits.
        surroundings: What tasks are run in.
    """

    def __init__(
        self,
        app: Celery,
        settings: WorkerSettings,
        *,
        timeout: float,
        wake: Callable[[], None],
        surroundings: Surroundings,
    ) -> None:
        self.app = app
        self.settings = settings
        self.timeout = timeout
        self.wake = wake
        self.note: Callable[[Note], None] | None = None  # of the journal of the test
        self.controller: Controller | None = None
        self.topology: Topology | None = None  # what the worker has declared
        self._in_hand = pools.InHand(
            started=self._task_started,
            after_task=self._after_task,
            wake=self._let_go,
            surroundings=surroundings,
        )
        self._in_hand.host_lost = self._host_lost
        self._surroundings = surroundings
        self._pool = pools.pool_class(settings.pool, self._in_hand)
        if self._pool is None:
            msg = (
                f"celery_worker_pool is {settings.pool!r}: expected 'solo' or 'threads'. "
                "An embedded worker is a thread of this process, which never forks."
            )
            raise BadOptionError(msg)
        self.connections = WorkerConnections(lambda: self._in_hand.count > 0)
        #: Whether messages are on their way, over a broker that can't be asked.
        self.outstanding: Callable[[], bool] = lambda: False
        self._ready = threading.Event()
        self.error: BaseException | None = None  # what ended it
        self._thread = threading.Thread(target=self._run, name="celery-worker", daemon=True)
        self._in_hand.taking_turns.append(self._thread)
        self._cleanup = ExitStack()
        self._receivers = BootReceivers()
        self._consumed_at_start: list[str] = []

    # Life ---------------------------------------------------------------------------

    def start(self) -> None:
        """Start the worker and wait until it consumes.

        Raises:
            WorkerError: It doesn't within the timeout, or dies; then the cause is its own
                exception.
        """
        self._cleanup = ExitStack()
        self._cleanup.enter_context(process_as_found(self.app))
        self._cleanup.enter_context(fixups_kept_to_workers(self.app))
        self._cleanup.callback(self._receivers.disconnect)
        with self._receivers.collected():
            # In Python 3.14 a thread may inherit the context of the code that starts it: a test's.
            self._surroundings.context().run(self._thread.start)
            in_time = self._ready.wait(self.timeout)
        if self.error is None and in_time:
            broker = self._transport_broker()
            if broker is not None:
                for queue in self.queues:
                    broker.declarations.note(queue)
            self.topology = broker.topology() if broker else None
            self._consumed_at_start = self._consumed()
            return
        error = self.error
        where = "" if error else f" Its thread is at:\n{stack_of(self._thread)}"
        self.abandon()
        what = (
            f"died: {type(error).__name__}: {error}"
            if error
            else f"was not ready after {self.timeout:g} s."
        )
        msg = f"The embedded worker {what}{where}"
        raise WorkerError(msg) from error

    def _run(self) -> None:
        enter_worker_thread(self.app)
        try:
            setup_worker_optimizations(self.app, default_nodename(None))  # as ``celery worker``
            self.controller = Controller(
                app=self.app,
                pool=self._pool,
                consumer_cls=partial(Consumer, wake=self.wake),
                timer_cls=partial(Timer, wake=self.wake),
                use_eventloop=False,
                ready_callback=self._on_ready,
                **self.settings.arguments(),
            )
            if self.settings.logging:
                self.app.log.setup(loglevel=self.controller.loglevel)
            self.error = self.controller.run()
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits for it
            self.error = error
        finally:
            self.connections.close()
            self.connections.disconnect()
            self._ready.set()
            self.wake()

    def _on_ready(self, consumer: Any) -> None:
        if self.controller is not None:
            self.controller.on_consumer_ready(consumer)
        self._ready.set()

    def stop(self) -> None:
        """Stop the worker's thread as a warm shutdown does.

        Raises:
            WorkerError: A task still runs after the timeout; the text has its name and its stack.
        """
        if self._thread.is_alive() and self.controller is not None:
            self._call_soon(_shut_down)
            self._thread.join(self.timeout)
        if self._thread.is_alive():
            stuck = self.describe_busy()
            self.abandon()
            msg = (
                f"The embedded worker did not stop within {self.timeout:g} s; {stuck}\n"
                "Its thread is left behind; the next test starts a new worker."
            )
            raise WorkerError(msg)
        self._leave_process_as_found()

    def abandon(self) -> None:
        """Abandon a thread that can't be stopped, so that it doesn't affect later tests."""
        transport = self._transport()
        if hasattr(transport, "park"):
            transport.park(parked=True)
        for thread in self._task_threads():
            pools.leave_behind(thread)
        if self._thread.is_alive() and self.controller is not None:
            with suppress(Exception):
                self._call_soon(_shut_down)
        self._leave_process_as_found()

    def _leave_process_as_found(self) -> None:
        close_backends_of_ended_threads(self.app)
        self._cleanup.close()

    # From test to test ----------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive() and self.error is None

    @property
    def ended_as_asked(self) -> bool:
        """Whether it has ended because remote control asked it to."""
        return not self.alive and self.error is None

    @property
    def consumed(self) -> list[str]:
        """The names of the queues that it was started for."""
        return self._consumed_at_start

    def park(self) -> None:
        """Leave messages in their queues from now on, and close the database connections."""
        self._transport().park(parked=True)
        self._receivers.disconnect()
        batches.forget_held(self.app)
        self.connections.close()
        self._forget_pool_of_replies()
        self._forget_scheduled()
        state.reset_state()

    def _forget_scheduled(self) -> None:
        """Drop tasks that wait for their ETA: they belong to the last test, not to a later one.

        Private API (what `celery.worker.strategy` passes to `Timer.call_at`), checked on Celery
        5.4 to 5.7.
        """
        for request in list(state.requests.values()):
            request._already_revoked = True  # in case its timer is about to fire
        for scheduled in list(self._consumer().timer.schedule.queue):
            args = getattr(scheduled.entry, "args", None)
            if args and hasattr(args[0], "request_dict"):
                scheduled.entry.cancel()

    def _forget_pool_of_replies(self) -> None:
        """Drop the connection pool that remote control's mailbox keeps, and which ends with a test.

        Private API (``Pidbox.node``, ``Mailbox.producer_pool``), checked on Celery 5.4 to 5.7.
        """
        for step in self._consumer().steps:
            box = getattr(step, "box", None)
            if box is not None:
                vars(box.node.mailbox).pop("producer_pool", None)

    @property
    def transport_parks(self) -> bool:
        """Whether the broker lets a worker wait without consuming."""
        return hasattr(self._transport(), "park")

    @property
    def is_parked(self) -> bool:
        """Whether it leaves messages in their queues."""
        return self.transport_parks and self._transport().parked

    def unpark(self) -> None:
        """Consume again."""
        self._receivers.connect()
        if self.transport_parks:
            self._transport().park(parked=False)

    @property
    def as_started(self) -> bool:
        """Whether remote control left the worker as it was started."""
        if not self.alive or self.controller is None:
            return False
        consumer, pool = self.controller.consumer, self.controller.pool
        return (
            self._consumed() == self._consumed_at_start
            and pool.num_processes == self.settings.arguments()["concurrency"]
            and not limits_changed(self.app)
            and not (consumer.event_dispatcher and consumer.event_dispatcher.enabled)
        )

    def _consumed(self) -> list[str]:
        return sorted(queue.name for queue in self.queues)

    @property
    def queues(self) -> list[Any]:
        """The kombu queues that it consumes from; none while its connection is lost."""
        consumer = getattr(self._consumer(), "task_consumer", None)
        return list(consumer.queues) if consumer is not None else []

    # Idle -----------------------------------------------------------------------------

    def _task_started(self, task_id: str) -> None:
        if self.note is not None:
            self.note(Started(task_id=task_id))

    def _after_task(self) -> None:
        self.connections.close_in_thread()

    def _let_go(self) -> None:
        self.wake()  # the test that has the worker now

    @property
    def idle(self) -> bool:
        """Whether no message is ready, on its way or running; those with an ETA don't count."""
        if not self.alive or self.controller is None:
            return True
        transport = self._transport()
        consumer = self.controller.consumer
        if consumer.is_broken:
            return False
        broker = getattr(transport, "broker", None)
        if broker is not None:
            if transport.parked:
                return True
            if transport.delivering or any(broker.depth(queue.name) for queue in self.queues):
                return False
        elif self.outstanding():
            return False
        # In the order in which a task passes through them.
        return not (
            consumer.timer.late
            or _wait_in(consumer.task_buckets)
            or self._in_hand.count
            or self.busy()
            or consumer.has_pending_operations
        )

    def deliver_again(self, task_id: str) -> None:
        """Have the message of a running task received once more, marked as redelivered."""
        request = state.requests.get(task_id)
        if request is not None:
            self._receive_soon(received_again(request.message, self._receive_soon))

    def _receive_soon(self, message: Any) -> None:
        def receive() -> None:
            try:
                self._consumer().task_consumer.on_message(message)
            finally:
                self._in_hand.let_go(None)

        self._in_hand.take(None)  # so that it isn't idle in between
        self._call_soon(receive)

    def _host_lost(self) -> Exception:
        consumer = self._consumer()
        if threading.current_thread() is self._thread:
            # Before 5.7, Celery acknowledges early in the next turn of its loop. Under prefork that
            # comes while the task runs in the child; here there will be no next turn.
            consumer.perform_pending_operations()
        error: Exception = consumer.break_connection()
        return error

    def has_in_hand(self, task_id: str) -> bool:
        """Whether it is still busy with a task, even if an outcome is already stored."""
        return task_id in self._in_hand

    def wait_in_task(self, journal: Journal, done: Callable[[], bool], timeout: float) -> bool:
        """Wait in one of its tasks until ``done()``; see `pools.wait_in_task`."""
        return pools.wait_in_task(self.controller, self._in_hand, journal, done, timeout)

    def busy(self) -> list[Request]:
        """The requests that the pool has, or is about to get."""
        scheduled = getattr(state, "scheduled_requests", ())  # Celery 5.6 up
        requests = list(state.requests.values())
        return [request for request in requests if request not in scheduled]

    def describe_busy(self) -> str:
        """What is running, for the end of an error."""
        requests = self.busy()
        names = (
            ", ".join(f"{request.name}[{request.id}]" for request in requests)
            or "no task is running"
        )
        stacks = "".join(
            f"Thread {thread.name!r} is at:\n{stack_of(thread)}" for thread in self._task_threads()
        )
        return f"running: {names}\n{stacks}"

    def situation(self) -> str:
        """Worker, queues and running tasks, in words."""
        if not self.alive:
            if self.error is None:
                return "The embedded worker has ended, as it was asked to."
            return f"The embedded worker died: {type(self.error).__name__}: {self.error}"
        consumed = self._consumed()
        lines = [f"The embedded worker consumes from: {', '.join(consumed)}."]
        lost = self._consumer().lost
        if lost is not None:
            lines = [f"The embedded worker has lost its broker, and tries to reach it: {lost!r}"]
        broker = self._transport_broker()
        for name, depth in (broker.depths() if broker else {}).items():
            unread = (
                ""
                if name in consumed
                else ", which no worker consumes from (celery_worker_parameters: queues)"
            )
            lines.append(f"Queue {name!r} has {depth} message(s){unread}.")
        scheduled = len(getattr(state, "scheduled_requests", ()))
        if scheduled:
            lines.append(f"{scheduled} task(s) wait for their ETA.")
        lines.append(self.describe_busy())
        return "\n".join(lines)

    def _task_threads(self) -> list[threading.Thread]:
        executor = getattr(self.controller and self.controller.pool, "executor", None)
        if executor is None:
            return list(self._in_hand.taking_turns)
        return list(executor._threads)

    def _consumer(self) -> Any:
        return getattr(self.controller, "consumer", None)

    def _transport(self) -> Any:
        return getattr(getattr(self._consumer(), "connection", None), "transport", None)

    def _transport_broker(self) -> Any:
        return getattr(self._transport(), "broker", None)

    def _call_soon(self, function: Callable[[], None]) -> None:
        self._consumer().call_soon(function)


def _wait_in(buckets: Mapping[str, Any]) -> bool:
    """Whether tasks wait for their rate limit."""
    for bucket in buckets.values():  # noqa: SIM110 - `any()` takes twice as long, for each task
        if bucket and bucket.contents:
            return True
    return False


def _shut_down() -> None:
    raise WorkerShutdown(0)
