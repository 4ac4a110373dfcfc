"""One test that is run by many schedules: each run, the search, and the error of the least one."""

from __future__ import annotations

import inspect
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from celery.signals import before_task_publish

from pytest_djcelery.errors import DeliveryRuleError, NotReplayableError, ScheduleFailedError
from pytest_djcelery.exploration import oracle, schedules, step_texts
from pytest_djcelery.exploration.schedules import Course, Decisions, Schedule, Token, follow
from pytest_djcelery.exploration.search import Ran, Search
from pytest_djcelery.exploration.steering import Steering
from pytest_djcelery.recording.task_threads import in_task
from pytest_djcelery.session.session import current_sandbox, current_session
from pytest_djcelery.workers.inline.guests import joined

if TYPE_CHECKING:
    from pytest_djcelery.exploration.search import Seen
    from pytest_djcelery.exploration.steering import Bounds, Step


PROPERTY = "celery_explore"
_LOST_PROPERTY = "celery_explore_lost"
_MOST_LOST = 20  # that are named


class MisfitError(Exception):
    """The token that the user has given is not one of this test."""


class Attempt:
    """One run of the test: what decides in it, and what came of it."""

    def __init__(self, bounds: Bounds, decisions: Decisions) -> None:
        self.decisions = decisions
        self.steering = Steering(bounds, decisions)
        self.error: BaseException | None = None
        self.strangers: list[str] = []  # threads that have published
        self.course = Course((), (), Schedule())

    @property
    def ran(self) -> Ran:
        """What the search needs to know of it."""
        return Ran(self.course, failed=self.error is not None)

    @property
    def steps(self) -> list[Step]:
        """Its deliveries."""
        return self.steering.steps


@dataclass(frozen=True, slots=True)
class _Failing:
    """What is known of a failing run that is over."""

    course: Course
    steps: tuple[str, ...]
    error: BaseException


class ExploredTest:
    """The runs of a test.

    Args:
        item: The test, whose fixtures have been set up.
        bounds: How much may vary.
        token: The one schedule to run, if the user has named it.
    """

    def __init__(self, item: pytest.Item, bounds: Bounds, token: Token | None) -> None:
        self._item = item
        self._bounds = bounds
        self._token = token
        self._rerun = Rerun(item)
        self._search = Search(self._run, examples=bounds.examples, draws=self._draw)
        self._last: Attempt
        self._first: Ran | None = None  # for the search to take up
        self._least: _Failing | None = None
        self._lost: set[str] = set()

    # Runs -----------------------------------------------------------------------------------

    @contextmanager
    def first(self) -> Iterator[Attempt]:
        """Run the test within the ``with``, on the fixtures that pytest has set up."""
        __tracebackhide__ = True
        schedule = Schedule() if self._token is None else self._token.schedule
        with self._attempt(follow(schedule, ())) as attempt:
            yield attempt
        self._first = attempt.ran

    def _run(self, decisions: Decisions) -> Ran:
        __tracebackhide__ = True
        if self._first is not None:
            ran, self._first = self._first, None
            return ran
        self._tear_down()
        error = self._rerun.set_up()
        with self._attempt(decisions) as attempt:
            attempt.error = error
            if error is None:
                with suppress(*SKIPS):  # there is nothing to test in this schedule
                    attempt.error = self._rerun.call()
        return attempt.ran

    def _tear_down(self) -> None:
        """Tear down the fixtures of the last run; an error of that is this run's."""
        error, last = self._rerun.tear_down(), self._last
        if error is not None and not last.error:
            last.error = error
            self._search.failed_late(last.course)
            self._note_least(last)

    @contextmanager
    def _attempt(self, decisions: Decisions) -> Iterator[Attempt]:
        __tracebackhide__ = True
        self._last = attempt = Attempt(self._bounds, decisions)
        sandbox = current_sandbox()
        since = 0 if sandbox is None else len(sandbox.journal)
        with joined(attempt.steering), publishes_watched(self._item) as attempt.strangers:
            yield attempt
        attempt.steering.over()
        attempt.course = decisions.over()
        self._check_followed(attempt)
        if attempt.error is None and sandbox is not None:
            attempt.error = self._broken_rule(oracle.broken_rules(sandbox, attempt.steps, since))
        if attempt.error is None and self._bounds.lost == "error":
            attempt.error = self._broken_rule(step_texts.losses(attempt.steps))
        if len(self._lost) < _MOST_LOST:
            self._lost.update(step_texts.losses(attempt.steps))
        self._note_least(attempt)

    def _note_least(self, attempt: Attempt) -> None:
        """Keep what a failing run was like, if the search would report it as things stand."""
        least, course = self._least, attempt.course
        if attempt.error and (least is None or len(course.schedule) < len(least.course.schedule)):
            steps = step_texts.all_steps(attempt.steps)
            self._least = _Failing(course, steps, attempt.error)

    @staticmethod
    def _broken_rule(found: list[str]) -> DeliveryRuleError | None:
        __tracebackhide__ = True
        if not found:
            return None
        try:
            _raise(DeliveryRuleError("\n".join(found)))
        except DeliveryRuleError as error:  # with a traceback, as a debugger needs it
            return error

    def _check_followed(self, attempt: Attempt) -> None:
        """Refuse a run of which no schedule decides all."""
        __tracebackhide__ = True
        decisions = attempt.decisions
        if attempt.strangers:
            msg = (
                f"{self._item.nodeid}: the thread {attempt.strangers[0]!r} has published a "
                "message. With @pytest.mark.celery_explore only the test's own thread may: no "
                "schedule decides when another one does.\n"
                "Call what publishes in the test itself, or take the marker away."
            )
            raise pytest.UsageError(msg) from attempt.error
        if self._token is not None:
            left = self._token.left_at(decisions)
            if left is not None:
                msg = (
                    f"--djcelery-schedule={self._token} does not fit {self._item.nodeid}: "
                    f"{step_texts.left_text(decisions, attempt.steps, left)}\n"
                    "Has the test, its marker or a task been changed since it was printed?"
                )
                raise MisfitError(msg) from attempt.error
        elif decisions.left is not None:
            text = step_texts.left_text(decisions, attempt.steps, decisions.left)
            raise self._not_replayable(text) from attempt.error

    def _not_replayable(self, text: str) -> NotReplayableError:
        return NotReplayableError(
            f"{self._item.nodeid} is not deterministic by itself, so its schedules can't be "
            f"replayed: {text}\n"
            "Does it, or a task, depend on random numbers, on the time, on the order of a set, or "
            "on what an earlier run has left in a module, a cache or a file?"
        )

    # The search -----------------------------------------------------------------------------

    def go(self) -> None:
        """Run it by all the other schedules, and raise the error of the least that fails.

        Raises:
            ScheduleFailedError: It fails in one of them.
            NotReplayableError: It is not deterministic.
            UsageError: There are too many, and Hypothesis is missing.
        """
        __tracebackhide__ = True
        if self._token is not None:
            self._tell("1 schedule, by its token")
            self._raise_failure(None)
            return
        seen = self._search.go()
        self._tell(seen.text())
        if self._least is not None:
            self._replay(self._least)
            self._raise_failure(seen)
        elif not seen.complete and not schedules.can_draw():
            self._need_hypothesis(seen)

    def failed_late(self, error: BaseException) -> NoReturn:
        """Raise the error of fixtures that could not be torn down after the last run.

        Raises:
            ScheduleFailedError: It has the schedule of that run.
        """
        __tracebackhide__ = True
        self._last.error = error
        self._search.failed_late(self._last.course)
        self._raise_failure(None if self._token else self._search.seen)
        raise error

    def _draw(
        self,
        run: Callable[[schedules.Way], bool],
        room: Callable[[], int],
        undisturbed: Course,
        fewest: int,
    ) -> None:
        if not schedules.can_draw():
            return
        session = current_session()
        session.draws_tests = True
        seed = zlib.crc32(self._item.nodeid.encode())
        try:
            schedules.draw(seed, run, room, undisturbed, fewest)
        finally:
            session.draws_tests = False

    def _need_hypothesis(self, seen: Seen) -> None:
        __tracebackhide__ = True
        msg = (
            f"{self._item.nodeid} has more schedules than examples={self._bounds.examples} "
            f"(seen: {seen.text()}). Beyond that, Hypothesis draws them, which is not installed.\n"
            "Install it: pip install 'pytest-djcelery[hypothesis]'; or let the marker run more: "
            "@pytest.mark.celery_explore(examples=…)."
        )
        raise pytest.UsageError(msg)

    def _replay(self, least: _Failing) -> None:
        """Run the least failing schedule once more, so that the report is about it."""
        __tracebackhide__ = True
        if self._last.course != least.course:
            self._run(follow(least.course.schedule, least.course.what))
        if self._last.error is not None:
            return
        if least.course not in self._search.late:
            now = step_texts.all_steps(self._last.steps)
            raise self._not_replayable(step_texts.changed_text(least.steps, now)) from least.error
        self._last.error = least.error

    def _raise_failure(self, seen: Seen | None) -> None:
        __tracebackhide__ = True
        last, nodeid = self._last, self._item.nodeid
        if last.error is not None:
            token = self._token or Token.of(nodeid, last.course)
            text = step_texts.report(seen, last.steps, last.error, nodeid, token)
            raise ScheduleFailedError(text) from last.error

    def _tell(self, text: str) -> None:
        """Say what was covered, in the properties of the report."""
        self._item.user_properties.append((PROPERTY, text))
        if self._lost:
            self._item.user_properties.append((_LOST_PROPERTY, "; ".join(sorted(self._lost))))


def _raise(error: Exception) -> NoReturn:
    __tracebackhide__ = True
    raise error


# A test that runs again within its own report, with fresh function-scoped fixtures --------
# Wider fixtures stay, as they do from one test to the next. Every step goes through pytest's hooks,
# so that other plugins (logs, warnings, random seeds, async tests) see what they see of two tests.
#
# Private API (``_initrequest`` of an item, which pytest has for plugins that rerun tests, its
# instance, the storage of its stash, ``_report_sections``, the finalizers of its fixtures, and the
# list of errors of a unittest test case), checked on pytest 8.0 to 9.2.

#: What means that a test has failed; anything else ends the run, or the search.
FAILURES = (Exception, pytest.fail.Exception)
#: What says that there is nothing to test.
SKIPS = (pytest.skip.Exception, pytest.xfail.Exception)
#: What is no outcome of one run.
ENDS = (pytest.exit.Exception, *SKIPS)


class Rerun:
    """The runs of one test.

    Args:
        item: The test, which has been set up.
    """

    def __init__(self, item: Any) -> None:
        self._item = item
        self._noted = dict(item.stash._storage)  # what plugins have noted in the set-up
        self._sections = len(item._report_sections)
        self._properties = len(item.user_properties)
        # A wider fixture keeps a finalizer for each set-up of one that asks for it.
        self._finalizers = [
            (definition._finalizers, len(definition._finalizers))
            for definitions in item._fixtureinfo.name2fixturedefs.values()
            for definition in definitions
            if definition.scope != "function" and definition.cached_result is not None
        ]

    def call(self) -> BaseException | None:
        """Run the test on fixtures that have been set up, and return its error.

        Raises:
            BaseException: The test is skipped, or the run of pytest has to end.
        """
        try:
            self._item.ihook.pytest_runtest_call(item=self._item)
        except ENDS:
            raise
        except FAILURES as error:
            return error
        return kept_error(self._item)

    def tear_down(self) -> BaseException | None:
        """Tear the fixtures of the test down, and return the error of that."""
        item = self._item
        for key, noted in self._noted.items():
            item.stash._storage.setdefault(key, noted)
        try:
            # The chain of nodes above the test stays: as if another test of its class came next.
            item.ihook.pytest_runtest_teardown(item=item, nextitem=item.parent)
        except FAILURES as error:
            return error
        finally:
            for finalizers, count in self._finalizers:
                del finalizers[count:]
        return None

    def set_up(self) -> BaseException | None:
        """Set the fixtures of the test up anew, and return the error of that."""
        item = self._item
        item.stash._storage.clear()
        item.stash._storage.update(self._noted)
        del item._report_sections[self._sections :]
        del item.user_properties[self._properties :]
        item._initrequest()
        for of_instance in ("_instance", "_obj"):  # of the test's class
            item.__dict__.pop(of_instance, None)
        try:
            item.ihook.pytest_runtest_setup(item=item)
        except ENDS:
            raise
        except FAILURES as error:
            return error
        return None


def kept_error(item: Any) -> BaseException | None:
    """The error of a unittest test case, which pytest keeps and doesn't raise.

    Raises:
        BaseException: The test case was skipped.
    """
    kept: list[pytest.ExceptionInfo[BaseException]] = item.__dict__.pop("_excinfo", None) or []
    for info in kept:
        if isinstance(info.value, SKIPS):
            raise info.value
    return kept[0].value if kept else None


# Notices messages that other threads publish: no schedule decides when they do ------------


@contextmanager
def publishes_watched(item: pytest.Item) -> Iterator[list[str]]:
    """Yield the names of the threads, other than the test's, that publish within the ``with``.

    An async test does so by its nature: what is synchronous runs in Django's thread for that.
    """
    found: list[str] = []
    own = threading.get_ident()
    if inspect.iscoroutinefunction(getattr(item, "obj", None)):
        yield found
        return

    def note(**_: Any) -> None:
        if threading.get_ident() != own and not in_task():
            found.append(threading.current_thread().name)

    before_task_publish.connect(note, weak=False)
    try:
        yield found
    finally:
        before_task_publish.disconnect(note)
