"""What ``celery_inline`` is in a test."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pytest_djcelery import clock
from pytest_djcelery.api.app import not_eager, runs
from pytest_djcelery.messages.descriptions import call_text
from pytest_djcelery.recording import batches
from pytest_djcelery.recording.task_threads import in_task, requests_noted
from pytest_djcelery.reporting import undelivered_messages
from pytest_djcelery.session.opening import entered_sandbox
from pytest_djcelery.session.runner import Runner
from pytest_djcelery.workers.database import other_threads_watched
from pytest_djcelery.workers.inline.runs import Runs
from pytest_djcelery.workers.inline.undelivered import redeliver

if TYPE_CHECKING:
    from kombu import Queue

    from pytest_djcelery.messages.sent_task import SentTask
    from pytest_djcelery.project.consumed_queues import ConsumedQueues
    from pytest_djcelery.session.sandbox import Sandbox
    from pytest_djcelery.workers.inline.deliveries import Execution, Summary

_MOVE = "Move the clock: celery_inline.run(until=timedelta(…))."
_SECONDS = "%Y-%m-%d %H:%M:%S"


class Inline(Runner):
    """A worker in the test's own thread, connection and transaction, on a virtual clock.

    Args:
        sandbox: the test.
        auto: deliver after each publish by the test's own code.
        implicit: give way to a runner that the test asks for.
    """

    name = "celery_inline"

    in_place = True

    def __init__(self, sandbox: Sandbox, *, auto: bool = False, implicit: bool = False) -> None:
        self.implicit = implicit
        self._sandbox = sandbox
        self.auto = auto
        self._clock = sandbox.clock
        self._runs = Runs(sandbox)
        self._over = False

    @contextmanager
    def started(self) -> Iterator[Inline]:
        """Be the test's worker in a block.

        Raises:
            InlineError: when the test has chosen another broker than the one in memory.
        """
        with (
            other_threads_watched(),
            self._runs.possible(),
            requests_noted() if self.auto else nullcontext(),
        ):
            yield self
        self._over = True

    def __repr__(self) -> str:
        """What there is to deliver, and where the clock was moved to."""
        name = f"{self.name}, automatic" if self.auto else self.name
        if self._over:
            return f"<{name}: its test is over>"
        due, later = self.undelivered()
        counts = [f"{len(due)} due"] * bool(due) + [f"{len(later)} scheduled"] * bool(later)
        text = ", ".join(counts) or "nothing to deliver"
        for sent in (*due, *later)[:1]:
            text += f"; next {call_text(sent.task, sent.args, sent.kwargs)}"
            text += "" if due or sent.eta is None else f" at {sent.eta:{_SECONDS}} UTC"
        if self._clock.moved:
            text += f"; the clock stands at {self._clock.now():{_SECONDS}} UTC"
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
        """`run` for async tests: in the thread in which Django runs the ORM for a coroutine."""
        from asgiref.sync import sync_to_async

        summary: Summary = await sync_to_async(self.run)(
            queues=queues, limit=limit, until=until, raise_failures=raise_failures
        )
        return summary

    def step(self) -> Execution | None:
        """Deliver the next message that is due, and return how it went; ``None``: there is none.

        A failure is not raised: what is returned tells of it.

        Raises:
            InlineError: as for `run`.
        """
        __tracebackhide__ = True
        return self._runs.step()

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
        redeliver(message, self._sandbox.app)

    # What is there to deliver -------------------------------------------------------------

    @property
    def pending(self) -> list[SentTask]:
        """The messages that are due, in the order in which they will be delivered."""
        return self._runs.undelivered.due(self._clock.now())

    @property
    def scheduled(self) -> list[SentTask]:
        """The messages with an ETA to come, by ETA."""
        return self._runs.undelivered.later(self._clock.now())

    def next_eta(self) -> datetime | None:
        """The earliest ETA of what a run has received and left."""
        return self._runs.next_eta()

    def hold(self) -> AbstractContextManager[None]:
        """Deliver nothing in a block, whatever is published in it.

        Raises:
            InlineError: as for `run`.
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

    def drop_scheduled(self) -> None:
        if self._runs.is_built:
            self._runs.worker.drop_scheduled()

    def published(self) -> None:
        __tracebackhide__ = True
        if self.auto and not in_task():
            self._runs.run_after_publish()

    def bring_about(self, task_ids: Collection[str]) -> bool:
        """Deliver until the results of all these are stored.

        Raises:
            NeverReadyError: when nothing that is due will make one of them ready.
        """
        __tracebackhide__ = True
        self._runs.run_until_stored(task_ids, self.why_never_ready, for_task=False)
        return True

    def wait_in_task(self, task_ids: Collection[str], timeout: float | None) -> None:
        """Deliver as a second process would do while the first one waits."""
        __tracebackhide__ = True
        self._runs.run_until_stored(task_ids, self.why_never_ready, for_task=True)

    def deliver_until(self, done: Callable[[], bool]) -> None:
        __tracebackhide__ = True
        self._runs.run_until(done)

    def why_never_ready(self, task_id: str) -> str:
        if (message := self._runs.worker.batched.get(task_id)) is not None:
            task = self._sandbox.app.tasks[message.headers["task"]]
            held = "\n".join(batches.described({task: task._buffer.qsize()}))
            return f"{task_id} will not be ready: a batch holds it.\n{held}\n{_MOVE}"
        unconsumed = self._sandbox.unconsumed.blocking([task_id])
        return unconsumed or undelivered_messages.why_never_ready(
            task_id, self._sandbox.journal, self.scheduled, self._clock.now()
        )


@contextmanager
def inline(*, auto: bool = False) -> Iterator[Inline]:
    """A worker in the calling thread, in a block: its connection, its transaction.

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
    """Automatic delivery, unless a block around this one, or inside it, runs the tasks."""
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
