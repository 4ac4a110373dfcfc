"""One test: its journal, its clean broker and backend, and who runs its messages.

The fixtures and the public context managers share the scope that is open, or open one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

from pytest_djcelery import failures
from pytest_djcelery import options as options_module
from pytest_djcelery.journal import Journal
from pytest_djcelery.options import Options, Policy
from pytest_djcelery.patching import replaced

if TYPE_CHECKING:
    from celery import Celery

    from pytest_djcelery.journal import Ended
    from pytest_djcelery.project import Project
    from pytest_djcelery.transactions import TransactionWatch


class Runner(Protocol):
    """Who runs the messages of a test."""

    name: str

    def settle(self) -> None:
        """Wait until all that is due has run."""

    def situation(self) -> str:
        """What it is doing, for the text of a time-out."""

    @property
    def will_run(self) -> bool:
        """Whether a message that is published now will be run by itself."""


class Scope:
    """What one test has recorded and may use."""

    def __init__(self, project: Project, options: Options) -> None:
        self.project = project
        self.options = options
        self.journal = Journal()
        self.runner: Runner | None = None
        self.watch: TransactionWatch

    @property
    def app(self) -> Celery:
        """The project's app."""
        return self.project.app

    def situation(self) -> str:
        """Why nothing came, as far as can be told."""
        if self.runner is not None:
            return self.runner.situation()
        depths = self.project.broker.depths() if self.project.broker else {}
        waiting = ", ".join(f"{count} in {queue!r}" for queue, count in depths.items()) or "none"
        return (
            "No worker runs in this test (messages in queues: "
            f"{waiting}). Ask for celery_worker, or celery_eager, to have tasks run."
        )

    def settle(self) -> None:
        """Wait until whoever runs this test's messages has nothing left to do."""
        if self.runner is not None:
            self.runner.settle()

    def unhandled_failures(self) -> list[Ended]:
        """Task failures that the test never looked at."""
        return failures.unhandled(self.journal)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Record and isolate for the time of a block."""
        from pytest_djcelery import publishing, signals
        from pytest_djcelery.transactions import TransactionWatch
        from pytest_djcelery.waiting import Waits, patched
        from pytest_djcelery.workers.threads import in_worker_thread

        self.watch = TransactionWatch(self.journal, policy=self._policy)
        waits = Waits(
            journal=self.journal,
            app=self.app,
            timeout=self.options.timeout,
            situation=self.situation,
            in_worker=in_worker_thread,
        )
        with ExitStack() as stack:
            stack.enter_context(self._clean())
            stack.enter_context(self.watch)
            stack.enter_context(publishing.tapped(publishing.Tap(self.watch, self._published)))
            stack.enter_context(signals.recorded(self.journal, self.app))
            stack.enter_context(patched(waits))
            yield

    @contextmanager
    def _clean(self) -> Iterator[None]:
        """Start with empty queues and no results, and leave the configuration as it was."""
        configuration = self.project.configuration
        self.project.empty()
        broker = self.project.broker
        waking = replaced(broker, on_delivered=self.journal.wake) if broker else nullcontext()
        before = configuration.snapshot()
        try:
            with waking:
                yield
        finally:
            configuration.restore(before)
            self.project.empty()

    def _policy(self) -> Policy:
        return self.options.sent_in_transaction

    def _published(self, message: Any, hook: int | None, eager: bool) -> None:  # noqa: FBT001 - a callback
        from pytest_djcelery.journal import Published

        self.journal.append(Published(message=message, hook=hook, eager=eager))


class _State:
    """The project found for this process, and the scope that is open in it."""

    options: Options = Options()
    project: Project | None = None
    project_stack: ExitStack | None = None
    scope: Scope | None = None
    lock = threading.RLock()


def configure(options: Options) -> None:
    """Set the options of the run; before any scope."""
    _State.options = options


def use_project(*, find: bool) -> Project | None:
    """The project's app, isolated from now on.

    ``find=False`` takes it only where the project has imported it by itself.
    """
    from pytest_djcelery import project

    with _State.lock:
        if _State.project is None:
            found = project.find_app(_State.options) if find else project.imported_app(_State.options)
            if found is None:
                return None
            stack = ExitStack()
            _State.project = project.Project(found, _State.options)
            stack.enter_context(_State.project.isolated())
            _State.project_stack = stack
        return _State.project


def release_project() -> None:
    """Put the app back as the settings have it, at the end of the run."""
    from pytest_djcelery.workers import lease

    with _State.lock:
        stack, _State.project_stack, _State.project = _State.project_stack, None, None
        _State.options = Options()
        if stack is not None:
            try:
                lease.stop()
            finally:
                stack.close()


def current() -> Scope | None:
    """The scope that is open."""
    return _State.scope


@contextmanager
def entered(*, checks: bool = True, **changes: Any) -> Iterator[Scope]:
    """The open scope, or one for this block.

    Args:
        checks: whether unseen task failures are raised at the end of a scope opened here; the
            hooks of pytest do it for one that a fixture opens.
        **changes: replace options of the run, for a scope that is opened here.
    """
    if _State.scope is not None:
        yield _State.scope
        return
    project = use_project(find=True)
    assert project is not None  # noqa: S101 - find=True finds or raises
    scope = Scope(project, options_module.replace(_State.options, **changes))
    with scope.running():
        _State.scope = scope
        try:
            yield scope
            if checks:
                failures.judge(scope)
        finally:
            _State.scope = None


def tidy() -> None:
    """Drop messages that were published outside any scope."""
    project = _State.project
    if project is None or _State.scope is not None:
        return
    if project.broker is not None and not project.broker.pristine:
        project.empty()
