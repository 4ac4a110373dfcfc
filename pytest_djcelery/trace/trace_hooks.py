"""The hooks of a run with ``--djcelery-trace``: a page for each test that uses our fixtures."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from pytest_djcelery.session.session import current_session

if TYPE_CHECKING:
    from pytest_djcelery.options import Options
    from pytest_djcelery.trace.story import Story


#: The name of the property in the report, and so in the file of ``--junitxml``.
PROPERTY: Final = "djcelery_trace"
_TITLE: Final = "celery: trace"
_TROUBLE: Final = "_djcelery_trace_trouble"
_STORY: pytest.StashKey[Story] = pytest.StashKey()


class TraceHooks:
    """Writes the pages.

    Args:
        config: pytest's configuration.
        options: What the user chose: `Options.trace` is ``on`` or ``retain-on-failure``.
    """

    def __init__(self, config: pytest.Config, options: Options) -> None:
        self._root = config.rootpath
        self._folder = config.rootpath / Path(options.trace_dir).expanduser()
        self._only_failures = options.trace == "retain-on-failure"
        self._troubles: dict[str, None] = {}

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Write the page once the test has ended; a test that fails later replaces it."""
        report = yield
        story = self._story(item, call)
        if story is None:
            return report
        ends = report.when == "call" or report.failed or report.skipped
        if ends and (report.failed or not self._only_failures):
            self._write(item, report, story)
        return report

    def _story(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Story | None:
        """What happened in the test, if it used a fixture of ours."""
        session = current_session()
        sandbox = session.sandbox or session.closed_sandbox
        if call.when == "teardown" or sandbox is None:
            # The sandbox may be closed: what was known before is all there is.
            return item.stash.get(_STORY, None)
        # These load Celery, which the project may not.
        from pytest_djcelery.trace.story import Story

        error = None if call.excinfo is None else call.excinfo.value
        story = Story(sandbox, error, closed=session.sandbox is None)
        if sandbox.is_automatic and not story.steps:
            return None  # it has nothing to do with Celery
        item.stash[_STORY] = story
        return story

    def _write(self, item: pytest.Item, report: pytest.TestReport, story: Story) -> None:
        from pytest_djcelery.trace import trace_page

        try:
            text = trace_page.page(story, test=item.nodeid, result=report.outcome)
            path = self._shown(write(self._folder, item.nodeid, text))
        except OSError as error:
            path = (
                f"The page of this test could not be written: {error}.\n"
                "Name a folder that can be written to: djcelery_trace_dir, or "
                "--djcelery-trace-dir."
            )
            vars(report)[_TROUBLE] = path
        else:
            for properties in (item.user_properties, report.user_properties):
                if (PROPERTY, path) not in properties:
                    properties.append((PROPERTY, path))
        if report.failed:
            report.sections.append((_TITLE, path))

    def _shown(self, path: Path) -> str:
        try:
            return os.path.relpath(path, self._root).replace(os.sep, "/")
        except ValueError:  # another drive, on Windows
            return str(path)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect, under xdist from every process, why pages could not be written."""
        if (trouble := getattr(report, _TROUBLE, None)) is not None:
            self._troubles[trouble] = None

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say once that pages are missing, since tests that pass don't."""
        if self._troubles:
            terminalreporter.section(_TITLE)
            for trouble in self._troubles:
                terminalreporter.write_line(trouble)


# The files of the pages: their names, and how they are written ----------------------------

_LONGEST: Final = 150  # characters of a name, before the digest and the ending
_DIGEST: Final = 10  # characters


def file_name(test: str) -> str:
    """A name for a test's page that is safe on every system, and at most 200 bytes long.

    It is the same each time. Two tests never share one, even where names differ by case or by
    characters that a file can't have.
    """
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "-", test).strip("-.")[-_LONGEST:].lstrip("-.")
    digest = hashlib.sha256(test.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]
    return f"test-{readable}-{digest}.html"


def write(folder: Path, test: str, text: str) -> Path:
    """Write the page of a test, in place of an earlier one, and return where it is.

    Nobody sees a page half written. Nothing else in the folder is touched.

    Raises:
        OSError: The folder can't be made, or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file_name(test)
    written = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        written.write_text(text, encoding="utf-8", errors="replace")
        written.replace(path)
    finally:
        written.unlink(missing_ok=True)
    return path
