"""One pytest run: its options, the project found for it, and the sandbox that is open in it."""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cache
from pathlib import PurePath
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakSet

from pluggy import HookimplMarker

from pytest_djcelery.locations import below_packages
from pytest_djcelery.options import MEMORY, Options
from pytest_djcelery.project.after_import import entered_after_import
from pytest_djcelery.project.finding import (
    app_configuration_watched,
    check_named_app,
    find_app,
    imported_app,
)
from pytest_djcelery.recording.task_surroundings import Surroundings
from pytest_djcelery.session.runner import kept_topology, stop_all, stop_threads
from pytest_djcelery.transactions.captures import Captures

if TYPE_CHECKING:
    import pytest
    from celery import Celery

    from pytest_djcelery.messages.events import RanTwice
    from pytest_djcelery.project.isolation import Project
    from pytest_djcelery.session.sandbox import Sandbox
    from pytest_djcelery.session.standing_patches import SandboxPatches


_FOLDERS = ("tests", "test")
_PATTERNS = ("test*.py", "*_test.py", "tests.py")
hookimpl = HookimplMarker("pytest")  # pytest's own, for runs without pytest too


class NamedFiles:
    """Recognizes the files of tests by their names alone, for when pytest isn't there to tell.

    Args:
        patterns: Patterns of file names, as in pytest's ``python_files``.
        shown: Shortens the path of a file.
    """

    def __init__(
        self, patterns: Sequence[str] = _PATTERNS, shown: Callable[[str], str] = str
    ) -> None:
        # A pattern that matches any module, such as ``*.py``, recognizes nothing.
        self._patterns = [
            pattern for pattern in patterns if not PurePath("models.py").match(pattern)
        ]
        self._shown = shown
        self._has_name_of_test = cache(self._matches)  # called for each block of each test

    def __contains__(self, path: object) -> bool:
        return self._has_name_of_test(str(path))

    def _matches(self, path: str) -> bool:
        *folders, name = PurePath(below_packages(path) or self._shown(path)).parts
        return (
            name == "conftest.py"
            or any(folder in _FOLDERS for folder in folders)
            or any(PurePath(path).match(pattern) for pattern in self._patterns)
        )


class SuiteFiles(NamedFiles):
    """Learns from pytest which files have tests, fixtures and plugins; others go by their name.

    Args:
        config: The configuration of the run.
        shown: Shortens the path of a file.
    """

    def __init__(self, config: pytest.Config, shown: Callable[[str], str]) -> None:
        super().__init__(config.getini("python_files"), shown)
        self._seen: set[str] = set()
        self._fixtures: WeakSet[pytest.FixtureDef[Any]] = WeakSet()  # set up at least once
        self._classes: set[type] = set()

    def __contains__(self, path: object) -> bool:
        return path in self._seen or super().__contains__(path)

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """Note the file of a test, and those of the classes that its class inherits from."""
        self._seen.add(str(item.path))
        cls = getattr(item, "cls", None)
        if cls is not None and cls not in self._classes:
            self._classes.add(cls)
            modules = [sys.modules.get(base.__module__) for base in cls.__mro__]
            files = [getattr(module, "__file__", None) for module in modules]
            self._seen.update(filter(None, files))

    def pytest_plugin_registered(self, plugin: object) -> None:
        """Note the file of a plugin: a conftest.py, or one that ``pytest_plugins`` names."""
        if isinstance(plugin, ModuleType) and plugin.__file__:
            self._seen.add(plugin.__file__)

    @hookimpl(tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        """Note the file of a fixture that is about to be set up."""
        if fixturedef not in self._fixtures:
            self._fixtures.add(fixturedef)
            code = getattr(inspect.unwrap(fixturedef.func), "__code__", None)
            if code is not None:
                self._seen.add(code.co_filename)


class Audit(Protocol):
    """Watches the tests of an audited run."""

    def paused_for(self, sandbox: Sandbox) -> AbstractContextManager[None]:
        """Within the ``with``, leave a test to the fixtures that it uses."""


class RedeliveryReport(Protocol):
    """What running messages twice has shown in the tests so far."""

    def add(self, test: str, shown: list[tuple[str, list[str]]]) -> None:
        """Add what a test has shown."""

    def write(self, terminal: pytest.TerminalReporter) -> None:
        """Write it."""


class Closable(Protocol):
    """Something that may be closed more than once."""

    def close(self) -> None:
        """Close it."""


class Session:
    """What the tests of a run share, from `pytest_configure` to the end.

    Args:
        options: What the user chose.
        lasts: Whether it has an end, at which the app is put back. Without pytest nothing says
            which block is the last, so the app is put back after each one.
        suite: The files of the tests.
    """

    def __init__(
        self, options: Options, *, lasts: bool = True, suite: Container[str] | None = None
    ) -> None:
        self.options = options
        self.suite = NamedFiles() if suite is None else suite
        self._lasts = lasts
        self.sandbox: Sandbox | None = None
        self.closed_sandbox: Sandbox | None = None
        """That of a block which the running test has left, for the report of its failure."""
        self.audit: Audit | None = None
        """The audit, in which the app stays as it is, except in tests that use a fixture."""
        self.draws_tests = False
        """Whether Hypothesis draws in which way whole tests are run: none of them is an example."""
        self.interrupted = False
        """Whether the run has to end now, without waiting for tasks."""
        self.has_tests = False
        """Whether a test uses a fixture of ours, or ``djcelery_mode``."""
        self.has_recorded = False
        """Whether a sandbox was ever open, so that comparisons may contain values of ours."""
        self.ran_twice: list[RanTwice] = []
        """The messages that were run twice to be reported, since pytest has last read them."""
        self.redelivery_report: RedeliveryReport | None = None
        """What running messages twice has shown, once it has been asked for."""
        self.surroundings = Surroundings()
        """What this run's tasks find around them."""
        self.captures = Captures()
        self._captures_noted = ExitStack()
        self._project: Project | None = None
        self._patches: SandboxPatches | None = None  # that are on now
        self.kept_beside_patches: Closable | None = None
        """What the next test may use again, as long as the patches stay on."""
        self._isolation = ExitStack()
        self._isolating = 0  # the blocks that isolate the app, where the run itself doesn't
        self._lock = threading.RLock()

    def use_project(self) -> Project:
        """Find the project's app, and isolate it unless `app_isolated` does so.

        Raises:
            AppNotFoundError: The project has no app.
        """
        return self._project or self._use(find_app(self.options))

    def use_imported_project(self) -> Project | None:
        """Isolate the project's app from now on, if the project itself has imported it."""
        if self._project is not None or self.audit is not None:  # called before each test
            return self._project
        app = imported_app(self.options)
        return None if app is None else self._use(app)

    def await_project(self) -> None:
        """Isolate the app as soon as the project imports it, even in the middle of a test.

        Raises:
            AppNotFoundError: ``djcelery_app`` names something that is not an app.
        """
        # In all tests: a ``captureOnCommitCallbacks`` may be entered before a fixture is requested.
        self._captures_noted.enter_context(
            entered_after_import("django.test.testcases", self.captures.capture_blocks_noted)
        )
        self.check_app()
        if self.use_imported_project() is None and self.audit is None:
            self._isolation.enter_context(app_configuration_watched(self.use_imported_project))

    def check_app(self) -> None:
        """Check ``djcelery_app``, as long as the project hasn't imported what it names.

        Raises:
            AppNotFoundError: It names something that is not an app.
        """
        if self._project is None and self.options.app:
            check_named_app(self.options)

    def _use(self, app: Celery) -> Project:
        # A project without an app never needs this import.
        from pytest_djcelery.project.isolation import Project

        with self._lock:  # a thread of the tests may import the app too
            if self._project is None:
                project = Project(app, self.options)
                if not self._isolates_in_blocks:
                    self._isolate(project)
                self._project = project
            return self._project

    @property
    def _isolates_in_blocks(self) -> bool:
        """Whether the app is isolated within blocks only."""
        return self.audit is not None or not self._lasts

    def app_isolated(self, project: Project) -> AbstractContextManager[None]:
        """Isolate the app within the ``with``, unless it is isolated for the whole run."""
        return self._isolated_here(project) if self._isolates_in_blocks else nullcontext()

    @contextmanager
    def _isolated_here(self, project: Project) -> Iterator[None]:
        if not self._isolating:
            self._isolate(project)
            self._isolation.enter_context(project.configuration.settings_restored())
        self._isolating += 1
        try:
            yield
        finally:
            self._isolating -= 1
            if not self._isolating:
                self._put_app_back(stop_all if self._lasts else stop_threads)

    def _isolate(self, project: Project) -> None:
        self._isolation.enter_context(project.isolated())
        if {self.options.broker, self.options.result_backend} != {MEMORY}:
            # This imports Celery.
            from pytest_djcelery.recording.server_waits import (
                result_waits_bounded,
                results_set_without_setex,
            )

            self._isolation.enter_context(results_set_without_setex())
            self._isolation.enter_context(
                result_waits_bounded(project.app, self.options.timeout, current_sandbox)
            )

    @contextmanager
    def patched(self, project: Project, *, stay: bool) -> Iterator[SandboxPatches]:
        """Within the ``with``, have the patches of a sandbox on.

        Args:
            project: The project whose app is patched.
            stay: Whether they may stay on after it, until `take_patches_off`.
        """
        from pytest_djcelery.session.standing_patches import SandboxPatches  # needs Celery

        if self._patches is not None and not self._patches.intact:
            self.take_patches_off()
        patches = self._patches
        if patches is None:
            patches = self._patches = SandboxPatches(project, self.captures, self.suite)
        try:
            yield patches
        finally:
            if not stay or self.audit is not None or not self._lasts:
                self.take_patches_off()

    def take_patches_off(self) -> None:
        """Put back what the patches have replaced, unless a sandbox is open."""
        if self._patches is not None and not self._patches.in_use:
            patches, self._patches = self._patches, None
            try:
                self.keep_beside_patches(None)
            finally:
                patches.take_off()

    def keep_beside_patches(self, kept: Closable | None) -> None:
        """Keep something until the patches are taken off, in place of what is kept so far."""
        before, self.kept_beside_patches = self.kept_beside_patches, kept
        if before is not None:
            before.close()

    def is_in_example(self) -> bool:
        """Whether this thread runs an example of a test with Hypothesis's `@given`."""
        hypothesis = sys.modules.get("hypothesis")
        in_context = hypothesis is not None and bool(hypothesis.currently_in_test_context())
        return in_context and not self.draws_tests

    @contextmanager
    def sandbox_opened(self, sandbox: Sandbox) -> Iterator[None]:
        """Within the ``with``, make this the open sandbox."""
        self.has_recorded = True
        before, self.sandbox = self.sandbox, sandbox
        try:
            yield
        finally:
            self.sandbox, self.closed_sandbox = before, sandbox

    def set_up(self, *, begins: bool) -> None:
        """Note that the set-up of a test begins, or is over."""
        if begins:
            self.closed_sandbox = None
        if self._project is not None:
            self._project.configuration.set_up(begins=begins)

    def settings_restored(self) -> AbstractContextManager[None]:
        """Undo what a test that uses no fixture sets on ``app.conf`` in its body."""
        project = self._project_without_sandbox
        return nullcontext() if project is None else project.configuration.settings_restored()

    def tidy(self) -> None:
        """Drop messages that were published outside any sandbox."""
        project = self._project_without_sandbox
        if project is not None and not project.pristine:
            project.empty(kept_topology())

    @property
    def _project_without_sandbox(self) -> Project | None:
        return None if self.sandbox is not None or self.audit is not None else self._project

    def end(self) -> None:
        """Put the app back to what the settings say."""
        with self._lock, self._captures_noted:
            self.take_patches_off()
            self._put_app_back()

    def _put_app_back(self, stop_workers: Callable[[], None] = stop_all) -> None:
        with self._isolation:
            stop_workers()


# The last one is current: a test may run pytest inside its own process (`pytester`).
_sessions = [Session(Options(), lasts=False)]


def current_session() -> Session:
    """The run that this code is part of."""
    return _sessions[-1]


def begin_session(options: Options, suite: Container[str]) -> Session:
    """Start a run with its options; ``suite`` are the files of its tests."""
    _sessions.append(Session(options, suite=suite))
    return _sessions[-1]


def end_session(session: Session) -> None:
    """End a run; what follows is part of the run in which it was begun."""
    _sessions.remove(session)
    session.end()


def current_sandbox() -> Sandbox | None:
    """The open sandbox, of the test or of a public context manager."""
    return _sessions[-1].sandbox
