"""What ``celery_inline`` is in a test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from datetime import datetime, timedelta
from itertools import filterfalse
from typing import TYPE_CHECKING, Any, cast

from celery import states
from kombu import Queue

from pytest_djcelery import clock
from pytest_djcelery.api.running import not_eager, runs
from pytest_djcelery.brokers.memory import addresses
from pytest_djcelery.errors import BadOptionError, InlineError
from pytest_djcelery.messages.descriptions import call_text
from pytest_djcelery.messages.journal import Looked, RaisedElsewhere, StateStored
from pytest_djcelery.messages.origins import Origins
from pytest_djcelery.patching import replaced
from pytest_djcelery.project.derived import logs_listened_to
from pytest_djcelery.recording import batches
from pytest_djcelery.recording.failures import own_traceback
from pytest_djcelery.recording.result_waits import NeverReadyError
from pytest_djcelery.recording.task_threads import in_coroutine, in_task, requests_seen
from pytest_djcelery.reporting import due_messages
from pytest_djcelery.session.opening import entered_sandbox
from pytest_djcelery.session.runner import Runner
from pytest_djcelery.workers.database import other_threads_watched
from pytest_djcelery.workers.inline.coroutines import run_for_test
from pytest_djcelery.workers.inline.deliveries import Deliveries
from pytest_djcelery.workers.inline.executions import Execution, Summary
from pytest_djcelery.workers.inline.inline_worker import InlineWorker
from pytest_djcelery.workers.inline.limits import limits_of
from pytest_djcelery.workers.inline.undelivered import Undelivered

if TYPE_CHECKING:
    from pytest_djcelery.brokers.memory.queues import Broker
    from pytest_djcelery.messages.sent_task import SentTask
    from pytest_djcelery.project.consumed_queues import ConsumedQueues
    from pytest_djcelery.session.sandbox import Sandbox


_MOVE = "Move the clock: celery_inline.run(until=timedelta(…))."


_SECONDS = "%Y-%m-%d %H:%M:%S"


class _BusyError(InlineError):
    """It delivers already."""


def _nothing() -> None:
    """What the worker itself sends while it is built starts no other."""


class Inline(Runner):
    """A worker in the test's own thread, connection and transaction, on a virtual clock.

    Args:
        sandbox: the test.
        auto: deliver after each publish by the test's own code.
        implicit: it gives way to a runner that the test asks for.
    """

    name = "celery_inline"

    in_place = True

    def __init__(self, sandbox: Sandbox, *, auto: bool = False, implicit: bool = False) -> None:
        self.implicit = implicit
        self._sandbox = sandbox
        self.auto = auto
        self._thread = threading.current_thread()
        self._clock = sandbox.clock
        self._busy = threading.Lock()
        self._asked = False  # to deliver what was published, since a run by itself began
        self._by_itself = False  # whether it was the publishing that began the run
        self._building = threading.RLock()
        self._built: InlineWorker | None = None
        self._over = False
        self._undelivered: Undelivered
        self._deliveries: Deliveries

    @contextmanager
    def started(self) -> Iterator[Inline]:
        """Be the test's worker for the time of a block.

        Raises:
            InlineError: when the test has chosen another broker than the one in memory.
        """
        with (
            other_threads_watched(),
            ExitStack() as self._stack,
            self._broker().callbacks_set(on_exchange=self._build),
            requests_seen() if self.auto else nullcontext(),
        ):
            yield self
        self._over = True

    def __repr__(self) -> str:
        """What there is to deliver, and where the clock was moved to."""
        name = f"{self.name}, automatic" if self.auto else self.name
        if self._over:
            return f"<{name}: its test is over>"
        due, later = self.undelivered()
        told = [f"{len(due)} due"] * bool(due) + [f"{len(later)} scheduled"] * bool(later)
        text = ", ".join(told) or "nothing to deliver"
        for sent in (*due, *later)[:1]:
            text += f"; next {call_text(sent.task, sent.args, sent.kwargs)}"
            text += "" if due or sent.eta is None else f" at {sent.eta:{_SECONDS}} UTC"
        if self._clock.moved:
            text += f"; the clock stands at {self._clock.now():{_SECONDS}} UTC"
        return f"<{name}: {text}>"

    @property
    def _worker(self) -> InlineWorker:
        if self._built is None:
            self._build()
        return cast("InlineWorker", self._built)

    def _build(self) -> None:
        """Build the worker, before the first of what it is to hear: many a test sends nothing."""
        with self._building, self._broker().callbacks_set(on_exchange=_nothing):
            if self._built is not None:
                return
            worker = InlineWorker(
                self._sandbox.app,
                self._broker(),
                now=self._clock.now,
                limits=limits_of(self._sandbox.project),
                surroundings=self._sandbox.surroundings,
                consumed=lambda: self._sandbox.consumed,
            )
            origins = Origins(self._sandbox.journal, worker.broker.records)
            self._undelivered = Undelivered(worker, origins)
            self._deliveries = Deliveries(
                worker, origins, self._sandbox.journal, self._sandbox.watch
            )
            self._version = self._version_of_now()
            self._built = self._stack.enter_context(worker.started())

    def _broker(self) -> Broker:
        broker = self._sandbox.project.broker
        if broker is None:
            broker_url = addresses.without_password(self._sandbox.app.conf.broker_url)
            msg = (
                "celery_inline takes messages off the in-memory broker, but the app publishes to "
                f"{broker_url!r}.\n"
                "Leave the broker as the run has it, or use celery_worker with this one."
            )
            raise InlineError(msg)
        return broker

    # Delivery ---------------------------------------------------------------------------

    def run(
        self,
        *,
        queues: Iterable[str | Queue] | None = None,
        limit: int | None = None,
        until: timedelta | datetime | None = None,
        raise_failures: bool = True,
    ) -> Summary:
        """Deliver messages until none is due.

        Args:
            queues: deliver from these only, of those that production's workers consume
                (``djcelery_queues``); from all of them by default.
            limit: deliver so many at most.
            until: move the clock from ETA to ETA up to a moment, or as far from where it is now,
                and leave it there.
            raise_failures: raise what a task fails with, and keep what was not yet delivered
                for the next `run`; else go on, and tell in the summary.

        Raises:
            BadOptionError: ``until`` has passed or is naive, ``limit`` is negative, or no worker
                consumes a queue.
            InlineError: inside a task, in a coroutine, or while another thread runs it.
            NeverEndsError: when the tasks go on publishing without end.
            Exception: what a task failed with, with notes that name it.
        """
        __tracebackhide__ = True
        summary = self._run(queues=queues, limit=limit, until=until, raise_failures=raise_failures)
        if limit is None:
            self._sandbox.unconsumed.waited()
        return summary

    def _run(
        self,
        *,
        queues: Iterable[str | Queue] | None = None,
        limit: int | None = None,
        until: timedelta | datetime | None = None,
        raise_failures: bool,
    ) -> Summary:
        __tracebackhide__ = True
        takes = self._takes(queues)
        stretch = None if until is None else clock.Stretch(self._clock, until)
        _check_limit(limit)
        executions: list[Execution] = []
        with self._running():
            if stretch is not None:
                stretch.begin()
            for ended in self._deliveries.executions(takes, stretch, limit):
                executions += ended
                failed = [execution for execution in ended if execution.failed]
                if raise_failures and failed:
                    self._raise(failed)
            if stretch is not None and (limit is None or len(executions) < limit):
                stretch.finish()
        scheduled = self._waiting.count_later(self._clock.now())
        return Summary(executions, scheduled=scheduled, looked=self._looked)

    async def arun(
        self,
        *,
        queues: Iterable[str | Queue] | None = None,
        limit: int | None = None,
        until: timedelta | datetime | None = None,
        raise_failures: bool = True,
    ) -> Summary:
        """`run` for async tests: in the thread in which Django runs the ORM for a coroutine."""
        from asgiref.sync import sync_to_async

        summary: Summary = await sync_to_async(self.run)(
            queues=queues, limit=limit, until=until, raise_failures=raise_failures
        )
        return summary

    def step(self) -> Execution | None:
        """Deliver the next message that is due, and return how it went; ``None``: there is none.

        A failure is told by what is returned, and not raised.

        Raises:
            InlineError: as for `run`.
        """
        __tracebackhide__ = True
        with self._running():
            execution = self._deliveries.one(self._worker.takes)
        if execution is not None and execution.failed:
            self._looked(execution)
        return execution

    def advance(self, delta: timedelta) -> None:
        """Move the clock, and deliver nothing.

        Raises:
            BadOptionError: for a negative ``delta``.
        """
        clock.check_distance(delta)
        self._clock.move_to(clock.end_of(delta, self._clock.now()))

    def redeliver(self, message: SentTask) -> None:
        """Put a message back at the head of its queue, as a broker does that missed the ack.

        Args:
            message: one that was sent in this test, from the outbox or from an execution.

        Raises:
            BadOptionError: for anything else.
        """
        from pytest_djcelery.workers.inline.redelivery import redeliver

        redeliver(message, self._sandbox.app)

    # What is there to deliver -------------------------------------------------------------

    @property
    def pending(self) -> list[SentTask]:
        """The messages that are due, in the order in which they will be delivered."""
        return self._waiting.due(self._clock.now())

    @property
    def scheduled(self) -> list[SentTask]:
        """The messages with an ETA to come, by ETA."""
        return self._waiting.later(self._clock.now())

    def next_eta(self) -> datetime | None:
        """The earliest ETA of what a run has received and left."""
        takes = self._worker.takes
        return self._deliveries.next_eta(takes)

    def hold(self) -> AbstractContextManager[None]:
        """Deliver nothing in a block, whatever is published in it.

        Raises:
            InlineError: as for `run`.
        """
        return self._delivering()

    # Runner -------------------------------------------------------------------------------

    def consumes(self) -> ConsumedQueues:
        return self._sandbox.consumed

    def receives(self, sent: SentTask) -> bool:
        return self._sandbox.consumed.receives(sent)

    def undelivered(self) -> tuple[list[SentTask], list[SentTask]]:
        if self._built is None and self._sandbox.project.pristine:
            return [], []
        return self.pending, self.scheduled

    def situation(self) -> str:
        """What was not delivered, in words."""
        return due_messages.undelivered(self.pending, self.scheduled)

    def drop_what_waits(self) -> None:
        if self._built is not None:
            self._built.drop_what_waits()

    def published(self) -> None:
        __tracebackhide__ = True
        if not self.auto or in_task():
            return
        self._asked = True  # first: who delivers now, in another thread, looks at it afterwards
        if self._busy.locked():
            return
        run_for_test(
            self._run_by_itself,
            home=self._thread,
            timeout=self._sandbox.options.timeout,
            progress=self._sandbox.journal.__len__,
        )

    def _run_by_itself(self) -> None:
        __tracebackhide__ = True
        raises = bool(self._sandbox.app.conf.task_eager_propagates)
        while self._asked:
            self._asked = False
            try:
                with replaced(self, _by_itself=True):
                    self._run(raise_failures=raises)
            except _BusyError:  # with what another request has published: it will look again
                self._asked = True
                return

    def bring_about(self, task_ids: Collection[str]) -> bool:
        """Deliver until the results of all these are stored.

        Raises:
            NeverReadyError: when nothing that is due will make one of them ready.
        """
        __tracebackhide__ = True
        self._until_stored(task_ids, self.deliver_until)
        return True

    def wait_in_task(self, task_ids: Collection[str], timeout: float | None) -> None:  # noqa: ARG002 - nothing is waited for
        """Deliver as a second process would do while the first one waits."""
        __tracebackhide__ = True
        self._until_stored(task_ids, self._deliveries.inside_until)

    def _until_stored(
        self, task_ids: Collection[str], deliver_until: Callable[[Callable[[], bool]], None]
    ) -> None:
        __tracebackhide__ = True
        journal = self._sandbox.journal
        waiting = {each for each in task_ids if not self._stored(each)}
        seen = len(journal)

        def ready() -> bool:
            nonlocal seen
            stored, seen = journal.events(StateStored, seen), len(journal)
            waiting.difference_update(
                each.task_id for each in stored if each.state in states.READY_STATES
            )
            return not waiting

        deliver_until(ready)
        still = [each for each in waiting if not self._stored(each)]
        if still:
            raise NeverReadyError("\n".join(map(self.why_never, still)))

    def deliver_until(self, done: Callable[[], bool]) -> None:
        __tracebackhide__ = True
        if done():
            return
        with self._running():
            for _ in self._deliveries.executions(self._worker.takes, None, None):
                if done():
                    return

    def _stored(self, task_id: str) -> bool:
        # A result object would end the subscription of the one that is waited for, as it goes.
        meta = self._sandbox.app.backend.get_task_meta(task_id)
        return meta["status"] in states.READY_STATES

    def why_never(self, task_id: str) -> str:
        if (message := self._worker.batched.get(task_id)) is not None:
            task = self._sandbox.app.tasks[message.headers["task"]]
            held = "\n".join(batches.described({task: task._buffer.qsize()}))
            return f"{task_id} will not be ready: a batch holds it.\n{held}\n{_MOVE}"
        unconsumed = self._sandbox.unconsumed.in_the_way_of([task_id])
        return unconsumed or due_messages.why_never(
            task_id, self._sandbox.journal, self.scheduled, self._clock.now()
        )

    # Inside -------------------------------------------------------------------------------

    @property
    def _waiting(self) -> Undelivered:
        if self._built is None:
            self._build()
        return self._undelivered

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Deliver as a worker does, which has neither the test's transactions nor its changes."""
        __tracebackhide__ = True
        with self._delivering(), self._sandbox.watch.autocommit(), self._worker.delivering():
            yield

    @contextmanager
    def _delivering(self) -> Iterator[None]:
        """Refuse what would deliver from two places at once."""
        __tracebackhide__ = True
        if in_task():
            msg = (
                "celery_inline was asked to deliver inside a task. A worker runs one task at a "
                "time: publish, and let the run that is under way deliver it."
            )
            raise InlineError(msg)
        if in_coroutine():
            msg = (
                "celery_inline was asked to deliver in a coroutine, where Django refuses the "
                "database to tasks. Write: await celery_inline.arun()"
            )
            raise InlineError(msg)
        if not self._busy.acquire(blocking=False):
            msg = (
                "celery_inline already delivers, in another thread or further up in this one. "
                "It is one worker; for several tasks at a time use celery_worker with "
                "celery_worker_pool 'threads'."
            )
            raise _BusyError(msg)
        try:
            self._follow_configuration()
            yield
        finally:
            self._busy.release()

    def _follow_configuration(self) -> None:
        __tracebackhide__ = True
        worker = self._worker
        worker.limits.follow(self._sandbox.app)
        # A tracer asks once, as it is built, whether anyone listens to what a worker logs.
        version = self._version_of_now()
        if version != self._version:
            self._broker()
            worker.read_configuration()
            self._version = version

    def _version_of_now(self) -> tuple[Any, ...]:
        """Of all that the worker has read as it was built."""
        options = self._sandbox.options
        return self._sandbox.project.configuration.version, logs_listened_to(), options.queues

    def _raise(self, failed: Sequence[Execution]) -> None:
        """Raise the last failure; where that one has waited for the others, it knew of theirs."""
        __tracebackhide__ = True
        execution = failed[-1]
        error: Any = execution.exception
        ids = [each.id for each in failed]
        if self._by_itself:
            # In the middle of the project's code, which may keep it from the test.
            self._sandbox.journal.append(RaisedElsewhere(task_ids=tuple(ids), error=error))
        else:
            for task_id in ids:
                self._sandbox.journal.append(Looked(task_id=task_id))
        note = f"in the task {execution}"
        notes = getattr(error, "__notes__", [])
        if note not in notes:
            # ``add_note`` came with Python 3.11; pytest shows the notes on 3.10 too.
            error.__notes__ = [*notes, note]
        raise error.with_traceback(own_traceback(error))

    def _looked(self, execution: Execution) -> None:
        self._sandbox.journal.append(Looked(task_id=execution.id))

    def _takes(self, queues: Iterable[str | Queue] | None) -> Callable[[str], bool]:
        if queues is None:
            return self._worker.takes
        if isinstance(queues, (str, Queue)):
            queues = [queues]
        consumed = self._sandbox.consumed
        own = dict(zip(consumed.shown, (each.name for each in consumed.queues), strict=True))
        given = {queue.name if isinstance(queue, Queue) else queue for queue in queues}
        names = {own.get(each, each) for each in given}
        unknown = sorted(map(str, filterfalse(self._worker.takes, names)))
        if unknown:
            missing = ", ".join(map(repr, unknown))
            known = ", ".join(sorted(consumed.shown))
            if names <= {*consumed.names, *self._worker.broker.queues}:
                why = f"no worker consumes {missing}. Workers consume: {known} ({consumed.source})"
                why += ".\nIf one of production does, say so: djcelery_queues, or celery_queues"
            else:
                why = f"no queue {missing} is declared. There are: {known}"
            msg = f"queues: {why}."
            raise BadOptionError(msg)
        return names.__contains__


def _check_limit(limit: object) -> None:
    if limit is not None and (not isinstance(limit, int) or limit < 0):
        msg = f"limit={limit!r}: expected how many messages to deliver at most, or None."
        raise BadOptionError(msg)


@contextmanager
def inline(*, auto: bool = False) -> Iterator[Inline]:
    """A worker in the calling thread for the time of the block: its connection, its transaction.

    Args:
        auto: deliver after each publish by the test's own code, after its commit if it is in a
            transaction.

    Raises:
        FixtureConflictError: beside another way to run tasks.
        InlineError: when the test has chosen another broker than the one in memory, which
            inline delivery takes its messages off.
    """
    with entered_sandbox() as sandbox:
        running = sandbox.runner
        if isinstance(running, Inline) and not running.implicit and running.auto == auto:
            yield running  # a helper's block, in a test that has celery_inline already
            return
        with _delivering(sandbox, Inline(sandbox, auto=auto)) as runner:
            yield runner


@contextmanager
def automatic() -> Iterator[Sandbox]:
    """Automatic delivery where nothing else runs the tasks: a block around this one, or in it."""
    with entered_sandbox(checks=False) as sandbox:
        if sandbox.runner is not None:
            yield sandbox
            return
        with _delivering(sandbox, Inline(sandbox, auto=True, implicit=True)):
            yield sandbox


@contextmanager
def _delivering(sandbox: Sandbox, runner: Inline) -> Iterator[Inline]:
    __tracebackhide__ = True
    with runs(sandbox, runner), not_eager(sandbox), sandbox.project.in_memory(), runner.started():
        yield runner
