"""``celery_worker``: a worker in a thread of this process."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from celery import states
from celery.utils.text import str_to_list

from pytest_djcelery.api.app import check_visible_to_workers, eager_mode_off, runner_set
from pytest_djcelery.messages.events import StateStored
from pytest_djcelery.project.consumed_queues import is_routed_to, named, of_project
from pytest_djcelery.recording import batches
from pytest_djcelery.recording.result_waits import WaitTimeoutError
from pytest_djcelery.session.opening import entered, entered_sandbox
from pytest_djcelery.session.runner import Runner
from pytest_djcelery.session.session import current_session
from pytest_djcelery.workers.embedded import thread_reuse
from pytest_djcelery.workers.embedded.embedded_worker import WorkerSettings
from pytest_djcelery.workers.unfinished import (
    check_worker,
    check_worker_unless_reported,
    reported_situation,
)

if TYPE_CHECKING:
    from celery import Celery

    from pytest_djcelery.messages.sent_task import SentTask
    from pytest_djcelery.project.consumed_queues import ConsumedQueues
    from pytest_djcelery.session.sandbox import Sandbox
    from pytest_djcelery.workers.embedded.embedded_worker import EmbeddedWorker


class Worker(Runner):
    """A running embedded worker: a thread of this process, with the project's own app.

    The fixture ``celery_worker`` and the context manager `worker` give one. It takes messages as
    they are published; ``result.get()`` and ``celery_results`` wake when a task ends, and
    ``wait_until_idle()`` waits for all of them. Remote control works too.

    It also has every attribute of Celery's `WorkController` (``hostname``, ``consumer``, ``pool``,
    …).
    """

    name = "celery_worker"
    embedded: EmbeddedWorker
    consumed: ConsumedQueues

    def __init__(self, sandbox: Sandbox, settings: WorkerSettings) -> None:
        self._sandbox = sandbox
        self.settings = settings

    def wait_until_idle(self, timeout: float | None = None) -> None:
        """Wait until every message that is due has been run, but not for those with a later ETA.

        Args:
            timeout: Seconds to wait; by default the run's ``djcelery_timeout``.

        Raises:
            WaitTimeoutError: It is not idle in time; the text has the queues, what is running, and
                where in the code that is.
            WorkerError: The worker has ended, by itself or with messages left to run.
        """
        __tracebackhide__ = True
        seconds = self._sandbox.options.timeout if timeout is None else timeout
        idle = self._wait(seconds, batched_within=None)
        check_worker(self._sandbox, self.embedded)
        if not idle:
            lines = [
                f"celery_worker is not idle after {seconds:g} s.",
                *batches.described(batches.holding(self._sandbox.app)),
                self.situation(),
            ]
            raise WaitTimeoutError("\n".join(lines))
        self._sandbox.unconsumed.waited()

    def settle(self) -> None:
        """Wait until everything due has run, up to the timeout.

        Raises:
            WorkerError: The worker has ended, and no error in the test has said so.
        """
        __tracebackhide__ = True
        timeout = self._sandbox.options.timeout
        self._wait(timeout, batched_within=timeout)
        check_worker_unless_reported(self._sandbox, self.embedded)

    def let_tasks_end(self) -> None:
        self._wait(self._sandbox.options.timeout, batched_within=None)

    def _wait(self, seconds: float, *, batched_within: float | None) -> bool:
        def idle() -> bool:
            held = batches.holding(self._sandbox.app, batched_within)
            return self.embedded.idle and not held

        return self._sandbox.journal.wait_until(idle, seconds)

    def consumes(self) -> ConsumedQueues:
        return self.consumed

    def receives(self, sent: SentTask) -> bool:
        if self.consumed.receives(sent):
            return True
        if "embedded" not in vars(self):  # it is about to start
            return False
        queues = self.embedded.queues  # remote control may have added to them
        return not queues or any(is_routed_to(queue, sent) for queue in queues)

    def deliver_again(self, task_id: str) -> None:
        self.embedded.deliver_again(task_id)

    def has_in_hand(self, task_id: str) -> bool:
        return self.embedded.has_in_hand(task_id)

    def wait_in_task(self, task_ids: Collection[str], timeout: float | None) -> None:
        __tracebackhide__ = True
        # Half the time that the test waits for this task, so that the test gets to see the error.
        seconds = self._sandbox.options.timeout / 2 if timeout is None else timeout
        journal, missing, seen = self._sandbox.journal, set(task_ids), 0

        def done() -> bool:
            nonlocal seen
            since, seen = seen, len(journal)  # before the look, since other threads go on
            stored = journal.events(StateStored, since)
            missing.difference_update(
                event.task_id for event in stored if event.state in states.READY_STATES
            )
            return not missing

        if not self.embedded.wait_in_task(journal, done, seconds):
            msg = f"A task waited {seconds:g} s for {', '.join(missing)}.\n{self.situation()}"
            raise WaitTimeoutError(msg)

    @property
    def has_ended(self) -> bool:
        return not self.embedded.alive

    def situation(self) -> str:
        """Worker, queues and running tasks, in words."""
        return reported_situation(self, self.embedded)

    def reload(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: this worker knows each task as soon as it is registered.

        It exists for tests written for `celery.contrib.pytest`, whose worker has to reload.
        """

    def __getattr__(self, name: str) -> Any:
        if name == "embedded":
            raise AttributeError(name)
        return getattr(self.embedded.controller, name)

    def __repr__(self) -> str:
        return f"<celery_worker {self.embedded.controller!r}>"


class SessionWorker:
    """The embedded worker of the whole run.

    In a test that asks for it, it is that test's worker, with everything that `Worker` has.
    """

    def __init__(self, settings: WorkerSettings, consumed: ConsumedQueues) -> None:
        self._settings = settings
        self._consumed = consumed
        self._here: Worker | None = None

    @contextmanager
    def in_test(self) -> Iterator[Worker]:
        """Within the ``with``, have the worker run the messages of the running test."""
        with (
            entered_sandbox() as sandbox,
            running_worker(sandbox, self._settings, self._consumed) as worker,
        ):
            self._here = worker
            try:
                yield worker
            finally:
                self._here = None

    def __getattr__(self, name: str) -> Any:
        if self._here is None:
            return getattr(thread_reuse.kept_controller(), name)
        return getattr(self._here, name)


@entered
def worker(  # noqa: PLR0913 - all that `celery.contrib.pytest` lets a conftest.py choose
    *,
    pool: Any = "solo",
    concurrency: int = 1,
    parameters: Mapping[str, Any] | None = None,
    includes: Sequence[str] = (),
    class_tasks: Sequence[Any] = (),
    logging: bool = False,
) -> Iterator[Worker]:
    """Have a thread of this process run the tasks of a part of a test; see `Worker`.

    Args:
        pool: ``"solo"`` or ``"threads"``.
        concurrency: The number of threads of a ``"threads"`` pool.
        parameters: Keyword arguments for Celery's `WorkController`, such as ``queues``.
        includes: Modules to import first.
        class_tasks: Class-based tasks to register first.
        logging: Whether to set up Celery's logging, which replaces the handlers of the root logger.

    Raises:
        BadOptionError: The pool can't be embedded.
        FixtureConflictError: Another way to run tasks is in use, or the test is in a transaction
            whose rows no worker can see.
        WorkerError: It doesn't start, or a task still runs when the time for it is over.
        AppNotFoundError: The project has no app.
    """
    settings = _worker_settings(pool, concurrency, parameters, logging=logging)
    with entered_sandbox() as sandbox:
        _prepare(sandbox.app, includes, class_tasks)
        settings = _consuming(settings, sandbox.consumed)
        with running_worker(sandbox, settings, sandbox.consumed) as running:
            yield running


@contextmanager
def running_worker(
    sandbox: Sandbox, settings: WorkerSettings, consumed: ConsumedQueues
) -> Iterator[Worker]:
    """Within the ``with``, have an embedded worker run the messages of ``sandbox``.

    Args:
        sandbox: The sandbox of the test.
        settings: How to build the worker.
        consumed: The queues of production's workers, which it consumes if the settings name none.
    """
    if isinstance(sandbox.runner, Worker) and sandbox.runner.settings == settings:
        yield sandbox.runner  # celery_worker beside celery_session_worker: there is one
        return
    runner = Worker(sandbox, settings)
    runner.consumed = _consumed_by(sandbox.app, settings, consumed)
    with ExitStack() as stack:
        stack.enter_context(runner_set(sandbox, runner))
        check_visible_to_workers(runner.name)
        stack.enter_context(eager_mode_off(sandbox))
        runner.embedded = stack.enter_context(thread_reuse.embedded_worker_for(sandbox, settings))
        yield runner


@entered
def session_worker(  # noqa: PLR0913 - as for `worker`
    *,
    pool: Any = "solo",
    concurrency: int = 1,
    parameters: Mapping[str, Any] | None = None,
    includes: Sequence[str] = (),
    class_tasks: Sequence[Any] = (),
    logging: bool = False,
) -> Iterator[SessionWorker]:
    """Have one embedded worker for a whole session, which also runs what session fixtures send.

    The fixture ``celery_session_worker`` does this. The arguments are those of `worker`.

    Raises:
        BadOptionError: The pool can't be embedded.
        WorkerError: It doesn't start or stop.
        AppNotFoundError: The project has no app.
    """
    session = current_session()
    settings = _worker_settings(pool, concurrency, parameters, logging=logging)
    project = session.use_project()
    _prepare(project.app, includes, class_tasks)
    with session.app_isolated(project):
        consumed = of_project(project.app, session.options.queues)
        settings = _consuming(settings, consumed)
        thread_reuse.start(project, settings, wake=lambda: None)
        thread_reuse.keep_for_session()
        try:
            yield SessionWorker(settings, consumed)
        finally:
            thread_reuse.stop()


def _worker_settings(
    pool: Any,
    concurrency: int,
    parameters: Mapping[str, Any] | None,
    *,
    logging: bool,
) -> WorkerSettings:
    return WorkerSettings(
        pool=pool, concurrency=concurrency, parameters=dict(parameters or {}), logging=logging
    )


def _consuming(settings: WorkerSettings, consumed: ConsumedQueues) -> WorkerSettings:
    """Settings for production's queues, unless a conftest.py says otherwise."""
    if consumed.stock or "queues" in settings.parameters:
        return settings
    return replace(settings, queues=tuple(consumed.shown))


def _consumed_by(app: Celery, settings: WorkerSettings, consumed: ConsumedQueues) -> ConsumedQueues:
    parameters = settings.parameters
    excluded = set(str_to_list(parameters.get("exclude_queues")) or ())
    if "queues" not in parameters and not excluded:
        return consumed
    names = str_to_list(parameters.get("queues")) or consumed.shown
    kept = [name for name in names if name not in excluded]
    return named(app, kept, "the queues of celery_worker_parameters")


def _prepare(app: Celery, includes: Sequence[str], class_tasks: Sequence[Any]) -> None:
    for module in includes:
        app.loader.import_task_module(module)
    for task in class_tasks:
        kind = task if isinstance(task, type) else type(task)
        name = task.name or app.gen_task_name(kind.__name__, kind.__module__)
        if type(app.tasks.get(name)) is not kind:  # otherwise an earlier worker has done so
            app.register_task(task)
