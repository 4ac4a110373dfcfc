"""A worker without a thread: Celery's consumer, requests and tracer, one message at a time.

Messages come from the in-memory broker through a kombu channel. From there on everything is
Celery's own: `Consumer.create_task_handler` finds the strategy, the strategy builds the request
and checks what is revoked or expired, the request goes to the pool, and the pool's callbacks
acknowledge it. Ours are some parts that a worker is built from: a pool that runs tasks in place, a
timer that uses the test's clock, and no event loop. Where Celery's solo and threads pools differ
from prefork, this pool does what prefork does.

Private API (`celery.worker.consumer.Consumer` without its event loop, ``celery.app.trace``),
checked on Celery 5.4 to 5.7.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from celery import _state
from celery.app.trace import setup_worker_optimizations
from celery.utils.nodenames import default_nodename, worker_direct
from celery.worker import state
from celery.worker.pidbox import Pidbox
from celery.worker.state import task_ready
from kombu.serialization import prepare_accept_content

from pytest_djcelery.brokers.memory.queues import Ready
from pytest_djcelery.messages.origins import Origins
from pytest_djcelery.recording import batches
from pytest_djcelery.recording.losses import ProcessGoneError, lose_process, lost_in_run
from pytest_djcelery.recording.task_bodies import tracer_apart
from pytest_djcelery.recording.task_surroundings import SharedStateRestored
from pytest_djcelery.recording.task_threads import in_task
from pytest_djcelery.workers.boot import (
    process_as_found,
    project_steps_run,
    starts_project_code,
)
from pytest_djcelery.workers.inline import guests
from pytest_djcelery.workers.inline.guests import Delivery
from pytest_djcelery.workers.inline.kept_parts import parts_for
from pytest_djcelery.workers.inline.limits import limits_of
from pytest_djcelery.workers.inline.timer import Timer
from pytest_djcelery.workers.inline.undelivered import due_messages, redeliver_alone

if TYPE_CHECKING:
    from celery import Celery

    from pytest_djcelery.brokers.memory.queues import Broker
    from pytest_djcelery.session.sandbox import Sandbox
    from pytest_djcelery.workers.inline.kept_parts import InlineParts
    from pytest_djcelery.workers.inline.timer import Repeated, Scheduled

_NOTHING: Final = nullcontext()


class InlineWorker:
    """Delivers the messages of a broker, one at each request.

    Args:
        sandbox: The sandbox of the test whose tasks it runs.
        broker: The in-memory broker that the app publishes to.
    """

    def __init__(self, sandbox: Sandbox, broker: Broker) -> None:
        self._sandbox = sandbox
        self.origins = Origins(sandbox.journal, broker.records)
        self.app = sandbox.app
        self.broker = broker
        self._tasks = self.app.tasks
        self.limits = limits_of(sandbox.project)
        self.surroundings = sandbox.surroundings
        self.note = sandbox.journal.note
        self._names: frozenset[str] = frozenset()
        self.hostname = default_nodename(None)
        self.timer = Timer(sandbox.clock.now)
        self.batched: dict[str, Delivery] = {}  # messages that a batch task holds, by id
        self._delivering: list[Delivery] = []  # several if a task waits for others
        self._tracers: dict[str, Any] = {}  # of the tasks, as they were found
        self._mailbox: Any = None  # of remote control, once it is used
        self._host_lost = False
        self._starts_project_code = True

    @contextmanager
    def started(self) -> Iterator[InlineWorker]:
        """Be a worker within the ``with``; unacknowledged messages then return to their queues."""
        with ExitStack() as stack:
            stack.enter_context(process_as_found(self.app))
            stack.callback(self._put_tracers_back)
            parts = parts_for(self._sandbox.project, self)
            stack.callback(self._give_back, parts)
            self._connection, self._channel = parts.connection, parts.channel
            self._consumer = parts.consumer
            self._handle = self._consumer.create_task_handler()
            stack.callback(self._channel.qos.restore_unacked)
            stack.callback(self._forget_batches)
            self.read_configuration()
            stack.callback(self._close_mailbox)
            self._starts_project_code = starts_project_code(self.app)
            stack.enter_context(project_steps_run(self.app, self._consumer))
            yield self

    def _give_back(self, parts: InlineParts) -> None:
        has_mailbox = self._mailbox is not None
        parts.give_back(used_up=self._host_lost or has_mailbox or self._starts_project_code)

    def listen(self) -> None:
        """Listen to remote control, as someone is about to use it."""
        if self._mailbox is None:
            self._mailbox = Pidbox(self._consumer)
            self._mailbox.start(self._consumer)
            self._mailbox_queue = self._mailbox.consumer.queues[0].name

    def _close_mailbox(self) -> None:
        if self._mailbox is not None:
            self._mailbox.shutdown(self._consumer)

    def read_configuration(self) -> None:
        """Apply the current settings, as a worker that starts now would."""
        with _CurrentApp(self.app):
            setup_worker_optimizations(self.app, self.hostname)
        self._consumer.pool.start()  # before that it would describe each task for its debug log
        self._consumer.strategies.clear()
        queues = list(self._sandbox.consumed.queues)
        if self.app.conf.worker_direct:
            queues.append(worker_direct(self.hostname))
        for queue in queues:
            if not self.broker.declarations.redeclare(queue):
                queue(self._channel).declare()
                self.broker.declarations.note(queue)
        self._names = frozenset(queue.name for queue in queues)
        self._accept = prepare_accept_content(self.app.conf.accept_content)

    def delivering(self) -> AbstractContextManager[None]:
        """Enter around deliveries: what tasks change outside their context is put back after it."""
        return _Delivering(self.app)

    def _put_tracers_back(self) -> None:
        for name, tracer in self._tracers.items():
            if name in self.app.tasks:
                self.app.tasks[name].__trace__ = tracer

    def keep_tracer(self, task: Any) -> None:
        """Remember a tracer that is about to be replaced."""
        self._tracers.setdefault(task.name, tracer_apart(task))

    def takes(self, queue: str) -> bool:
        """Whether it consumes from a queue."""
        return queue in self._names

    def is_batch(self, task: str) -> bool:
        """Whether a task takes its messages by the batch."""
        return batches.is_batch(self._tasks.get(task))

    def put_alone(self, delivery: Delivery) -> None:
        """Put a message back, marked as redelivered, without what follows it in a canvas."""
        redeliver_alone(delivery, self._channel)

    def deliver(self, takes: Callable[[str], bool]) -> Delivery | Repeated | None:
        """Hand the next message that is due to Celery, and return it; ``None`` if there is none.

        If a repeated function was due, it is called, and what is returned is its `Repeated`.

        A message is due when it is published, or at its ETA. One with an ETA is received at
        once, whatever is before it in its queue, and waits in `timer`, as in a worker that
        listens all the time. So it makes no difference when this worker is asked to deliver.

        Args:
            takes: Whether to deliver from a queue.
        """
        self._handle_remote_control()
        self._consumer.refused = None
        delivery: Delivery | None = None
        while delivery is None:
            first, held = self.broker.oldest(takes), None
            if first is not None and first[2]:
                delivery = self._receive(first[0], first[1], timed=True)
                continue
            if self.timer:
                held = self.timer.first_due(takes)
            if guests.present() and (chosen := self._chosen(takes)) is not None:
                delivery = chosen()
            elif held is not None and (first is None or held.turn.due < first[1].turn):
                delivery = self._start(held)
            elif first is not None:
                delivery = self._receive(first[0], first[1])
            elif (poll := self.timer.first_poll(takes)) is not None:
                delivery = self._start(poll)
            elif (repeated := self.timer.repeated_due()) is not None:
                self.surroundings.run(repeated.function)
                return repeated
            else:
                return None
        return delivery

    # What guests have a say in ------------------------------------------------------------

    def _chosen(self, takes: Callable[[str], bool]) -> Callable[[], Delivery | None] | None:
        """What delivers the message that a guest wants to be next."""
        choosing = [guest for guest in guests.present() if guest.chooses]
        if not choosing:
            return None
        due = due_messages(self.broker, self.timer, self.origins, takes)
        for guest in choosing:
            choice = guest.choose([entry for entry, _ in due], takes)
            if isinstance(choice, Delivery):
                return partial(self._deliver_again, choice)
            if choice is not None:
                found = next(found for entry, found in due if entry is choice)
                return partial(self._deliver_chosen, choice.queue, found)
        return None

    def _deliver_chosen(self, queue: str, chosen: Ready | Scheduled) -> Delivery | None:
        if isinstance(chosen, Ready):
            return self._receive(queue, chosen, chosen=True)
        return self._start(chosen)

    def _deliver_again(self, earlier: Delivery) -> Delivery | None:
        tag = earlier.redeliver()
        for queue, ready in self.broker.waiting(earlier.queue.__eq__):
            if ready.message["properties"]["delivery_tag"] == tag:
                return self._receive(queue, ready, chosen=True)
        # It has an ETA, which has passed; no other message with one has yet to be received.
        [ready] = self.broker.timed(earlier.queue.__eq__)
        delivery = self._receive(earlier.queue, ready, timed=True)
        for held in self.timer.held():
            if held.request.message.delivery_tag == tag:
                return self._start(held)
        return delivery

    def _delivery(self, queue: str, message: Any) -> Delivery:
        tag = message.delivery_tag
        return Delivery(
            tag=tag,
            queue=queue,
            sent=self.origins.of(tag, message.headers, message.body),
            redelivered=bool(message.delivery_info.get("redelivered")),
            message=message,
            _put_again=self._channel.put_again,
        )

    def _loss(self, delivery: Delivery) -> AbstractContextManager[None]:
        """Enter around the run of a message, to lose the worker in it if a guest says so."""
        task = self._tasks.get(delivery.message.headers.get("task"))
        for guest in guests.present():
            loss = None if task is None else guest.loses(delivery)
            if loss is not None:
                return lost_in_run(task, loss)
        return _NOTHING

    def _lose_host(self) -> None:
        """Start anew, without what the lost worker knew of its messages."""
        self._host_lost = True
        for request in self.timer.forget():
            task_ready(request)
        for request in list(state.requests.values()):
            task_ready(request)
        self.batched.clear()
        batches.forget_held(self.app, acknowledge=False)
        self._channel.qos.restore_unacked()

    # One message ------------------------------------------------------------------------

    def _start(self, held: Scheduled) -> Delivery:
        message = held.request.message
        with self.limits.warned_of(self._tasks, message.headers):
            delivery = self._delivery(held.queue, message)
            self._hand_over(delivery, self.timer.start, held)
        return delivery

    def _hand_over(
        self, delivery: Delivery, function: Callable[..., object], arg: Any, *, waits: bool = False
    ) -> None:
        """Have Celery run a message; if that costs it the worker, there is another one now."""
        self._delivering.append(delivery)
        try:
            with self._loss(delivery) if guests.present() and not waits else _NOTHING:
                self.surroundings.run(function, arg)
        except ProcessGoneError:
            if in_task():  # another task waits for this one, in the worker that is lost
                raise lose_process(host=True) from None
            self._lose_host()
        finally:
            self._delivering.pop()

    def deliver_again(self, task_id: str) -> None:
        """Put the message of a running task back, at the head of its queue."""
        for delivery in reversed(self._delivering):
            if delivery.message.headers.get("id") == task_id:
                delivery.redeliver()
                return

    def drop_scheduled(self) -> None:
        """Forget the messages that wait for their ETA."""
        for request in self.timer.clear():
            request.acknowledge()
        self._forget_batches()

    def _forget_batches(self) -> None:
        self.batched.clear()
        batches.forget_held(self.app)

    @property
    def refused(self) -> BaseException | None:
        """Why a worker can't read the message that was last delivered."""
        return self._consumer.refused

    def _taken(self, queue: str, ready: Ready, *, timed: bool, chosen: bool) -> Any:
        if chosen:
            return self._channel.get_ready(queue, ready)
        return self._channel.get_timed(queue) if timed else self._channel.basic_get(queue)

    def _receive(
        self, queue: str, ready: Ready, *, timed: bool = False, chosen: bool = False
    ) -> Delivery | None:
        """Receive a message and return it; ``None`` if it waits in `timer`."""
        # Before it is taken, so that it is there for the next run if the warning is an error.
        with self.limits.warned_of(self._tasks, ready.message["headers"]):
            message = self._taken(queue, ready, timed=timed, chosen=chosen)
            message.accept = self._accept
            self.timer.receiving = queue, ready
            delivery = self._delivery(queue, message)
            self._hand_over(delivery, self._handle, message, waits=timed)
        if self.timer.kept is ready:
            return None
        if batches.is_batch(self._tasks.get(message.headers.get("task"))):
            self.batched[message.headers["id"]] = delivery
        self.timer.delivered += 1
        return delivery

    def _handle_remote_control(self) -> None:
        while self._mailbox is not None and self.broker.depth(self._mailbox_queue):
            self._connection.drain_events(timeout=0)


class _CurrentApp:
    """Makes an app the current one of this thread, as it is in a worker's process."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def __enter__(self) -> None:
        self._before = _state._tls.current_app
        _state._tls.current_app = self._app

    def __exit__(self, *_: object) -> None:
        _state._tls.current_app = self._before


class _Delivering(_CurrentApp):
    """Does that, and restores what tasks have changed outside their context."""

    def __init__(self, app: Celery) -> None:
        super().__init__(app)
        self._shared = SharedStateRestored()

    def __enter__(self) -> None:
        self._shared.__enter__()
        super().__enter__()

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._shared.__exit__()
