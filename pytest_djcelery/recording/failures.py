"""Task failures that nobody looked at, and which reads of a result count as a look.

Private API of celery.result, in `watched_results`: Celery has no hook for a reader. Checked on
Celery 5.4 to 5.7.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Protocol

from pytest_djcelery import locations
from pytest_djcelery.locations import in_library, is_of_project, relative
from pytest_djcelery.messages.journal import Ended, Event, Journal, Looked, RaisedElsewhere
from pytest_djcelery.patching import patches, replaced

if TYPE_CHECKING:
    from types import TracebackType


#: What may be asked of results without learning that one of them failed.
_TELL_NOTHING: Final = frozenset({
    "ready", "waiting", "completed_count", "exists", "children", "iterdeps", "build_graph",
    "graph", "date_done", "name", "args", "kwargs", "worker", "retries", "queue",
})  # fmt: skip
#: Celery's own looks: an eager chain asks how its parts ended.
_CELERYS_OWN: Final = ("celery.canvas", "celery.app.", "celery.worker.")
#: Packages that call what the test has given them.
_PASSING_ON: Final = frozenset({"_pytest", "pytest", "pluggy", "anyio", "unittest"})
# A call in a formatted traceback.
_CALL = re.compile(r'\s*File "(?P<path>.+)", line (?P<line>\d+), in (?P<function>.+)')


class Reads(Protocol):
    """Who is told of results that are read."""

    def looked(self, task_ids: Iterable[str]) -> None:
        """The test has read the outcome of these."""

    def raised_elsewhere(self, task_ids: Iterable[str], error: BaseException) -> None:
        """The outcome of these was raised to code that is not the test's."""


def _is_of_test(suite: Container[str]) -> bool:
    """Whether the test itself asks, and for what tells of a failure.

    The nearest frame of the project decides: a view that the test calls and that polls a result
    tells the test nothing. A thread that has no such frame was given the very method, as by
    ``sync_to_async(result.get)``.
    """
    asked = None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path in suite:
            break
        module = str(frame.f_globals.get("__name__"))
        if module == "celery.result":
            asked = frame.f_code.co_name
        elif module.startswith(_CELERYS_OWN) or not _passes_on(path, module):
            return False
        frame = frame.f_back
    return asked not in _TELL_NOTHING


def _passes_on(path: str, module: str) -> bool:
    return locations.in_library(path) or module.partition(".")[0] in _PASSING_ON


def reached_test(error: BaseException, suite: Container[str]) -> bool:
    """Whether an error that was raised to other code has come through to the test since.

    An error's traceback begins with the frame that has caught it. ``assertRaises`` takes it off.
    """
    traceback = error.__traceback__
    if traceback is None:
        return True
    frame = traceback.tb_frame
    package = str(frame.f_globals.get("__name__")).partition(".")[0]
    return frame.f_code.co_filename in suite or package in _PASSING_ON


class _Watch:
    """Finds out what a read has told, and whom."""

    def __init__(self, reads: Reads, suite: Container[str]) -> None:
        self._reads = reads
        self._suite = suite

    def read(self, result: Any, error: BaseException | None = None) -> None:
        """An outcome was read; that of a success tells of no failure."""
        if _has_failed(result):
            self.tell(result, error)

    def tell(self, result: Any, error: BaseException | None = None) -> None:
        """A failure of a result, or of what it stands for, was read."""
        if _is_of_test(self._suite):
            self._reads.looked(with_relatives(result))
        elif error is not None:
            self._reads.raised_elsewhere(with_relatives(result), error)


@patches(
    "celery.result:EagerResult.state",
    "celery.result:EagerResult.status",
    "celery.result:EagerResult.result",
    "celery.result:EagerResult.traceback",
    "celery.result:EagerResult.get",
    "celery.result:EagerResult.wait",
    why="Celery has no hook for a reader: neither for a look at a result nor for a wait that "
    "begins.",
    checked_on="Celery 5.4 to 5.7",
)
@contextmanager
def watched_results(reads: Reads, suite: Container[str]) -> Iterator[None]:
    """Note each failure that a result tells to who asks.

    Args:
        reads: is told.
        suite: the files of the tests.
    """
    from celery.result import AsyncResult, EagerResult

    watch = _Watch(reads, suite)
    state = _watched_property(watch, AsyncResult, "state")
    result = _watched_property(watch, AsyncResult, "result")
    throw = _watched_method(watch, AsyncResult, "maybe_throw")
    eager_state = _watched_property(watch, EagerResult, "state")
    eager_get = _watched_method(watch, EagerResult, "get")
    with (
        async_result_replaced(
            state=state, status=state, result=result, info=result,
            traceback=_watched_property(watch, AsyncResult, "traceback"),
            maybe_throw=throw, maybe_reraise=throw, **_watched_gets(watch),
        ),
        replaced(
            EagerResult, state=eager_state, status=eager_state,
            result=_watched_property(watch, EagerResult, "result"),
            traceback=_watched_property(watch, EagerResult, "traceback"),
            get=eager_get, wait=eager_get,
        ),
        _watched_sets(watch),
    ):  # fmt: skip
        yield


def _watched_property(watch: _Watch, owner: Any, name: str) -> property:
    attribute = vars(owner)[name]

    def read(self: Any) -> Any:
        value = attribute.fget(self)
        watch.read(self)
        return value

    return property(read, doc=attribute.__doc__)


def _watched_method(watch: _Watch, owner: Any, name: str) -> Any:
    method = vars(owner)[name]

    def asked(self: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        error = None
        try:
            return method(self, *args, **kwargs)
        except BaseException as raised:
            error = raised
            raise
        finally:
            watch.read(self, error)

    return asked


def _watched_gets(watch: _Watch) -> dict[str, Any]:
    """``get``, which may raise what a parent failed with: it fails what comes after it, too."""
    from celery.exceptions import TimeoutError as CeleryTimeoutError
    from celery.result import AsyncResult

    get = vars(AsyncResult)["get"]

    def asked(self: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        try:
            return get(self, *args, **kwargs)
        except Exception as error:
            if self._cache or not isinstance(error, CeleryTimeoutError):
                watch.tell(self, error)
            raise

    return {"get": asked, "wait": asked}


@contextmanager
def _watched_sets(watch: _Watch) -> Iterator[None]:
    """Who is told that one of several results has failed, has been told of all of them."""
    from celery.result import ResultSet

    iter_native = vars(ResultSet)["iter_native"]

    def joined(name: str) -> Any:
        method = vars(ResultSet)[name]

        def asked(self: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            error = None
            try:
                return method(self, *args, **kwargs)
            except BaseException as raised:
                error = raised
                raise
            finally:
                watch.tell(self, error)

        return asked

    def watched_iter(self: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        watch.tell(self)
        return iter_native(self, *args, **kwargs)

    questions = ("failed", "successful", "maybe_throw", "maybe_reraise")
    with result_set_replaced(
        join=joined("join"), join_native=joined("join_native"), iter_native=watched_iter,
        **{name: _watched_method(watch, ResultSet, name) for name in questions},
    ):  # fmt: skip
        yield


@patches(
    "celery.result:AsyncResult.state",
    "celery.result:AsyncResult.status",
    "celery.result:AsyncResult.result",
    "celery.result:AsyncResult.info",
    "celery.result:AsyncResult.traceback",
    "celery.result:AsyncResult.maybe_throw",
    "celery.result:AsyncResult.maybe_reraise",
    "celery.result:AsyncResult.get",
    "celery.result:AsyncResult.wait",
    why="Celery has no hook for a reader: neither for a look at a result nor for a wait that "
    "begins.",
    checked_on="Celery 5.4 to 5.7",
)
@contextmanager
def async_result_replaced(**attributes: Any) -> Iterator[None]:
    """Have every `AsyncResult` read by these, which call what was there before."""
    from celery.result import AsyncResult

    with replaced(AsyncResult, **attributes):
        yield


@patches(
    "celery.result:ResultSet.join",
    "celery.result:ResultSet.join_native",
    "celery.result:ResultSet.iter_native",
    "celery.result:ResultSet.failed",
    "celery.result:ResultSet.successful",
    "celery.result:ResultSet.maybe_throw",
    "celery.result:ResultSet.maybe_reraise",
    why="Celery has no hook for a reader: neither for a look at a result nor for a wait that "
    "begins.",
    checked_on="Celery 5.4 to 5.7",
)
@contextmanager
def result_set_replaced(**methods: Any) -> Iterator[None]:
    """Have every `ResultSet` read by these, which call what was there before."""
    from celery.result import ResultSet

    with replaced(ResultSet, **methods):
        yield


def _has_failed(result: Any) -> bool:
    """Whether a failure is among what a result has read; it asks no backend."""
    from celery import states
    from celery.result import ResultSet

    if isinstance(result, ResultSet):
        return any(map(_has_failed, result.results))
    known = getattr(result, "_cache", None)
    return isinstance(known, dict) and known.get("status") in states.EXCEPTION_STATES


def with_relatives(result: Any) -> list[str]:
    """The ids of a result, of what it is made of and of what led to it.

    Who reads the outcome of a chain or chord has been told of its parts: they fail it.
    """
    found: dict[str, None] = {}
    pending = [result]
    while pending:
        each = pending.pop()
        own = getattr(each, "id", None)  # a set of results has none
        if each is None or own in found:
            continue
        if own is not None:
            found[own] = None
        pending.append(getattr(each, "parent", None))
        pending.extend(getattr(each, "results", None) or ())
    return list(found)


def unhandled(journal: Journal, suite: Container[str], since: int = 0) -> list[Ended]:
    """Final failures, in order, whose outcome was not read. ``Task.throws`` are no failures.

    Args:
        journal: what happened.
        suite: the files of the tests.
        since: the position from which on a failure counts.
    """
    reads = [
        event for event in journal.events(Event) if isinstance(event, Looked | RaisedElsewhere)
    ]
    return unseen(journal.events(Ended, since), reads, suite)


def unseen(
    attempts: Iterable[Ended], reads: Iterable[Looked | RaisedElsewhere], suite: Container[str]
) -> list[Ended]:
    """Those of the tasks' attempts that are final failures, and that the test never saw."""
    last: dict[str, Ended] = {}
    for event in attempts:
        # An attempt that leads to another may be told of after that one (`Results._ended`).
        if not event.goes_on or event.task_id not in last:
            last[event.task_id] = event
    looked: set[str] = set()
    for read in reads:
        if isinstance(read, Looked):
            looked.add(read.task_id)
        elif reached_test(read.error, suite):
            looked.update(read.task_ids)
    return [
        event
        for event in last.values()
        if event.state == "FAILURE"
        and not event.expected
        and event.task_id not in looked
        and not (event.eager and reached_test(event.value, suite))  # raised at the call
    ]


def describe(failure: Ended) -> str:
    """Task, id, arguments and attempt in a line."""
    # It loads Celery, which a run that uses no fixture must not.
    from pytest_djcelery.messages.descriptions import call_text

    attempt = f", attempt {failure.retries + 1}" if failure.retries else ""
    call = call_text(failure.task, failure.args or (), failure.kwargs or {})
    return f"{call} [{failure.task_id}]{attempt}"


def own_traceback(error: BaseException) -> TracebackType | None:
    """The part of a task's traceback that begins in the task, without Celery's tracer."""
    traceback = error.__traceback__
    while traceback is not None and in_library(traceback.tb_frame.f_code.co_filename):
        traceback = traceback.tb_next
    return traceback or error.__traceback__


def own_calls(text: str) -> Iterator[str]:
    """The project's own calls in a formatted traceback, in a line each, innermost last."""
    lines = text.splitlines()
    calls = [(number, found) for number, line in enumerate(lines) if (found := _CALL.match(line))]
    own = [each for each in calls if is_of_project(each[1]["path"])]
    for number, call in own or [each for each in calls if not in_library(each[1]["path"])]:
        source = lines[number + 1].strip() if number + 1 < len(lines) else ""
        yield f"at {relative(call['path'])}:{call['line']} in {call['function']}: {source}"


def raised_text(text: str) -> list[str]:
    """The lines of a formatted traceback that tell what was raised: its type and its text."""
    lines = text.splitlines()
    last = max((number for number, line in enumerate(lines) if _CALL.match(line)), default=-1)
    rest = lines[last + 1 :]
    first = next((number for number, line in enumerate(rest) if line[:1].strip()), len(rest))
    return rest[first:]


def text(failures: list[Ended]) -> str:
    """What is raised or warned at the end of the test."""
    return "\n".join(_lines(failures))


def _lines(failures: list[Ended]) -> Iterator[str]:
    count = len(failures)
    tasks = "A task failed" if count == 1 else f"{count} tasks failed"
    yield f"{tasks} and the test never looked at {'it' if count == 1 else 'them'}:"
    for failure in failures:
        error = failure.value
        yield f"  {describe(failure)}: {type(error).__name__}: {error}"
    yield "Where the failure is meant, look at it: with pytest.raises(...): result.get(), or"
    yield "celery_results[result] == Failure(...), or celery_results.of(task)."
    yield "To let failures pass: @pytest.mark.celery_unhandled_failures('ignore'), or"
    yield "djcelery_unhandled_failures = ignore for the whole run."
