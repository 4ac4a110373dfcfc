"""One test: its journal, its clean broker and backend, and what runs its messages."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Container, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from pytest_djcelery import options as options_module
from pytest_djcelery.clock import Clock, real_time_offset
from pytest_djcelery.errors import (
    NotIdempotentError,
    SentInTransactionError,
    UnhandledTaskFailureError,
    UnhandledTaskFailureWarning,
)
from pytest_djcelery.messages.journal import Journal
from pytest_djcelery.project import consumed_queues, registry
from pytest_djcelery.project.configuration import settings_writes_applied
from pytest_djcelery.project.derived import queues_restored
from pytest_djcelery.project.finding import current_app_set
from pytest_djcelery.recording import failures, second_runs
from pytest_djcelery.recording.publishing import PublishRecorder
from pytest_djcelery.recording.result_waits import Waits
from pytest_djcelery.recording.unconsumed import Unconsumed
from pytest_djcelery.session.runner import kept_topology, park_all
from pytest_djcelery.transactions import sent_in_transaction
from pytest_djcelery.transactions.connections import in_testcase, opened_connections
from pytest_djcelery.transactions.watch import TransactionWatch

if TYPE_CHECKING:
    from celery import Celery

    from pytest_djcelery.messages.events import Ended, RaceRaised, RanTwice
    from pytest_djcelery.messages.sent_task import SentTask
    from pytest_djcelery.options import Options
    from pytest_djcelery.project.consumed_queues import ConsumedQueues
    from pytest_djcelery.project.isolation import Project
    from pytest_djcelery.recording.task_surroundings import Surroundings
    from pytest_djcelery.session.runner import Runner
    from pytest_djcelery.session.standing_patches import SandboxPatches
    from pytest_djcelery.transactions.captures import Captures


class Run(Protocol):
    """The run of pytest, as far as a sandbox needs it."""

    suite: Container[str]  # the files of the tests
    surroundings: Surroundings  # of its tasks
    captures: Captures

    def is_in_example(self) -> bool:
        """Whether this thread runs an example of a test with Hypothesis's `@given`."""


class Sandbox:
    """What belongs to one test: what it has recorded, and what it may use."""

    def __init__(
        self,
        project: Project,
        options: Options,
        run: Run,
    ) -> None:
        self.project = project
        self.options = options
        self.suite = run.suite
        self.surroundings = run.surroundings
        self._captures = run.captures
        self.journal = Journal()
        self.real_time = real_time_offset()
        # Positions in the journal, for a block that is wider than a test, such as a class's.
        self.began = 0  # where the running test began
        self.reported = 0  # up to where unseen failures have been reported
        self.outcomes_kept: set[str] = set()  # ids of tasks whose state is not to be changed now
        self.runner: Runner | None = None
        #: Called once tasks are done, at the end of a test that has passed; each may fail it.
        self.last_checks: list[Callable[[], None]] = []
        self._consumed: tuple[Any, ConsumedQueues] | None = None
        self.unconsumed = Unconsumed(self.journal, self._consumed_by_runner, self._receives)
        self.watch: TransactionWatch
        self.test: Any = None  # pytest's item, if a fixture of it uses the sandbox
        self._found: tuple[object, ...] = ()  # when it was new
        self._in_example = run.is_in_example
        self._of_example = run.is_in_example()
        self._shared = 0  # by how many blocks

    @property
    def app(self) -> Celery:
        """The project's app."""
        return self.project.app

    @cached_property
    def clock(self) -> Clock:
        """The clock of the test."""
        return Clock()

    @property
    def consumed(self) -> ConsumedQueues:
        """The queues that production's workers consume, by the current options and settings."""
        key = self.project.configuration.version, self.options.queues
        if self._consumed is None or self._consumed[0] != key:
            self._consumed = key, self.project.consumed(self.options.queues)
        return self._consumed[1]

    def check_queues(self) -> None:
        """Check the queues in ``djcelery_queues`` or its marker before a worker uses them.

        Raises:
            BadOptionError: The app doesn't declare one of them, and must not create it.
        """
        __tracebackhide__ = True
        if self.options.queues:
            consumed_queues.check(self.app, self.options.queues)

    def _consumed_by_runner(self) -> ConsumedQueues | None:
        return None if self.runner is None else self.runner.consumes()

    def _receives(self, sent: SentTask) -> bool:
        return self.runner is None or self.runner.receives(sent)

    def situation(self) -> str:
        """Why nothing came, as far as is known."""
        if self.runner is not None:
            return self.runner.situation()
        depths = self.project.broker.depths() if self.project.broker else {}
        waiting = ", ".join(f"{count} in {queue!r}" for queue, count in depths.items()) or "none"
        return (
            "No worker runs in this test (messages in queues: "
            f"{waiting}). Ask for celery_inline or celery_worker to have tasks run."
        )

    def worker_has_ended(self) -> bool:
        """Whether there was a worker that will no longer run anything."""
        return self.runner is not None and self.runner.has_ended

    @property
    def runs_in_test_thread(self) -> bool:
        """Whether the test, or a block around it, has chosen to run messages in its own thread."""
        runner = self.runner
        return runner is not None and runner.in_place and not runner.implicit

    @property
    def is_automatic(self) -> bool:
        """Whether messages are delivered automatically, since nothing else runs them."""
        return self.runner is not None and self.runner.implicit

    def settle(self) -> None:
        """Wait until the runner of this test's messages has nothing left to do."""
        if self.runner is not None:
            self.runner.settle()

    def unhandled_failures(self) -> list[Ended]:
        """Task failures that the test never looked at."""
        return failures.unhandled(self.journal, self.suite, since=self.reported)

    def check_failures(self) -> None:
        """Raise or warn, as the options say, if tasks failed unseen.

        Raises:
            SentInTransactionError: The code under test has caught an error of that kind.
            UnhandledTaskFailureError: A task failed; the cause is the first task's own exception.
            NotIdempotentError: A task is not safe to run twice.
        """
        __tracebackhide__ = True
        self.settle()
        self._check_failures()
        if found := self.not_idempotent():
            raise NotIdempotentError(second_runs.text(found))

    def not_idempotent(self) -> list[RanTwice]:
        """The messages whose second run made a difference, if the options call that an error."""
        if self.options.redeliver != "error":
            return []
        return second_runs.different(self.journal, since=self.reported)

    def _check_failures(self) -> None:
        if caught := self.swallowed_races():
            raise SentInTransactionError(sent_in_transaction.swallowed_text(caught)) from caught[
                0
            ].error
        self.unconsumed.test_ends()
        found = self.unhandled_failures()
        policy = self.options.unhandled_failures
        if not found or policy == "ignore":
            return
        text = failures.text(found, self.journal)
        if policy == "warn":
            warnings.warn(text, UnhandledTaskFailureWarning, stacklevel=2)
            return
        error = found[0].value
        cause = error.with_traceback(failures.own_traceback(error))
        raise UnhandledTaskFailureError(text) from cause

    def worker_end_is_explained(self) -> None:
        """Note that an error the test sees already says why the worker is about to end."""
        if self.runner is not None:
            self.runner.end_reported = True

    def swallowed_races(self) -> list[RaceRaised]:
        """Errors about messages sent inside a transaction that the test never saw."""
        return sent_in_transaction.swallowed_races(self.journal, since=self.reported)

    @contextmanager
    def used_by(self, test: object) -> Iterator[None]:
        """Within the ``with``, be the sandbox of one test's fixtures.

        Args:
            test: pytest's item.
        """
        before, self.test = self.test, test
        try:
            with self.shared_by_block():
                yield
        finally:
            self.test = before

    @contextmanager
    def shared_by_block(self) -> Iterator[Sandbox]:
        """Within the ``with``, another block, such as a fixture's, uses it too."""
        self._shared += 1
        try:
            yield self
        finally:
            self._shared -= 1

    @property
    def is_shared(self) -> bool:
        """Whether another block uses it now."""
        return self._shared > 0

    @property
    def reusable(self) -> bool:
        """Whether the next test can use it as it is: no test has touched Celery since `is_new`.

        It is also reused while a block that is wider than a test shares it.
        """
        return self.is_shared or (not len(self.journal) and self._fingerprint() == self._found)

    def is_new(self) -> None:
        """Note that no test has touched Celery in it yet."""
        self._found = self._fingerprint()

    def _fingerprint(self) -> tuple[object, ...]:
        """What a test may change without an event in the journal."""
        app = self.app
        return (
            self.project.configuration.version,
            dict(app.tasks),
            dict(app.amqp.queues),
            self.project.pristine,
            "clock" in vars(self) and self.clock.moved,
        )

    def test_begins(self) -> None:
        """Leave what is in the journal to earlier tests, in a block that is wider than a test."""
        self.began = self.reported = len(self.journal)
        self.unconsumed.test_begins()

    def test_ended(self) -> None:
        """Leave the failures so far to the test that has ended, not to the next one."""
        self.reported = len(self.journal)

    @contextmanager
    def options_changed(self, **changes: Any) -> Iterator[Sandbox]:
        """Give one test in a wider block its own options, and undo its changes of settings."""
        self.began = len(self.journal)  # what wider fixtures have sent is not this test's
        before, self.options = self.options, options_module.replace(self.options, **changes)
        try:
            with settings_writes_applied(self.project.configurations):
                yield self
        finally:
            self.options = before

    @contextmanager
    def recording(self, patches: SandboxPatches) -> Iterator[None]:
        """Within the ``with``, record what happens and keep it from other tests.

        Args:
            patches: They are on, and serve no other sandbox.
        """
        self.watch = TransactionWatch(
            self.journal,
            policy=lambda: self.options.sent_in_transaction,
            captures=self._captures,
            current=patches.watch,
        )
        self.watch.after_blocks = self._published
        waits = Waits(self, knows=self.project.knows, timeout=self.options.timeout)
        recorder = PublishRecorder(
            app=self.app,
            watch=self.watch,
            journal=self.journal,
            surroundings=self.surroundings,
            sent=self.unconsumed.published,
            published=self._published,
        )
        with ExitStack() as stack:
            stack.callback(self._put_clock_back)
            stack.enter_context(current_app_set(self.app))
            stack.enter_context(self._queues_and_results_emptied())
            stack.enter_context(patches.settings_written())
            stack.enter_context(self.watch)
            stack.enter_context(
                patches.recording(self.journal, recorder, waits, self.outcomes_kept)
            )
            yield

    @property
    def awaits_example(self) -> bool:
        """Whether the block that is entered next is an example of Hypothesis's `@given`.

        It is not if the test has chosen what runs its tasks: all examples are then one test.
        """
        chosen = self.runner is not None and not self.runner.implicit
        return self._in_example() and not self._of_example and not chosen

    @contextmanager
    def new_example(self) -> Iterator[Sandbox]:
        """Begin an example of a Hypothesis test, in its sandbox but as clean as a separate test."""
        self._of_example = True
        try:
            with ExitStack() as stack:
                stack.enter_context(rolled_back_example())
                stack.enter_context(self.journal.emptied())
                for tidy_up in (self._put_clock_back, self._drop_scheduled):
                    tidy_up()
                    stack.callback(tidy_up)
                stack.enter_context(self._queues_and_results_emptied())
                stack.enter_context(settings_writes_applied(self.project.configurations))
                yield self
        finally:
            self._of_example = False

    def _drop_scheduled(self) -> None:
        if self.runner is not None:
            self.runner.drop_scheduled()

    @contextmanager
    def _queues_and_results_emptied(self) -> Iterator[None]:
        """Start with empty queues and no results, and leave the configuration as it was."""
        configuration = self.project.configuration
        park_all()
        self.project.empty(kept_topology())
        broker = self.project.broker
        waking = broker.callbacks_set(on_delivered=self.journal.wake) if broker else nullcontext()
        before = configuration.snapshot()
        try:
            with (
                waking,
                queues_restored(self.app),
                self.project.others.queues_restored(),
                registry.tasks_restored(self.app),
            ):
                yield
        finally:
            configuration.restore(before)
            self.project.empty(kept_topology())

    def _put_clock_back(self) -> None:
        if "clock" in vars(self):
            self.clock.put_back()

    def _published(self) -> None:
        __tracebackhide__ = True
        if self.runner is not None:
            self.runner.published()

    def bring_about(self, task_ids: Collection[str]) -> bool:
        """Make these results ready, unless that happens by itself; return whether it did."""
        __tracebackhide__ = True
        return self.runner is not None and self.runner.bring_about(task_ids)

    def wait_in_task(self, task_ids: Collection[str], timeout: float | None) -> None:
        """Wait for these results in a task that Celery lets wait, if that needs help."""
        __tracebackhide__ = True
        if self.runner is not None:
            self.runner.wait_in_task(task_ids, timeout)

    def has_in_hand(self, task_id: str) -> bool:
        """Whether a worker is still busy with a task."""
        return self.runner is not None and self.runner.has_in_hand(task_id)


@contextmanager
def rolled_back_example() -> Iterator[None]:
    """Give an example of a Hypothesis test a separate transaction inside the test's."""
    from django.db import transaction

    with ExitStack() as stack:
        for connection in opened_connections():
            if in_testcase(connection):
                of_example: Any = transaction.atomic(using=connection.alias)
                of_example._from_testcase = True  # it stands for the transaction of a test
                stack.enter_context(of_example)
                stack.callback(transaction.set_rollback, rollback=True, using=connection.alias)
        yield
