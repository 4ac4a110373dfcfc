"""Shows a contract in pytest's JUnit file: a failed case for each break."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import pytest

from pytest_djcelery.contract.verdict import text_of

if TYPE_CHECKING:
    from pytest_djcelery.contract.breaks import Break


def add_to_junit(config: pytest.Config, breaks: Iterable[Break], summary: str) -> None:
    """Add the breaks to the file that ``--junitxml`` writes, if it writes one.

    pytest has no hook to add a case that is no test. Its writer takes reports by the hooks that it
    implements, and is found among the plugins by its class: `_pytest.junitxml.LogXML`, checked on
    pytest 8.0 to 9.2.
    """
    for plugin in config.pluginmanager.get_plugins():
        if type(plugin).__name__ == "LogXML":
            plugin.add_global_property("celery-contract", summary)
            for each in breaks:
                for report in _reports(each):
                    plugin.pytest_runtest_logreport(report)


def _reports(each: Break) -> list[Any]:
    return [
        _report(each, "setup", "passed"),
        _report(each, "call", "failed"),
        _report(each, "teardown", "passed"),
    ]


def _report(
    each: Break,
    when: Literal["setup", "call", "teardown"],
    outcome: Literal["passed", "failed"],
) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid=f"celery-contract::{each.half}: {each.keys[0]}",
        location=("celery-contract", None, each.keys[0]),
        keywords={},
        outcome=outcome,
        longrepr=text_of(each) if outcome == "failed" else None,
        when=when,
    )
