"""The pytest hooks, and nothing else.

Neither Django nor Celery is imported here before a test requests a fixture; the code that explains
failures, and that of the audit, is imported by the runs that need it.

PYTEST_DONT_REWRITE: `pytest_djcelery` finds its modules before pytest does, which would warn that
it came too late for this one.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from pytest_djcelery import fixtures, locations, markers, options
from pytest_djcelery.api.wider_fixtures import WiderFixtures
from pytest_djcelery.errors import DjceleryError
from pytest_djcelery.session import runner
from pytest_djcelery.session.session import (
    Session,
    SuiteFiles,
    begin_session,
    current_session,
    end_session,
)

_RUN: pytest.StashKey[Session] = pytest.StashKey()
_EXPLORED = "djcelery-explored-tests"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare ini values and command-line options."""
    group = parser.getgroup("djcelery", "Celery in Django projects")
    for declared in options.DECLARED:
        parser.addini(declared.ini, declared.help, default="")
        taken: dict[str, str] = {}
        if declared.switch:
            taken = {"action": "store_const", "const": "true"}
        elif declared.joined:  # without a value too, which is refused below
            taken = {"nargs": "?", "const": ""}
        group.addoption(declared.flag, dest=declared.ini, default=None, help=declared.help, **taken)


def pytest_load_initial_conftests(args: list[str]) -> None:
    """Check how options are written, in the ini file's ``addopts`` too."""
    with _usage_errors():
        options.refuse_separated(args)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Check the options; register the fixtures after those of every other plugin.

    If two plugins have fixtures of one name, pytest uses those registered last: pytest-celery and
    `celery.contrib.pytest` also have some of these names.
    """
    with _usage_errors():
        chosen = options.parse(
            {
                declared.name: config.getoption(declared.ini) or _in_ini_file(config, declared)
                for declared in options.DECLARED
            }
        )
        given = [declared.name for declared in options.DECLARED if config.getoption(declared.ini)]
        options.refuse_without_audit(chosen, given)
    suite = SuiteFiles(config, partial(locations.from_root, root=str(config.rootpath)))
    config.pluginmanager.register(suite, "djcelery-suite-files")
    config.stash[_RUN] = begin_session(chosen, suite)
    if chosen.audit:
        from pytest_djcelery.audit.pytest_hooks import AuditHooks

        config.pluginmanager.register(AuditHooks(config, chosen, suite), "djcelery-audit")
    if chosen.trace != "off":
        from pytest_djcelery.trace.trace_hooks import TraceHooks

        config.pluginmanager.register(TraceHooks(config, chosen), "djcelery-trace")
    if chosen.contract is not None:
        from pytest_djcelery.contract.contract_run import ContractRun

        with _usage_errors():
            contract = ContractRun(config, chosen, suite)
        config.pluginmanager.register(contract, "djcelery-contract")
    for marker in markers.DECLARED:
        config.addinivalue_line("markers", marker)
    config.pluginmanager.register(fixtures, "djcelery-fixtures")
    config.pluginmanager.register(_TerminalText(), "djcelery-terminal-text")


def _in_ini_file(config: pytest.Config, declared: options.Declared) -> object:
    value = _as_written(config, declared.ini)
    if isinstance(value, str) and value and declared.path and config.inipath is not None:
        return str(config.inipath.parent / value)
    return value


def _as_written(config: pytest.Config, name: str) -> object:
    """A value of the ini file or of ``-o``: text, or a value from TOML (number, bool, list).

    `Config.getini` allows one type for each option, and since pytest 9 refuses all others in
    ``[tool.pytest]``; several types are possible since 9.2. Private API (``_inicfg``, which pytest
    8 doesn't have), checked on pytest 8.0 to 9.2.
    """
    values = getattr(config, "_inicfg", None)
    if values is None:
        return config.getini(name)
    found = values.get(name)
    return None if found is None else found.value


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart() -> None:
    """Isolate the app from its broker as soon as the project has imported it."""
    with _usage_errors():
        current_session().await_project()


def pytest_report_header() -> str | None:
    """Say which app is tested, over which broker and result backend."""
    project = current_session().use_imported_project()
    return None if project is None else f"celery: {project.describe()}"


def pytest_itemcollected(item: pytest.Item) -> None:
    """Note where tests are, and add the fixtures that a test needs besides those it requests."""
    locations.note_suite_file(str(item.path))
    if isinstance(item, pytest.Function):
        if markers.is_explored(item):
            _explore(item.config)
        session = current_session()
        if markers.complete_fixtures(item, session.options.mode):
            session.has_tests = True


def _explore(config: pytest.Config) -> None:
    if not config.pluginmanager.has_plugin(_EXPLORED):
        from pytest_djcelery.exploration.explored_tests import ExploredTests

        config.pluginmanager.register(ExploredTests(), _EXPLORED)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave only the test that a schedule to replay belongs to."""
    schedule = current_session().options.schedule
    if schedule is not None:
        from pytest_djcelery.exploration import explored_tests

        _explore(config)
        explored_tests.select(config, items, schedule)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Isolate an app that a test module has imported, and note the state of the process.

    What has been imported by now, a worker would import too.
    """
    _isolate_imported_app()
    ours = current_session()
    if ours.has_tests:
        ours.surroundings.remember()
        session.config.pluginmanager.register(WiderFixtures(), "djcelery-wider-fixtures")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Isolate an app that an earlier test has imported; let a worker serve session fixtures."""
    _isolate_imported_app()
    session = current_session()
    if not markers.uses_ours(item):
        session.take_patches_off()
    session.set_up(begins=True)
    if session.sandbox is not None:  # a class's or a module's: the test's isn't open yet
        session.sandbox.test_begins()
    if session.sandbox is None or not session.sandbox.runs_in_test_thread:
        runner.serve_session_fixtures()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test that never looked at task failures; undo what it has set on ``app.conf``."""
    session = current_session()
    session.set_up(begins=False)
    if session.sandbox is None or session.sandbox.is_automatic:
        runner.park_all()
    try:
        with session.settings_restored():
            outcome = yield
        if session.sandbox is not None:
            # This loads the code that reads the journal, as do the hooks below.
            from pytest_djcelery.reporting import sections

            sections.check_races(item, session.sandbox)
            sections.check_failures(item, session.sandbox)
            sections.check_idempotent(item, session.sandbox)
            sections.make_last_checks(item, session.sandbox)
    finally:
        if session.sandbox is not None:
            session.sandbox.test_ended()
    return outcome


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Explain why a test failed, as far as its tasks show."""
    session = current_session()
    sandbox = session.sandbox if call.when == "call" else None
    text_alone = _internal_frames_hidden(item, call)
    if sandbox is None:
        report = yield
        _show_text_alone(report, text_alone)
        error = None if call.excinfo is None else call.excinfo.value
    else:
        from pytest_djcelery.reporting import sections

        error = sections.explained_error(item, call)
        report = yield
        _show_text_alone(report, text_alone)
        sections.show_text_alone(item, report, error)
        sections.add_sections(item, sandbox, report, error)
    if report.failed and call.when != "teardown":
        _add_timeline(item, report, error)
    if ran_twice := current_session().ran_twice:
        from pytest_djcelery.redelivery.unsafe_tasks import packed

        report.djcelery_ran_twice = packed(ran_twice)  # type: ignore[attr-defined]  # travels with it
        ran_twice.clear()
    return report


def _internal_frames_hidden(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> pytest.ExceptionInfo[BaseException] | None:
    """Hide what no reader can change in an error of use; return it if no frame is left."""
    if call.excinfo is None or not isinstance(
        call.excinfo.value, DjceleryError | pytest.UsageError
    ):
        return None
    from pytest_djcelery.reporting import failed_tests

    return call.excinfo if failed_tests.internals_hidden(item, call) else None


def _show_text_alone(
    report: pytest.TestReport, error: pytest.ExceptionInfo[BaseException] | None
) -> None:
    if error is not None and report.failed:
        from pytest_djcelery.reporting import failed_tests

        report.longrepr = failed_tests.text_alone(error, report.longrepr)


def _add_timeline(
    item: pytest.Item, report: pytest.TestReport, error: BaseException | None
) -> None:
    session = current_session()
    sandbox = session.sandbox or session.closed_sandbox
    if sandbox is not None:
        from pytest_djcelery.reporting import sections
        from pytest_djcelery.trace import table
        from pytest_djcelery.trace.story import Story

        about_messages = sections.is_about_messages(item, sandbox, report)
        closed = session.sandbox is None
        story = Story(sandbox, error, about_messages=about_messages, closed=closed)
        if story.steps or not sandbox.is_automatic:  # else it has nothing to do with Celery
            table.add(item.config, report, story)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Collect what running twice has shown, under xdist from every process."""
    shown = getattr(report, "djcelery_ran_twice", None)
    if shown is not None:
        from pytest_djcelery.redelivery.unsafe_tasks import Report

        session = current_session()
        session.redelivery_report = session.redelivery_report or Report()
        session.redelivery_report.add(report.nodeid, shown)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """Let tasks end before fixtures do; drop what a test without our fixtures has published."""
    session = current_session()
    runner = None if session.sandbox is None else session.sandbox.runner
    if runner is not None and not session.interrupted:
        runner.let_tasks_end()
    try:
        outcome = yield
    finally:
        if not markers.uses_ours(nextitem):
            session.take_patches_off()
    session.tidy()
    return outcome


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus(report: object) -> tuple[str, str, str] | None:
    """Say in ``-v`` how many schedules a green test has seen."""
    if isinstance(report, pytest.TestReport) and report.passed and report.when == "call":
        covered = dict(report.user_properties).get("celery_explore")
        if covered is not None and not hasattr(report, "wasxfail"):
            return "passed", ".", f"PASSED ({covered})"
    return None


def pytest_assertrepr_compare(
    config: pytest.Config, op: str, left: object, right: object
) -> list[str] | None:
    """Explain a comparison that failed."""
    if not current_session().has_recorded:
        return None
    from pytest_djcelery.reporting import comparisons, explanations, sections

    if comparisons.holds(op, left, right):
        return None
    lines = comparisons.explain(op, left, right)
    sections.remember(config, lines)
    return lines and explanations.coloured(config, lines)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which tasks are not safe to run twice, and that many tests failed by one error."""
    if (found_unsafe := current_session().redelivery_report) is not None:
        found_unsafe.write(terminalreporter)
    if failed := _failed(terminalreporter):
        from pytest_djcelery.reporting import failed_tests

        found = list(failed_tests.one_error(failed))
        if found:
            terminalreporter.section("celery: tests that failed by one error")
            for line in found:
                terminalreporter.write_line(line)


class _TerminalText:
    """Around the hook above, in which pytest itself prints what failed."""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter
    ) -> Generator[None, object, object]:
        """Give our sections the colours and the characters of the terminal."""
        ours = [report for report in _failed(terminalreporter) if _has_section_of_ours(report)]
        if not ours:
            return (yield)
        from pytest_djcelery.trace import terminal_text

        with terminal_text.adapted(terminalreporter.config.get_terminal_writer(), ours):
            return (yield)


def _failed(terminalreporter: pytest.TerminalReporter) -> list[pytest.TestReport]:
    stats = terminalreporter.stats
    return [*stats.get("failed", ()), *stats.get("error", ())]


def _has_section_of_ours(report: pytest.TestReport) -> bool:
    return any(name.startswith("celery:") for name, _ in report.sections)


def pytest_keyboard_interrupt() -> None:
    """Have the following teardown wait for no task."""
    current_session().interrupted = True


def pytest_unconfigure(config: pytest.Config) -> None:
    """Put the app back as it was."""
    if _RUN in config.stash:  # otherwise the options were refused
        end_session(config.stash[_RUN])


def _isolate_imported_app() -> None:
    if "celery.app.base" in sys.modules:
        session = current_session()
        with _usage_errors():
            session.use_imported_project()
            session.check_app()


@contextmanager
def _usage_errors() -> Iterator[None]:
    try:
        yield
    except DjceleryError as error:
        raise pytest.UsageError(error.with_notes()) from None
