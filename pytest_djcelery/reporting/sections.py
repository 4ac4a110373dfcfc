"""What a failing test's report says about messages, failed tasks and what is still due."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest

from pytest_djcelery.errors import NotIdempotentError, UnhandledTaskFailureWarning
from pytest_djcelery.locations import in_library, is_of_project
from pytest_djcelery.messages.events import Ended
from pytest_djcelery.messages.journal import ShortNumbers
from pytest_djcelery.messages.task_code import short_code
from pytest_djcelery.recording import failures, second_runs
from pytest_djcelery.reporting import failed_tests, undelivered_messages
from pytest_djcelery.transactions import sent_in_transaction

if TYPE_CHECKING:
    from _pytest._code import Traceback

    from pytest_djcelery.session.sandbox import Sandbox


_ON_COMMIT_METHODS = ("delay_on_commit", "apply_async_on_commit")
_MOST = 3  # tracebacks in one report
_CUT = "Full output truncated"  # pytest's words
_FAILED_BY_TASKS = pytest.StashKey[bool]()
_LAST_COMPARISON = pytest.StashKey["list[str] | None"]()


def check_races(item: pytest.Item, sandbox: Sandbox) -> None:
    """Fail a test that passed if the project's code has caught an error meant for the test."""
    __tracebackhide__ = True
    if _kept_errors(item):
        return
    sandbox.settle()
    found = sandbox.swallowed_races()
    if found:
        item.stash[_FAILED_BY_TASKS] = True
        pytest.fail(sent_in_transaction.swallowed_text(found), pytrace=False)


def check_failures(item: pytest.Item, sandbox: Sandbox) -> None:
    """Fail a test that passed, or warn, as the options say, if tasks failed unseen."""
    __tracebackhide__ = True
    if _kept_errors(item):
        return
    sandbox.settle()
    sandbox.unconsumed.test_ends()
    found = sandbox.unhandled_failures()
    policy = sandbox.options.unhandled_failures
    if not found or policy == "ignore":
        return
    if policy == "warn":
        warnings.warn(
            failures.text(found, sandbox.journal), UnhandledTaskFailureWarning, stacklevel=2
        )
        return
    own = "\n\n".join(_tracebacks(item, sandbox, found))
    item.stash[_FAILED_BY_TASKS] = True
    named = ShortNumbers(sandbox.journal, sandbox.began).of  # of the timeline below
    text = failures.text(found, sandbox.journal, named)
    pytest.fail(f"{text}\n\n{own}", pytrace=False)


def check_idempotent(item: pytest.Item, sandbox: Sandbox) -> None:
    """Fail a test that passed if a task in it is not safe to run twice.

    Raises:
        NotIdempotentError: One is not, and the options call that an error.
    """
    __tracebackhide__ = True
    if found := not _kept_errors(item) and sandbox.not_idempotent():
        item.stash[_FAILED_BY_TASKS] = True
        raise NotIdempotentError(second_runs.text(found))


def make_last_checks(item: pytest.Item, sandbox: Sandbox) -> None:
    """Fail a test that passed if something that it has asked for has not happened."""
    __tracebackhide__ = True
    if sandbox.last_checks and not _kept_errors(item):
        sandbox.settle()
        for check in list(sandbox.last_checks):
            check()


def _kept_errors(item: pytest.Item) -> list[pytest.ExceptionInfo[BaseException]]:
    """The errors of a unittest test case, which pytest keeps and does not raise.

    Private API (``TestCaseFunction._excinfo``), checked on pytest 8.4 and 9.
    """
    return getattr(item, "_excinfo", None) or []


def explained_error(item: pytest.Item, call: pytest.CallInfo[None]) -> BaseException | None:
    """The error that ends a test, with a remedy added if there is one."""
    for info in (call.excinfo, *_kept_errors(item)):
        if info is not None:
            error: BaseException | None = info.value
            while error is not None:
                explain_missing_method(error)
                error = error.__cause__ or error.__context__
            return info.value
    return None


def add_sections(
    item: pytest.Item, sandbox: Sandbox, report: pytest.TestReport, error: BaseException | None
) -> None:
    """Add to a failing test what its tasks raised, and the comparison that pytest cut short."""
    if not report.failed:
        return
    failed_tests.note_errors(report, sandbox, error)
    lines = item.config.stash.get(_LAST_COMPARISON, None)
    if lines and isinstance(error, AssertionError) and _CUT in report.longreprtext:
        report.sections.append(("celery: the comparison in full", "\n".join(lines)))
    log = sandbox.runner.log if sandbox.runner is not None else ""
    if log:
        report.sections.append(("celery: log of the live worker", log))
    left = sandbox.unconsumed.remaining()
    if left:
        numbers = ShortNumbers(sandbox.journal, sandbox.began)
        text = sandbox.unconsumed.text(left, lambda sent: numbers.of(sent.id))
        report.sections.append(("celery: messages that no worker consumes", text))
    if _FAILED_BY_TASKS in item.stash:
        return  # the failure itself is about this
    if caught := sent_in_transaction.swallowed_races(sandbox.journal, sandbox.began):
        report.sections.append(
            ("celery: errors that were caught", sent_in_transaction.swallowed_text(caught))
        )
    # ``get()`` raises a copy, decoded from the result backend, without the task's traceback.
    found = [
        attempt
        for attempt in sandbox.journal.events(Ended, sandbox.began)
        if attempt.state == "FAILURE"
        and not attempt.expected
        and not failures.led_to(attempt.value, error)
    ]
    if found:
        text = "\n\n".join(_tracebacks(item, sandbox, found))
        report.sections.append(("celery: tasks that failed in this test", text))
    if not is_about_messages(item, sandbox, report) and not _raised_by_task(sandbox, error):
        text = undelivered_messages.text(sandbox)
        if text:
            report.sections.append(("celery: messages that were not delivered", text))


def show_text_alone(
    item: pytest.Item, report: pytest.TestReport, error: BaseException | None
) -> None:
    """Show no traceback of an error that `check_idempotent` has raised: its text says all.

    Private API (``reprtraceback``), checked on pytest 8.0 to 9.2.
    """
    if not (isinstance(error, NotIdempotentError) and _FAILED_BY_TASKS in item.stash):
        return
    if not report.failed:  # it is expected to
        return
    shown: Any = pytest.ExceptionInfo.from_exception(error).getrepr(style="value")
    lines = shown.reprtraceback.reprentries[-1].lines
    lines[:] = f"{type(error).__name__}: {error.with_notes()}".splitlines()
    report.longrepr = shown


def is_about_messages(item: pytest.Item, sandbox: Sandbox, report: pytest.TestReport) -> bool:
    """Whether a test failed by comparing what was sent, which needs nothing to run it."""
    lines = item.config.stash.get(_LAST_COMPARISON, None)
    if sandbox.runner is not None or not lines:
        return False
    return lines[0] in report.longreprtext


def _raised_by_task(sandbox: Sandbox, error: BaseException | None) -> bool:
    """Whether the test ended with a task's error, which is why the rest was not delivered."""
    ended = sandbox.journal.events(Ended, sandbox.began)
    return any(
        failures.led_to(attempt.value, error) for attempt in ended if attempt.state == "FAILURE"
    )


def _tracebacks(item: pytest.Item, sandbox: Sandbox, found: list[Ended]) -> Iterator[str]:
    numbers = ShortNumbers(sandbox.journal, sandbox.began)
    for failure in found[:_MOST]:
        described = failures.describe(failure, sandbox.journal, numbers.of)
        yield f"{described}\n\n{_traceback(item, failure.value)}"
    if len(found) > _MOST:
        yield f"... and {len(found) - _MOST} more"


def _traceback(item: pytest.Item, error: BaseException) -> str:
    """A task's own traceback, in pytest's form.

    ``str()`` would lose the indentation of the first line, so it is written to a `TerminalWriter`;
    private API, checked on pytest 8.4 and 9.
    """
    from _pytest._io import TerminalWriter

    explain_missing_method(error)
    chosen = item.config.getoption("tbstyle", "auto")  # none with -p no:terminal
    if error.__traceback__ is None or chosen == "no":
        remote = getattr(error.__cause__, "remote_traceback", None)  # a live worker's
        return remote if remote and chosen != "no" else f"{type(error).__name__}: {error}"
    info = pytest.ExceptionInfo.from_exception(error)
    written = StringIO()
    info.getrepr(style="long" if chosen == "auto" else chosen, tbfilter=_filtered).toterminal(
        TerminalWriter(written)
    )
    return written.getvalue().strip("\n")


def _filtered(info: pytest.ExceptionInfo[BaseException]) -> Traceback:
    """The traceback from the task on, with two lines for each call inside libraries."""
    entries = list(info.traceback)
    library = [in_library(str(entry.path)) for entry in entries]
    first = library.index(False) if False in library else 0
    return type(info.traceback)(
        entry if is_of_project(str(entry.path)) else entry.with_repr_style("short")
        for entry in entries[first:]
    )


# -- a comparison that failed ----------------------------------------------------------------


def remember(config: pytest.Config, lines: list[str] | None) -> None:
    """Keep the explanation of a comparison, for a report in which pytest has truncated it."""
    config.stash[_LAST_COMPARISON] = lines


# -- delay_on_commit -------------------------------------------------------------------------


def explain_missing_method(error: BaseException) -> None:
    """Say why a task has no ``delay_on_commit``, and what to do."""
    if not isinstance(error, AttributeError) or error.name not in _ON_COMMIT_METHODS:
        return
    from celery import Task

    task = error.obj
    if not isinstance(task, Task) or hasattr(error, "_djcelery_explained"):
        return
    vars(error)["_djcelery_explained"] = True
    bases = [base for base in type(task).__mro__[1:] if base not in (Task, object)]
    base = f"{bases[0].__module__}.{bases[0].__qualname__}" if bases else "celery.Task"
    name = short_code(task.name, task)
    note = (
        f"{task.name} is built on {base}, which is not a DjangoTask, so it has no {error.name}.\n"
        "To fix: let that class inherit from celery.contrib.django.task.DjangoTask, not from "
        f"celery.Task; or call transaction.on_commit(lambda: {name}.delay(...)) yourself."
    )
    if sys.version_info >= (3, 11):
        error.add_note(note)
    else:
        error.args = (f"{error}\n{note}",)
