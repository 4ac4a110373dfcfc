"""The public context managers. Behind each fixture stands one, named without ``celery_``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_djcelery.errors import FixtureConflictError
from pytest_djcelery.messages import unittest_failures
from pytest_djcelery.session.opening import entered
from pytest_djcelery.session.session import current_session

if TYPE_CHECKING:
    from celery import Celery

    from pytest_djcelery.api.beat import Beat
    from pytest_djcelery.api.inline import Inline
    from pytest_djcelery.api.live_worker import LiveWorker
    from pytest_djcelery.api.on_commit import OnCommit
    from pytest_djcelery.api.outbox import Outbox
    from pytest_djcelery.api.results import Results
    from pytest_djcelery.api.worker import SessionWorker, Worker
    from pytest_djcelery.project.consumed_queues import ConsumedQueues
    from pytest_djcelery.session.runner import Runner
    from pytest_djcelery.session.sandbox import Sandbox
    from pytest_djcelery.workers.embedded.embedded_worker import WorkerSettings


def _explained(op: str, left: object, right: object) -> list[str] | None:
    from pytest_djcelery.reporting import comparisons, outcome_comparisons

    return comparisons.compare(op, left, right) or outcome_comparisons.compare(op, left, right)


unittest_failures.explain_with(_explained)


@contextmanager
def app(**conf: Any) -> Iterator[Celery]:
    """The project's own app, with settings of Celery changed for the time of the block.

    Args:
        **conf: any of Celery's settings, in lower case (``task_acks_late=True``).

    Raises:
        AppNotFoundError: when the project has none.
        BadOptionError: for a setting that Celery doesn't have.
    """
    with entered() as sandbox, sandbox.project.configuration.insist(**conf):
        yield sandbox.app


@contextmanager
def outbox(*, whole_test: bool = False) -> Iterator[Outbox]:
    """Every message published in the block, in the order in which they were sent.

    Args:
        whole_test: show those that the test published before the block, too.
    """
    from pytest_djcelery.api.outbox import Outbox

    with entered() as sandbox:
        yield Outbox(
            sandbox.journal,
            since=sandbox.began if whole_test else len(sandbox.journal),
            timeout=sandbox.options.timeout,
            situation=sandbox.situation,
        )


@contextmanager
def on_commit(*, whole_test: bool = False) -> Iterator[OnCommit]:
    """The on_commit hooks registered in the block; they run when production would run them.

    Args:
        whole_test: show those that the test registered before the block, too.
    """
    from pytest_djcelery.api.on_commit import OnCommit

    with entered() as sandbox:
        yield OnCommit(
            sandbox.journal,
            sandbox.watch,
            since=sandbox.began if whole_test else len(sandbox.journal),
        )


@contextmanager
def eager(*, propagates: bool | None = None) -> Iterator[Celery]:
    """Celery's eager mode for the time of the block, with results that can be read back.

    Args:
        propagates: whether a failing task raises at the call (``task_eager_propagates``);
            ``None`` leaves that to the project's settings. Handlers and errbacks come first
            either way.

    Raises:
        FixtureConflictError: while a worker runs.
    """
    from pytest_djcelery.workers.database import other_threads_watched
    from pytest_djcelery.workers.eager import EagerRunner

    values = {"task_always_eager": True, "task_store_eager_result": True}
    if propagates is not None:
        values["task_eager_propagates"] = propagates
    with (
        entered() as sandbox,
        _runs(
            sandbox, sandbox.runner if isinstance(sandbox.runner, EagerRunner) else EagerRunner()
        ),
        sandbox.project.configuration.insist(**values),
        other_threads_watched(),
    ):
        yield sandbox.app


@contextmanager
def worker(  # noqa: PLR0913 - all that `celery.contrib.pytest` lets a conftest say
    *,
    pool: Any = "solo",
    concurrency: int = 1,
    parameters: Mapping[str, Any] | None = None,
    includes: Sequence[str] = (),
    class_tasks: Sequence[Any] = (),
    logging: bool = False,
) -> Iterator[Worker]:
    """An embedded worker for the time of the block: a thread of this process.

    Args:
        pool: ``"solo"`` or ``"threads"``.
        concurrency: threads of a ``"threads"`` pool.
        parameters: keyword arguments for Celery's `WorkController`, such as ``queues``.
        includes: modules to import first.
        class_tasks: class-based tasks to register first.
        logging: set up Celery's logging, which replaces the root handlers.

    Raises:
        FixtureConflictError: beside another way to run tasks, or in a transaction whose rows
            no worker can see.
        WorkerError: when it doesn't start, or a task still runs when its time is over.
    """
    settings = _worker_settings(pool, concurrency, parameters, logging=logging)
    with entered() as sandbox:
        _prepare(sandbox.app, includes, class_tasks)
        settings = _consuming(settings, sandbox.consumed)
        with running_worker(sandbox, settings, sandbox.consumed) as running:
            yield running


@contextmanager
def running_worker(
    sandbox: Sandbox, settings: WorkerSettings, consumed: ConsumedQueues
) -> Iterator[Worker]:
    """Let an embedded worker run the messages of ``sandbox``.

    Args:
        sandbox: of the test.
        settings: how to build the worker.
        consumed: the queues of production's workers, which it has where the settings name none.
    """
    from pytest_djcelery.api.worker import Worker
    from pytest_djcelery.workers.embedded import reuse as lease

    if isinstance(sandbox.runner, Worker) and sandbox.runner.settings == settings:
        yield sandbox.runner  # celery_worker beside celery_session_worker: there is one
        return
    runner = Worker(sandbox, settings)
    runner.consumed = _consumed_by(sandbox.app, settings, consumed)
    with ExitStack() as stack:
        stack.enter_context(_runs(sandbox, runner))
        _check_visible_to_workers(runner.name)
        stack.enter_context(_not_eager(sandbox))
        runner.embedded = stack.enter_context(lease.lent(sandbox, settings))
        yield runner


@contextmanager
def live_worker(
    *,
    pool: str | None = None,
    concurrency: int | None = None,
    queues: Sequence[str] | None = None,
    loglevel: str | None = None,
) -> Iterator[LiveWorker]:
    """``celery -A proj worker`` in processes of its own, for the time of the block.

    What is not given is as ``djcelery_live_…`` say. The processes may serve the next block that
    wants the same; they end with the run.

    Args:
        pool: ``"prefork"``, ``"threads"`` or ``"solo"``.
        concurrency: child processes, or threads.
        queues: to consume from; those that production's workers consume when empty.
        loglevel: of the worker's log.

    Raises:
        BadOptionError: for a value that Celery's command line doesn't take.
        FixtureConflictError: beside another way to run tasks, or in a transaction whose rows
            no worker can see.
        WorkerError: when it doesn't start, or can't open the test's databases; when a task
            still runs when its time is over.
    """
    from pytest_djcelery.api.live_worker import LiveWorker
    from pytest_djcelery.project.consumed_queues import named
    from pytest_djcelery.workers.live import live_reuse as live
    from pytest_djcelery.workers.live.processes import LiveSettings

    with entered() as sandbox:
        settings = LiveSettings.chosen(
            sandbox.options, pool=pool, concurrency=concurrency, queues=queues, loglevel=loglevel
        )
        consumed = sandbox.consumed
        if settings.queues:
            consumed = named(sandbox.app, settings.queues, "the queues of celery_live_worker")
        elif not consumed.stock:
            settings = replace(settings, queues=tuple(consumed.shown))
        running = sandbox.runner
        if isinstance(running, LiveWorker) and running.processes.settings == settings:
            yield running
            return
        runner = LiveWorker(sandbox)
        runner.consumed = consumed
        with ExitStack() as stack:
            stack.enter_context(_runs(sandbox, runner))
            _check_visible_to_workers(runner.name)
            stack.enter_context(_not_eager(sandbox))
            runner.processes = stack.enter_context(live.lent(sandbox, settings))
            _make_known(sandbox.app, consumed)
            yield runner


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
    from pytest_djcelery.api.inline import Inline

    with entered() as sandbox:
        running = sandbox.runner
        if isinstance(running, Inline) and not running.implicit and running.auto == auto:
            yield running  # a helper's block, in a test that has celery_inline already
            return
        with _delivering(sandbox, Inline(sandbox, auto=auto)) as runner:
            yield runner


@contextmanager
def automatic() -> Iterator[Sandbox]:
    """Automatic delivery where nothing else runs the tasks: a block around this one, or in it."""
    from pytest_djcelery.api.inline import Inline

    with entered(checks=False) as sandbox:
        if sandbox.runner is not None:
            yield sandbox
            return
        with _delivering(sandbox, Inline(sandbox, auto=True, implicit=True)):
            yield sandbox


@contextmanager
def _delivering(sandbox: Sandbox, runner: Inline) -> Iterator[Inline]:
    __tracebackhide__ = True
    with _runs(sandbox, runner), _not_eager(sandbox), sandbox.project.in_memory(), runner.started():
        yield runner


@contextmanager
def beat() -> Iterator[Beat]:
    """Beat, started with the block, on the test's clock.

    What it sends is delivered as the clock passes it where `inline` is in use.
    """
    from pytest_djcelery.api.beat import Beat

    with entered() as sandbox, Beat(sandbox).started() as beat:
        yield beat


@contextmanager
def session_app(
    *, config: Mapping[str, Any] | None = None, parameters: Mapping[str, Any] | None = None
) -> Iterator[Celery]:
    """The project's own app for the time of a session, with settings changed.

    Args:
        config: any of Celery's settings.
        parameters: arguments of `Celery` to apply to the app that exists.

    Raises:
        AppNotFoundError: when the project has none.
        BadOptionError: for a setting or parameter that the app doesn't have.
    """
    from pytest_djcelery.project.isolation import app_parameters

    session = current_session()
    project = session.use_project()
    with (
        # An audited run leaves the app alone, but in tests that use a fixture.
        nullcontext() if session.audit else session.isolated(project),
        app_parameters(project.app, dict(parameters or {})) as settings,
        project.configuration.override(**{**settings, **(config or {})}),
    ):
        yield project.app


@contextmanager
def configured_app(*, config: Mapping[str, Any], parameters: Mapping[str, Any]) -> Iterator[Celery]:
    """`session_app` for one test, whose class may have changed some of the settings already."""
    configuration = current_session().use_project().configuration
    with session_app(config=configuration.beneath_settings(config), parameters=parameters) as app:
        yield app


@contextmanager
def session_worker(  # noqa: PLR0913 - as for `worker`
    *,
    pool: Any = "solo",
    concurrency: int = 1,
    parameters: Mapping[str, Any] | None = None,
    includes: Sequence[str] = (),
    class_tasks: Sequence[Any] = (),
    logging: bool = False,
) -> Iterator[SessionWorker]:
    """One embedded worker for a whole session; arguments as for `worker`.

    Raises:
        WorkerError: when it doesn't start or stop.
    """
    from pytest_djcelery.api.worker import SessionWorker
    from pytest_djcelery.project.consumed_queues import of_project
    from pytest_djcelery.workers.embedded import reuse as lease

    session = current_session()
    settings = _worker_settings(pool, concurrency, parameters, logging=logging)
    project = session.use_project()
    _prepare(project.app, includes, class_tasks)
    with session.isolated(project):
        consumed = of_project(project.app, session.options.queues)
        settings = _consuming(settings, consumed)
        lease.started(project, settings, wake=lambda: None)
        lease.keep_for_session()
        try:
            yield SessionWorker(settings, consumed)
        finally:
            lease.stop()


def _worker_settings(
    pool: Any,
    concurrency: int,
    parameters: Mapping[str, Any] | None,
    *,
    logging: bool,
) -> WorkerSettings:
    from pytest_djcelery.workers.embedded.embedded_worker import WorkerSettings

    return WorkerSettings(
        pool=pool, concurrency=concurrency, parameters=dict(parameters or {}), logging=logging
    )


def _consuming(settings: WorkerSettings, consumed: ConsumedQueues) -> WorkerSettings:
    """A worker for the queues that production's workers consume, if no conftest says otherwise."""
    if consumed.stock or "queues" in settings.parameters:
        return settings
    return replace(settings, queues=tuple(consumed.shown))


def _make_known(app: Celery, consumed: ConsumedQueues) -> None:
    """Tell this process of the exchanges that the worker has declared, as a server would.

    kombu's brokers of files keep the types of exchanges in the process that declares them.
    """
    from pytest_djcelery.brokers import filesystem

    exchanges = [queue.exchange for queue in consumed.queues if queue.exchange.type != "direct"]
    if exchanges and app.conf.broker_transport == filesystem.TRANSPORT:
        with app.connection_for_write() as connection:
            for exchange in exchanges:
                exchange(connection.default_channel).declare()


def _consumed_by(app: Celery, settings: WorkerSettings, consumed: ConsumedQueues) -> ConsumedQueues:
    from celery.utils.text import str_to_list

    from pytest_djcelery.project.consumed_queues import named

    parameters = settings.parameters
    excluded = set(str_to_list(parameters.get("exclude_queues")) or ())
    if "queues" not in parameters and not excluded:
        return consumed
    names = str_to_list(parameters.get("queues")) or consumed.shown
    kept = [each for each in names if each not in excluded]
    return named(app, kept, "the queues of celery_worker_parameters")


def _prepare(app: Celery, includes: Sequence[str], class_tasks: Sequence[Any]) -> None:
    for module in includes:
        app.loader.import_task_module(module)
    for task in class_tasks:
        kind = task if isinstance(task, type) else type(task)
        name = task.name or app.gen_task_name(kind.__name__, kind.__module__)
        if type(app.tasks.get(name)) is not kind:  # else a worker before this one has
            app.register_task(task)


@contextmanager
def results() -> Iterator[Results]:
    """Outcomes of tasks, from whatever result backend is configured."""
    from pytest_djcelery.api.results import Results

    with entered() as sandbox:
        yield Results(sandbox)


@contextmanager
def _runs(sandbox: Sandbox, runner: Runner) -> Iterator[None]:
    """Let ``runner`` run this test's messages; there can be one only."""
    __tracebackhide__ = True
    before = sandbox.runner
    if before is not None and before is not runner and not before.implicit:
        what, remedy = (
            ("with other options than the one that", "give both the same options, or drop one")
            if runner.name == before.name
            else (f"while {before.name}", "keep the one you mean and drop the other")
        )
        msg = (
            f"{runner.name} was asked for {what} is in use.\n"
            f"A test has one way to run its tasks: {remedy}."
        )
        raise FixtureConflictError(msg)
    sandbox.check_queues()
    sandbox.runner = runner
    try:
        yield
    finally:
        sandbox.runner = before


@contextmanager
def _not_eager(sandbox: Sandbox) -> Iterator[None]:
    """A suite's settings are often eager; who asks for a worker means the worker."""
    with sandbox.project.configuration.insist(task_always_eager=False):
        yield


def _check_visible_to_workers(name: str) -> None:
    """Refuse a test whose rows stand in a transaction that is never committed."""
    from django.db import connections

    for connection in connections.all(initialized_only=True):
        if any(getattr(block, "_from_testcase", False) for block in connection.atomic_blocks):
            msg = (
                f"{name} in a test that is wrapped in a transaction (TestCase, or django_db "
                f"without transaction=True; database {connection.alias!r}): its rows are never "
                "committed, so the worker's own connection can't see them.\n"
                f"Use TransactionTestCase, or ask for {name} itself in a pytest test: then "
                "the plugin makes the test transactional."
            )
            raise FixtureConflictError(msg)
