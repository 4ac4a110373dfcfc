"""The table in the report of a failing test."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_djcelery.trace import table
from pytest_djcelery.trace.story import Story
from pytest_djcelery.trace.terminal_text import TITLE

if TYPE_CHECKING:
    import pytest

    from pytest_djcelery.session.sandbox import Sandbox


def add(
    item: pytest.Item,
    sandbox: Sandbox,
    report: pytest.TestReport,
    error: BaseException | None,
    *,
    about_messages: bool,
) -> None:
    """Add the table to the report of a test that has failed, before other sections of ours.

    Args:
        item: The test.
        sandbox: Its sandbox.
        report: Its report.
        error: What it failed with.
        about_messages: Whether that was a comparison of messages that no worker need run.
    """
    if not report.failed:
        return
    story = Story(sandbox, error, about_messages=about_messages)
    if not story.steps and sandbox.is_automatic:
        return  # a test that has nothing to do with Celery, in a suite whose tests all run tasks
    first = next(
        (place for place, (name, _) in enumerate(report.sections) if name.startswith("celery:")),
        len(report.sections),
    )
    report.sections.insert(first, (TITLE, table.table(story, width=_width(item.config))))


def _width(config: pytest.Config) -> int | None:
    """The width of pytest's own lines; ``None`` where it prints nothing, as in xdist's workers."""
    if config.pluginmanager.get_plugin("terminalreporter") is None:
        return None
    return config.get_terminal_writer().fullwidth
