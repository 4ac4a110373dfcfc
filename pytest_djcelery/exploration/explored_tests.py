"""The hooks for tests with ``@pytest.mark.celery_explore``, in a run that has one."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from pytest_djcelery import markers
from pytest_djcelery.errors import BadOptionError, ScheduleFailedError
from pytest_djcelery.exploration.explored_test import (
    FAILURES,
    SKIPS,
    ExploredTest,
    MisfitError,
    kept_error,
)
from pytest_djcelery.exploration.schedules import Token, name_of
from pytest_djcelery.exploration.steering import Bounds
from pytest_djcelery.options import INLINE
from pytest_djcelery.session.session import current_session

#: On the only test of a run: why it can't be run.
_REFUSED: pytest.StashKey[str] = pytest.StashKey()
_MARKER = "@pytest.mark.celery_explore"


class ExploredTests:
    """The hooks. Those of a test that is being run again pass through."""

    def __init__(self) -> None:
        self._running = False
        self._green: ExploredTest | None = None  # the last test, if all its runs were

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Refuse a test that can't be explored."""
        if _REFUSED in item.stash:
            raise pytest.UsageError(item.stash[_REFUSED])
        if markers.is_explored(item) and not self._running:
            _check(item)
            _bounds(item)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Run the test by one schedule after another."""
        __tracebackhide__ = True
        if self._running or not markers.is_explored(item):
            return (yield)
        given = current_session().options.schedule
        test = ExploredTest(item, _bounds(item), Token.read(given) if given else None)
        self._running = True
        try:
            outcome: object = None
            with test.first() as attempt:
                try:
                    outcome = yield
                    attempt.error = kept_error(item)
                except SKIPS:
                    raise
                except FAILURES as error:
                    attempt.error = error
            test.go()
            self._green = test
        except MisfitError as error:
            if is_xdist_worker(item.config):
                raise pytest.UsageError(str(error)) from None
            # It is the only test of this run.
            pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)
        finally:
            self._running = False
        return outcome

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Generator[None, object, object]:
        """Say by which schedule a test was run last, if its fixtures can't be torn down."""
        __tracebackhide__ = True
        if self._running:
            return (yield)
        test, self._green = self._green, None
        try:
            return (yield)
        except FAILURES as error:
            if test is None:
                raise
            test.failed_late(error)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Take away what pytest says about an error that has no traceback to show."""
        report = yield
        if markers.is_explored(item):
            for traceback, *_ in getattr(report.longrepr, "chain", ()):
                traceback.extraline = None
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_exception_interact(self, node: Any, call: pytest.CallInfo[object]) -> None:
        """Have the debugger begin where the test failed, not where the search reports it."""
        error = None if call.excinfo is None else call.excinfo.value
        cause = error.__cause__ if isinstance(error, ScheduleFailedError) else None
        if cause is not None and cause.__traceback__ is not None:
            call.excinfo = pytest.ExceptionInfo.from_exception(cause)


def select(config: pytest.Config, items: list[pytest.Item], given: str) -> None:
    """Leave only the tests whose schedule a token is.

    Raises:
        UsageError: There is none.
    """
    token = Token.read(given)
    explored = [item for item in items if markers.is_explored(item)]
    chosen = [item for item in explored if name_of(item.nodeid) == token.test]
    if items and not chosen:
        count = f"{len(explored)} of the selected tests are" if explored else "no selected test is"
        msg = (
            f"--djcelery-schedule={given} is the schedule of another test: {count} explored by "
            f"{_MARKER}, and none is the one that the token was printed for.\n"
            "Run the line that the report of the failing test has printed."
        )
        if not is_xdist_worker(config):
            raise pytest.UsageError(msg)
        # Its controller takes an error during the collection for the end of the worker.
        chosen = items[:1]
        chosen[0].stash[_REFUSED] = msg
    others = [item for item in items if item not in chosen]
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = chosen


def is_xdist_worker(config: pytest.Config) -> bool:
    """Whether this process runs tests for another one."""
    return hasattr(config, "workerinput")


def _bounds(item: pytest.Item) -> Bounds:
    marker = item.get_closest_marker("celery_explore")
    try:
        return Bounds() if marker is None else Bounds.of(marker)
    except BadOptionError as error:
        raise pytest.UsageError(str(error)) from None


def _check(item: pytest.Item) -> None:
    names = getattr(item, "fixturenames", ())
    by_mode = current_session().options.mode == INLINE and item.stash.get(markers.AUTOMATIC, False)
    if "celery_inline" not in names and not by_mode:
        msg = (
            f"{item.nodeid}: {_MARKER} explores what celery_inline delivers, and the test has no "
            "celery_inline.\nAsk for it as an argument, or by @pytest.mark.celery_inline."
        )
        raise pytest.UsageError(msg)
    if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
        msg = (
            f"{item.nodeid}: {_MARKER} and Hypothesis's @given can't be combined: each schedule is "
            "a run of one example.\nExplore a test with @pytest.mark.parametrize."
        )
        raise pytest.UsageError(msg)
