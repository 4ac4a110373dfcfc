"""The pytest hooks of an audited run."""

from __future__ import annotations

import platform
import shlex
import subprocess
from collections.abc import Generator
from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_djcelery.audit.findings import Findings, packed, unpacked
from pytest_djcelery.audit.listeners import listeners_attached
from pytest_djcelery.audit.recorder import Recorder
from pytest_djcelery.audit.report import Baseline, Verdict, read_baseline, write_file, write_section
from pytest_djcelery.audit.sightings import Sightings
from pytest_djcelery.errors import DjceleryError
from pytest_djcelery.locations import from_root, relative
from pytest_djcelery.session.session import current_session

if TYPE_CHECKING:
    from pytest_djcelery.options import Options
    from pytest_djcelery.session.session import SuiteFiles
    from pytest_djcelery.transactions.openers import Opener


class AuditHooks:
    """Watches each test, and reports at the end of the run.

    Under xdist, what a test has shown travels with the report of its teardown, so a process that
    crashes loses no more than the test it was in.

    Args:
        config: pytest's configuration of this run.
        options: The plugin's options.
        suite: The files of the tests.
    """

    def __init__(self, config: pytest.Config, options: Options, suite: SuiteFiles) -> None:
        self._config = config
        self._options = options
        self._is_worker = hasattr(config, "workerinput")  # a process of xdist
        self._findings = Findings()
        self._troubles: dict[str, None] = {}
        shown = cache(self._relative)  # called for each finding of each test, on few paths
        self._suite = suite
        self._known = self._read_baseline()
        self._recorder = Recorder(self._counts, suite)
        self._sightings = Sightings(shown, self._counts, suite, self._recorder.errors_contained)
        self._verdict: Verdict | None = None
        self._unwritten = ""  # why the report was not written
        current_session().audit = self._recorder
        self._listeners = listeners_attached(self._recorder)
        self._listeners.__enter__()

    def _read_baseline(self) -> Baseline:
        if self._options.audit_baseline is None:
            return Baseline()
        try:
            return read_baseline(self._options.audit_baseline)
        except DjceleryError as error:
            raise pytest.UsageError(error.with_notes()) from None

    def pytest_report_header(self) -> str:
        """Say that the plugin only watches."""
        return "celery: audit: watches the tests, and changes nothing"

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Read what was recorded once a test and its fixtures are over."""
        report = yield
        if call.when == "teardown":
            shown = self._sightings.of(item.nodeid, self._recorder.journal.drain())
            if self._is_worker:
                report.djcelery_audit = {  # type: ignore[attr-defined]  # travels with it
                    "shown": packed(shown),
                    "troubles": list(self._recorder.troubles),
                }
            else:
                self._findings.add(item.nodeid, shown)
                self._troubles |= self._recorder.troubles
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect what the tests of other processes have shown."""
        data: Any = getattr(report, "djcelery_audit", None)
        if data is not None and not self._is_worker:
            self._findings.add(report.nodeid, unpacked(data["shown"]))
            self._troubles.update(dict.fromkeys(data["troubles"]))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Compare and write what was found; fail the run if the options ask for it."""
        if self._is_worker or self._config.option.collectonly:
            return
        self._verdict = verdict = self._known.compare(
            self._findings,
            self._options.audit_fail_on,
            self._troubles,
            circumstances(self._config) if self._options.audit_report else None,
        )
        outcome = pytest.ExitCode.TESTS_FAILED if verdict.failing else pytest.ExitCode.OK
        if self._options.audit_report is not None:
            try:
                write_file(self._options.audit_report, verdict)
            except OSError as error:
                outcome = pytest.ExitCode.USAGE_ERROR
                self._unwritten = f"not written, {error}"
        if session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = outcome

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Report what was found."""
        if self._verdict is not None:
            report = self._options.audit_report and (
                self._unwritten or f"written to {relative(self._options.audit_report)}"
            )
            write_section(terminalreporter, self._verdict, report=report)

    def pytest_unconfigure(self) -> None:
        """Remove the listeners."""
        self._listeners.__exit__(None, None, None)

    def _relative(self, path: str) -> str:
        """A path as in node ids: relative to pytest's root, wherever pytest was started.

        The path of an installed package's file starts at its site-packages, so it is the same on
        every machine.
        """
        return from_root(path, str(self._config.rootpath))

    def _counts(self, opener: Opener) -> bool:
        """Whether a block belongs to the code under test, as any block that Django opens does."""
        return opener.call is not None or opener.path is None or opener.path not in self._suite


# When, where and of what a report was made ------------------------------------------------

_PACKAGES = ("pytest-djcelery", "celery", "Django", "pytest")
_PATIENCE = 2.0  # seconds for git


def circumstances(config: pytest.Config) -> dict[str, Any]:
    """The date, the commit, the command and the versions of a run, and the root of its paths."""
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "commit": _commit(config.rootpath),
        "command": shlex.join(["pytest", *map(str, config.invocation_params.args)]),
        "versions": {
            "Python": platform.python_version(),
            **{name: found for name in _PACKAGES if (found := _version(name))},
        },
        "root": str(config.rootpath),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit(folder: Path) -> str | None:
    """The commit that is checked out, marked where there are changes; ``None`` without git."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],  # noqa: S607 - wherever the developer has it
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
