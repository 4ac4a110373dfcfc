"""``celery_inline``: a worker in the test's own thread."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pytest_djcelery import clock
from pytest_djcelery.api.app import eager_mode_off, runner_set
from pytest_djcelery.messages.descriptions import message_text
from pytest_djcelery.recording import batches
from pytest_djcelery.recording.task_threads import in_task, requests_noted
from pytest_djcelery.reporting import undelivered_messages
from pytest_djcelery.session.opening import entered, entered_sandbox
from pytest_djcelery.session.runner import Runner, park_all, session_worker_takes_messages
from pytest_djcelery.session.session import current_session
from pytest_djcelery.workers.database import other_threads_watched
from pytest_djcelery.workers.inline.runs import Runs
from pytest_djcelery.workers.inline.undelivered import redeliver

if TYPE_CHECKING:
    from kombu import Queue

    from pytest_djcelery.locations import MaybeNone
    from pytest_djcelery.messages.sent_task import SentTask
    from pytest_djcelery.project.consumed_queues import ConsumedQueues
    from pytest_djcelery.redelivery.repeats import Repeats
    from pytest_djcelery.session.sandbox import Sandbox
    from pytest_djcelery.workers.inline.executions import Execution, Summary

_MOVE = "Move the clock: celery_inline.run(until=timedelta(…))."
_SECONDS = "%Y-%m-%d %H:%M:%S"


class Inline(Runner):
    """A worker in the test's own thread, connection and transaction, on a virtual clock.

    It runs tasks by a real worker's code, when the test says so. The fixture ``celery_inline`` and
    the context manager `inline` give one. ``run()`` delivers everything that is due,
    ``run(until=timedelta(hours=1))`` lets time pass without waiting, and ``step()`` delivers a
    single message. ``pending`` and ``scheduled`` are the messages that wait.

    Tasks see the test's uncommitted rows and its mocks, but not its language, time zone or context
    variables, since a worker's process has none of these.
    """

    name = "celery_inline"

    in_place = True

    def __init__(self, sandbox: Sandbox, *, auto: bool = False, implicit: bool = False) -> None:
        self.implicit = implicit
        self._sandbox = sandbox
        self.auto = auto
        self._clock = sandbox.clock
        self._repeats: Repeats | None = None
        self._runs = Runs(sandbox, self._repeater)
        self._over = False

    @contextmanager
    def started(self) -> Iterator[Inline]:
        """Within the ``with``, be the test's worker.

        Raises:
            InlineError: The test has chosen another broker than the one in memory.
            BadOptionError: A task that is exempt from running twice is not registered.
        """
        self._repeater()
        with (
            other_threads_watched(),
            self._runs.possible(),
            requests_noted() if self.auto else nullcontext(),
        ):
            yield self
        self._over = True

    def _repeater(self) -> Repeats | None:
        __tracebackhide__ = True
        if self._sandbox.options.redeliver == "off":
            return None
        if self._repeats is None:
            # A run that delivers nothing twice never needs this.
            from pytest_djcelery.redelivery.repeats import Repeats

            self._repeats = Repeats(self._sandbox, current_session().ran_twice.append)
        self._repeats.follow_options()
        return self._repeats

    def __repr__(self) -> str:
        """What there is to deliver, and the time to which the clock was moved."""
        name = f"{self.name}, automatic" if self.auto else self.name
        if self._over:
            return f"<{name}: its test is over>"
        due, later = self.undelivered()
        counts = [f"{len(due)} due"] * bool(due) + [f"{len(later)} scheduled"] * bool(later)
        text = ", ".join(counts) or "nothing to deliver"
        for sent in (*due, *later)[:1]:
            text += f"; next {message_text(sent)}"
            text += "" if due or sent.eta is None else f" at {sent.eta:{_SECONDS}} UTC"
        if self._clock.moved:
            text += f"; the clock is at {self._clock.now():{_SECONDS}} UTC"
        return f"<{name}: {text}>"

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
            queues: Only deliver from these, out of the queues that production's workers consume
                (``djcelery_queues``). By default, from all of them.
            limit: The largest number of messages to deliver.
            until: Let time pass up to a moment, or for a time from now: the clock moves from ETA
                to ETA, and is left at the end.
            raise_failures: Whether to raise the error of a failing task, and leave the remaining
                messages to the next `run`. Otherwise go on, and report failures in the summary.

        Returns:
            What was delivered, and how it went.

        Raises:
            BadOptionError: ``until`` has passed or is naive, ``limit`` is negative, or no worker
                consumes one of the queues.
            InlineError: Inside a task, in a coroutine, or while another thread runs it.
            NeverEndsError: The tasks keep publishing without end.
            Exception: A task failed with it; its notes name the task.
        """
        __tracebackhide__ = True
        summary = self._runs.run(
            queues=queues, limit=limit, until=until, raise_failures=raise_failures
        )
        if limit is None:
            self._sandbox.unconsumed.waited()
        return summary

    async def arun(
        self,
        *,
        queues: Iterable[str | Queue] | None = None,
        limit: int | None = None,
        until: timedelta | datetime | None = None,
        raise_failures: bool = True,
    ) -> Summary:
        """Do as `run`, in an async test: in the thread in which Django runs a coroutine's ORM."""
        from asgiref.sync import sync_to_async

        summary: Summary = await sync_to_async(self.run)(
            queues=queues, limit=limit, until=until, raise_failures=raise_failures
        )
        return summary

    def step(self) -> Execution | MaybeNone:
        """Deliver the next message that is due.

        A failure isn't raised, but is in what is returned.

        Returns:
            The delivery and how it went, or ``None`` if no message is due.

        Raises:
            InlineError: Inside a task, in a coroutine, or while another thread runs it.
        """
        __tracebackhide__ = True
        return self._runs.step()

    def advance(self, delta: timedelta) -> None:
        """Move the clock forward without delivering anything.

        Args:
            delta: How far.

        Raises:
            BadOptionError: ``delta`` is negative.
        """
        clock.check_distance(delta)
        self._clock.move_to(clock.end_of(delta, self._clock.now()))

    def redeliver(self, message: SentTask) -> None:
        """Put a message back at the head of its queue, as a broker does that missed its ack.

        The next `run` or `step` delivers it once more, marked as redelivered.

        Args:
            message: A message sent in this test, from the outbox or from an execution.

        Raises:
            BadOptionError: It is anything else.
        """
        redeliver(message, self._sandbox.app)

    # What there is to deliver -------------------------------------------------------------

    @property
    def pending(self) -> list[SentTask]:
        """The messages that are due, in the order in which they will be delivered."""
        return self._runs.undelivered.due(self._clock.now())

    @property
    def scheduled(self) -> list[SentTask]:
        """The messages with an ETA in the future, by ETA."""
        return self._runs.undelivered.later(self._clock.now())

    def next_eta(self) -> datetime | None:
        """The earliest ETA of the messages that a run has received and that still wait."""
        return self._runs.next_eta()

    def hold(self) -> AbstractContextManager[None]:
        """Within the ``with``, deliver nothing, whatever is published.

        Raises:
            InlineError: Inside a task, in a coroutine, or while another thread runs it.
        """
        return self._runs.exclusive()

    # Runner -------------------------------------------------------------------------------

    def consumes(self) -> ConsumedQueues:
        return self._sandbox.consumed

    def receives(self, sent: SentTask) -> bool:
        return self._sandbox.consumed.receives(sent)

    def undelivered(self) -> tuple[list[SentTask], list[SentTask]]:
        if not self._runs.is_built and self._sandbox.project.pristine:
            return [], []
        return self.pending, self.scheduled

    def situation(self) -> str:
        """What was not delivered, in words."""
        return undelivered_messages.listed(self.pending, self.scheduled)

    def deliver_again(self, task_id: str) -> None:
        self._runs.worker.deliver_again(task_id)

    def drop_scheduled(self) -> None:
        if self._runs.is_built:
            self._runs.worker.drop_scheduled()

    def published(self) -> None:
        __tracebackhide__ = True
        if self.auto and not in_task():
            self._runs.run_after_publish()

    def bring_about(self, task_ids: Collection[str]) -> bool:
        """Deliver until all these results are stored.

        Raises:
            NeverReadyError: Nothing that is due will make one of them ready.
        """
        __tracebackhide__ = True
        if self.implicit and session_worker_takes_messages():
            return False  # in a test's set-up, where whichever of the two comes first runs them
        self._runs.run_until_stored(task_ids, self.why_never_ready, for_task=False)
        return True

    def wait_in_task(self, task_ids: Collection[str], timeout: float | None) -> None:
        """Deliver as a second process would while the first one waits."""
        __tracebackhide__ = True
        self._runs.run_until_stored(task_ids, self.why_never_ready, for_task=True)

    def deliver_until(self, done: Callable[[], bool]) -> None:
        __tracebackhide__ = True
        self._runs.run_until(done)

    def why_never_ready(self, task_id: str) -> str:
        if (delivery := self._runs.worker.batched.get(task_id)) is not None:
            task = self._sandbox.app.tasks[delivery.message.headers["task"]]
            held = "\n".join(batches.described({task: task._buffer.qsize()}))
            return f"{task_id} will not be ready: a batch holds it.\n{held}\n{_MOVE}"
        unconsumed = self._sandbox.unconsumed.blocking([task_id])
        return unconsumed or undelivered_messages.why_never_ready(
            task_id, self._sandbox.journal, self.scheduled, self._clock.now()
        )


@entered
def inline(*, auto: bool = False) -> Iterator[Inline]:
    """Run tasks in the calling thread, in a part of a test; see `Inline`.

    Args:
        auto: Whether messages are delivered by themselves after each publish, or after its commit
            if it is in a transaction.

    Raises:
        FixtureConflictError: Another way to run tasks is in use.
        InlineError: The test has chosen another broker than the one in memory, from which inline
            delivery takes its messages.
        AppNotFoundError: The project has no app.
    """
    with entered_sandbox() as sandbox:
        running = sandbox.runner
        if isinstance(running, Inline) and not running.implicit and running.auto == auto:
            yield running  # a helper's block, in a test that has celery_inline already
            return
        with _tasks_run_by(sandbox, Inline(sandbox, auto=auto)) as runner:
            yield runner


@contextmanager
def automatic_delivery() -> Iterator[Sandbox]:
    """Deliver automatically, unless a block around this one, or inside it, runs the tasks."""
    with entered_sandbox(checks=False) as sandbox:
        if sandbox.runner is not None:
            yield sandbox
            return
        with _tasks_run_by(sandbox, Inline(sandbox, auto=True, implicit=True)):
            yield sandbox


@contextmanager
def _tasks_run_by(sandbox: Sandbox, runner: Inline) -> Iterator[Inline]:
    __tracebackhide__ = True
    if not runner.implicit:  # automatic delivery leaves the set-up to the session's worker
        park_all()
    with (
        runner_set(sandbox, runner),
        eager_mode_off(sandbox),
        sandbox.project.in_memory(),
        runner.started(),
    ):
        yield runner
