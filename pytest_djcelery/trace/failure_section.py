"""The table in the report of a failing test."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_djcelery.trace import table
from pytest_djcelery.trace.terminal_text import TITLE

if TYPE_CHECKING:
    import pytest

    from pytest_djcelery.trace.story import Story


def add(config: pytest.Config, report: pytest.TestReport, story: Story) -> None:
    """Add the table to the report of a test that has failed, before other sections of ours."""
    first = next(
        (place for place, (name, _) in enumerate(report.sections) if name.startswith("celery:")),
        len(report.sections),
    )
    report.sections.insert(first, (TITLE, table.table(story, width=_width(config))))


def _width(config: pytest.Config) -> int | None:
    """The width of pytest's own lines; ``None`` where it prints nothing, as in xdist's workers."""
    if config.pluginmanager.get_plugin("terminalreporter") is None:
        return None
    return config.get_terminal_writer().fullwidth
