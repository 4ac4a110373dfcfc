"""The runs of `celery_inline`: one at a time, in a thread that may use the test's database."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from datetime import datetime, timedelta
from itertools import filterfalse
from typing import TYPE_CHECKING, Any, Final, cast

from celery import states
from kombu import Queue

from pytest_djcelery.brokers.memory import addresses
from pytest_djcelery.clock import Stretch
from pytest_djcelery.errors import BadOptionError, InlineError
from pytest_djcelery.messages.events import Looked, RaisedElsewhere, StateStored
from pytest_djcelery.project.derived import logs_listened_to
from pytest_djcelery.recording.failures import own_traceback
from pytest_djcelery.recording.result_waits import NeverReadyError
from pytest_djcelery.recording.task_threads import in_coroutine, in_task
from pytest_djcelery.workers.inline.coroutines import run_for_test
from pytest_djcelery.workers.inline.deliveries import Deliveries, SecondRuns
from pytest_djcelery.workers.inline.executions import Execution, Summary
from pytest_djcelery.workers.inline.inline_worker import InlineWorker
from pytest_djcelery.workers.inline.undelivered import Undelivered

if TYPE_CHECKING:
    from pytest_djcelery.brokers.memory.queues import Broker
    from pytest_djcelery.session.sandbox import Sandbox
    from pytest_djcelery.workers.inline.deliveries import Repeater


_NOTHING: Final = nullcontext()


class _BusyError(InlineError):
    """Another run is already under way."""


class Runs:
    """The inline worker of a test, which is built when it is first needed, and its runs.

    Args:
        sandbox: The sandbox of the test.
        repeater: Returns what decides which messages are run twice; ``None`` if none is.
    """

    def __init__(self, sandbox: Sandbox, repeater: Callable[[], Repeater | None]) -> None:
        self._sandbox = sandbox
        self._repeater = repeater
        self._clock = sandbox.clock
        self._thread = threading.current_thread()
        self._busy = threading.Lock()
        self._asked = False  # whether to deliver what was published since an automatic run began
        self._automatic = False  # whether a publish started the run that is under way
        self._building = threading.RLock()
        self._built: InlineWorker | None = None
        self._undelivered: Undelivered
        self._deliveries: Deliveries

    # The worker ---------------------------------------------------------------------------

    @contextmanager
    def possible(self) -> Iterator[None]:
        """Within the ``with``, have a worker as soon as one is needed.

        Raises:
            InlineError: The test has chosen another broker than the one in memory.
        """
        with (
            ExitStack() as self._stack,
            self._broker().callbacks_set(on_exchange=self._listen),
        ):
            yield

    @property
    def worker(self) -> InlineWorker:
        """The worker, which is built if it has not been."""
        if self._built is None:
            self._build()
        return cast("InlineWorker", self._built)

    @property
    def undelivered(self) -> Undelivered:
        """The messages that the worker has yet to deliver."""
        if self._built is None:
            self._build()
        return self._undelivered

    @property
    def is_built(self) -> bool:
        """Whether anything has needed the worker: many tests send nothing."""
        return self._built is not None

    def _build(self) -> None:
        with self._building, self._broker().callbacks_set(on_exchange=_start_no_other):
            if self._built is not None:
                return
            worker = InlineWorker(self._sandbox, self._broker())
            self._undelivered = Undelivered(worker, worker.origins)
            self._deliveries = Deliveries(
                worker,
                self._sandbox.journal,
                self._sandbox.watch,
                SecondRuns(worker, self._repeater),
            )
            self._version = self._version_of_now()
            worker.limits.follow(self._sandbox.app)
            self._built = self._stack.enter_context(worker.started())

    def _listen(self) -> None:
        """Have the worker listen, before a message goes to an exchange: remote control sends so."""
        with self._building, self._broker().callbacks_set(on_exchange=_start_no_other):
            self._build()
            self.worker.listen()
        self._broker().on_exchange = _start_no_other

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

    def _follow_configuration(self) -> None:
        __tracebackhide__ = True
        worker = self.worker
        # A tracer checks once, when it is built, whether anything listens to a worker's log.
        version = self._version_of_now()
        if version != self._version:
            self._broker()
            worker.limits.follow(self._sandbox.app)
            worker.read_configuration()
            self._version = version

    def _version_of_now(self) -> tuple[Any, ...]:
        """The version of everything that the worker read when it was built."""
        options = self._sandbox.options
        return self._sandbox.project.configuration.version, logs_listened_to(), options.queues

    # Runs that the test asks for ----------------------------------------------------------

    def run(
        self,
        *,
        queues: Iterable[str | Queue] | None = None,
        limit: int | None = None,
        until: timedelta | datetime | None = None,
        raise_failures: bool,
    ) -> Summary:
        """See `Inline.run`."""
        __tracebackhide__ = True
        takes = self._takes(queues)
        stretch = None if until is None else Stretch(self._clock, until)
        _check_limit(limit)
        executions: list[Execution] = []
        with self._one_run(moves_clock=stretch is not None):
            if stretch is not None:
                stretch.begin()
            for ended in self._deliveries.executions(takes, stretch, limit):
                executions += ended
                failed = [
                    execution for execution in ended if execution.failed and execution.counted
                ]
                if raise_failures and failed:
                    self._raise(failed)
            if stretch is not None and (limit is None or len(executions) < limit):
                stretch.finish()
        scheduled = self.undelivered.count_later(self._clock.now())
        return Summary(executions, scheduled=scheduled, looked=self._looked)

    def step(self) -> Execution | None:
        """See `Inline.step`."""
        __tracebackhide__ = True
        with self._one_run():
            execution = self._deliveries.one(self.worker.takes)
        if execution is not None and execution.failed:
            self._looked(execution)
        return execution

    def next_eta(self) -> datetime | None:
        """The earliest ETA of the messages that have been received and wait."""
        takes = self.worker.takes
        return self._deliveries.next_eta(takes)

    def _takes(self, queues: Iterable[str | Queue] | None) -> Callable[[str], bool]:
        if queues is None:
            return self.worker.takes
        if isinstance(queues, (str, Queue)):
            queues = [queues]
        consumed = self._sandbox.consumed
        declared = dict(zip(consumed.shown, (queue.name for queue in consumed.queues), strict=True))
        given = {queue.name if isinstance(queue, Queue) else queue for queue in queues}
        names = {declared.get(name, name) for name in given}
        unknown = sorted(map(str, filterfalse(self.worker.takes, names)))
        if unknown:
            missing = ", ".join(map(repr, unknown))
            known = ", ".join(sorted(consumed.shown))
            if names <= {*consumed.names, *self.worker.broker.queues}:
                why = f"no worker consumes {missing}. Workers consume: {known} ({consumed.source})"
                why += ".\nIf one of production does, say so: djcelery_queues, or celery_queues"
            else:
                why = f"no queue {missing} is declared. There are: {known}"
            msg = f"queues: {why}."
            raise BadOptionError(msg)
        return names.__contains__

    def _raise(self, failed: Sequence[Execution]) -> None:
        """Raise the last failure: its task may have waited for the others, and know of theirs."""
        __tracebackhide__ = True
        execution = failed[-1]
        error: Any = execution.exception
        ids = [failure.id for failure in failed]
        if self._automatic:
            # It is raised within the project's code, which may catch it before the test sees it.
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

    # Runs after a publish -----------------------------------------------------------------

    def run_after_publish(self) -> None:
        """Deliver what is due, in a thread that may use the test's database."""
        __tracebackhide__ = True
        self._asked = True  # set first: a run in another thread checks it at its very end
        if self._busy.locked():
            return
        run_for_test(
            self._run_as_asked,
            home=self._thread,
            timeout=self._sandbox.options.timeout,
            progress=self._sandbox.journal.__len__,
        )

    def _run_as_asked(self) -> None:
        __tracebackhide__ = True
        raises = bool(self._sandbox.app.conf.task_eager_propagates)
        while self._asked:
            self._asked = False
            before, self._automatic = self._automatic, True
            try:
                self.run(raise_failures=raises)
            except _BusyError:  # with what another request has published; that run checks again
                self._asked = True
                return
            finally:
                self._automatic = before

    # Runs to get a result -----------------------------------------------------------------

    def run_until(self, done: Callable[[], bool]) -> None:
        """Deliver until ``done()`` or nothing is due."""
        __tracebackhide__ = True
        if done():
            return
        with self._one_run():
            for _ in self._deliveries.executions(self.worker.takes, None, None):
                if done():
                    return

    def run_until_stored(
        self, task_ids: Collection[str], why_never_ready: Callable[[str], str], *, for_task: bool
    ) -> None:
        """Deliver until the results of all these are stored.

        Args:
            task_ids: The ids of their tasks.
            why_never_ready: Says why a task has no result, now that nothing is due.
            for_task: Whether a task waits for them, as one process waits for another.

        Raises:
            NeverReadyError: Nothing that is due will make one of them ready.
        """
        __tracebackhide__ = True
        journal = self._sandbox.journal
        waiting = {task_id for task_id in task_ids if not self._is_stored(task_id)}
        seen = len(journal)

        def ready() -> bool:
            nonlocal seen
            stored, seen = journal.events(StateStored, seen), len(journal)
            waiting.difference_update(
                event.task_id for event in stored if event.state in states.READY_STATES
            )
            return not waiting

        deliver_until = self._deliveries.inside_until if for_task else self.run_until
        deliver_until(ready)
        still = [
            task_id for task_id in task_ids if task_id in waiting and not self._is_stored(task_id)
        ]
        if still:
            raise NeverReadyError("\n".join(map(why_never_ready, still)))

    def _is_stored(self, task_id: str) -> bool:
        # When a result object is collected, it would end the subscription that the wait needs.
        meta = self._sandbox.app.backend.get_task_meta(task_id)
        return meta["status"] in states.READY_STATES

    # One at a time ------------------------------------------------------------------------

    @contextmanager
    def _one_run(self, *, moves_clock: bool = False) -> Iterator[None]:
        """Enter around a run, to deliver like a worker, without the test's transactions."""
        __tracebackhide__ = True
        # A task that is run twice sees the same time twice.
        options = self._sandbox.options
        stands_still = not moves_clock and self._repeater() is not None
        with (
            self.exclusive(),
            self._clock.stopped(at_most=options.timeout) if stands_still else _NOTHING,
            self._sandbox.watch.autocommit(),
            self.worker.delivering(),
        ):
            yield

    def exclusive(self) -> AbstractContextManager[None]:
        """Within the ``with``, refuse every other run.

        Raises:
            InlineError: Inside a task, in a coroutine, or while another run is under way.
        """
        return _Exclusive(self._busy, self._follow_configuration)


class _Exclusive:
    """See `Runs.exclusive`; entered for each run, and so without a generator."""

    def __init__(self, busy: threading.Lock, begin: Callable[[], None]) -> None:
        self._busy = busy
        self._begin = begin

    def __enter__(self) -> None:
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
            self._begin()
        except BaseException:
            self._busy.release()
            raise

    def __exit__(self, *_: object) -> None:
        self._busy.release()


def _start_no_other() -> None:
    """Do nothing: what the worker sends while it is built must not start a second one."""


def _check_limit(limit: object) -> None:
    if limit is not None and (not isinstance(limit, int) or limit < 0):
        msg = f"limit={limit!r}: expected how many messages to deliver at most, or None."
        raise BadOptionError(msg)
