"""Task failures that the test never looked at, and which reads of a result count as a look.

Private API of celery.result, in `watched_results`: Celery has no hook for reads. Checked on
Celery 5.4 to 5.7.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Protocol

from pytest_djcelery import locations
from pytest_djcelery.errors import is_meant
from pytest_djcelery.locations import in_library, is_of_project, relative
from pytest_djcelery.messages.events import Ended, Event, Looked, RaisedElsewhere
from pytest_djcelery.patching import Current, patches, replaced

if TYPE_CHECKING:
    from types import TracebackType

    from pytest_djcelery.messages.journal import Journal


#: What code can ask a result without learning that the task failed.
_REVEAL_NO_FAILURE: Final = frozenset({
    "ready", "waiting", "completed_count", "exists", "children", "iterdeps", "build_graph",
    "graph", "date_done", "name", "args", "kwargs", "worker", "retries", "queue",
})  # fmt: skip
#: Celery's own reads: an eager chain asks how its parts ended.
_CELERYS_OWN: Final = ("celery.canvas", "celery.app.", "celery.worker.")
#: Packages that call functions which the test gave them.
_CALLERS_FOR_TEST: Final = frozenset({"_pytest", "pytest", "pluggy", "anyio", "unittest"})
# A call in a formatted traceback.
_CALL = re.compile(r'\s*File "(?P<path>.+)", line (?P<line>\d+), in (?P<function>.+)')


class ReadListener(Protocol):
    """Called when results are read."""

    def looked(self, task_ids: Iterable[str]) -> None:
        """The test has read the outcome of these tasks."""

    def raised_elsewhere(self, task_ids: Iterable[str], error: BaseException) -> None:
        """The outcome of these tasks was raised in code that is not the test's."""


def _test_learns_of_failure(suite: Container[str]) -> bool:
    """Whether it is the test itself that reads, and reads something that shows a failure.

    The nearest frame of the project decides: when the test calls a view that polls a result, the
    test learns nothing from it. A thread without such a frame was given the method itself, as by
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
        elif module.startswith(_CELERYS_OWN) or not _calls_for_test(path, module):
            return False
        frame = frame.f_back
    return asked not in _REVEAL_NO_FAILURE


def _calls_for_test(path: str, module: str) -> bool:
    return locations.in_library(path) or module.partition(".")[0] in _CALLERS_FOR_TEST


def reached_test(error: BaseException, suite: Container[str]) -> bool:
    """Whether an error that was raised in other code has reached the test since.

    An error's traceback begins with the frame that caught it. ``assertRaises`` removes it.
    """
    traceback = error.__traceback__
    if traceback is None:
        return True
    frame = traceback.tb_frame
    package = str(frame.f_globals.get("__name__")).partition(".")[0]
    return frame.f_code.co_filename in suite or package in _CALLERS_FOR_TEST


class _ReadWatch:
    """Finds out what each read of a result has shown, and to whom."""

    def __init__(self, listener: Current[Any], suite: Container[str]) -> None:
        self._listener = listener
        self._suite = suite

    def read(self, result: Any, error: BaseException | None = None) -> None:
        """Note that an outcome was read, which matters only if it is a failure."""
        if self._listener.now is not None and _has_failed(result):
            self.failure_read(result, error)

    def failure_read(self, result: Any, error: BaseException | None = None) -> None:
        """Note that a failure was read, of a result or of one of its parts."""
        listener: ReadListener | None = self._listener.now
        if listener is None:
            return
        if _test_learns_of_failure(self._suite):
            listener.looked(with_relatives(result))
        elif error is not None:
            listener.raised_elsewhere(with_relatives(result), error)


@patches(
    "celery.result:EagerResult.state",
    "celery.result:EagerResult.status",
    "celery.result:EagerResult.result",
    "celery.result:EagerResult.traceback",
    "celery.result:EagerResult.get",
    "celery.result:EagerResult.wait",
    why="Celery has no hook for the read of a result, nor for the start of a wait.",
    checked_on="Celery 5.4 to 5.7",
)
@contextmanager
def watched_results(listener: Current[Any], suite: Container[str]) -> Iterator[None]:
    """Within the ``with``, note each read of a result that shows a failure.

    Args:
        listener: Called for each such read.
        suite: The files of the tests.
    """
    from celery.result import AsyncResult, EagerResult

    watch = _ReadWatch(listener, suite)
    state = _watched_property(watch, AsyncResult, "state")
    result = _watched_property(watch, AsyncResult, "result")
    throw = _watched_method(AsyncResult, "maybe_throw", watch.read)
    eager_state = _watched_property(watch, EagerResult, "state")
    eager_get = _watched_method(EagerResult, "get", watch.read)
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
        _watched_result_sets(watch),
    ):  # fmt: skip
        yield


def _watched_property(watch: _ReadWatch, owner: Any, name: str) -> property:
    attribute = vars(owner)[name]

    def read(self: Any) -> Any:
        value = attribute.fget(self)
        watch.read(self)
        return value

    return property(read, doc=attribute.__doc__)


def _watched_method(
    owner: Any, name: str, read: Callable[[Any, BaseException | None], None]
) -> Any:
    method = vars(owner)[name]

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        error = None
        try:
            return method(self, *args, **kwargs)
        except BaseException as raised:
            error = raised
            raise
        finally:
            read(self, error)

    return watched


def _watched_gets(watch: _ReadWatch) -> dict[str, Any]:
    """``get``, which may raise the error of a parent, since that fails what comes after it too."""
    from celery.exceptions import TimeoutError as CeleryTimeoutError
    from celery.result import AsyncResult

    get = vars(AsyncResult)["get"]

    def watched_get(self: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        try:
            return get(self, *args, **kwargs)
        except Exception as error:
            if self._cache or not isinstance(error, CeleryTimeoutError):
                watch.failure_read(self, error)
            raise

    return {"get": watched_get, "wait": watched_get}


@contextmanager
def _watched_result_sets(watch: _ReadWatch) -> Iterator[None]:
    """Watch several results as one: learning that one failed counts as a look at all of them."""
    from celery.result import ResultSet

    iter_native = vars(ResultSet)["iter_native"]

    def watched_iter(self: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        watch.failure_read(self)
        return iter_native(self, *args, **kwargs)

    questions = ("failed", "successful", "maybe_throw", "maybe_reraise")
    with result_set_replaced(
        join=_watched_method(ResultSet, "join", watch.failure_read),
        join_native=_watched_method(ResultSet, "join_native", watch.failure_read),
        iter_native=watched_iter,
        **{name: _watched_method(ResultSet, name, watch.read) for name in questions},
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
    why="Celery has no hook for the read of a result, nor for the start of a wait.",
    checked_on="Celery 5.4 to 5.7",
)
@contextmanager
def async_result_replaced(**attributes: Any) -> Iterator[None]:
    """Replace attributes of every `AsyncResult` by these, which call what was there before."""
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
    why="Celery has no hook for the read of a result, nor for the start of a wait.",
    checked_on="Celery 5.4 to 5.7",
)
@contextmanager
def result_set_replaced(**methods: Any) -> Iterator[None]:
    """Replace methods of every `ResultSet` by these, which call what was there before."""
    from celery.result import ResultSet

    with replaced(ResultSet, **methods):
        yield


def _has_failed(result: Any) -> bool:
    """Whether what a result has already read is a failure; no backend is asked."""
    from celery import states
    from celery.result import ResultSet

    if isinstance(result, ResultSet):
        return any(map(_has_failed, result.results))
    known = getattr(result, "_cache", None)
    return isinstance(known, dict) and known.get("status") in states.EXCEPTION_STATES


def with_relatives(result: Any) -> list[str]:
    """The ids of a result, of its parts and of what led to it.

    Reading the outcome of a chain or chord counts as a look at its parts, since these make it fail.
    """
    found: dict[str, None] = {}
    pending = [result]
    while pending:
        current = pending.pop()
        own = getattr(current, "id", None)  # a set of results has none
        if current is None or own in found:
            continue
        if own is not None:
            found[own] = None
        pending.append(getattr(current, "parent", None))
        pending.extend(getattr(current, "results", None) or ())
    return list(found)


def unhandled(journal: Journal, suite: Container[str], since: int = 0) -> list[Ended]:
    """Final failures, in order, whose outcome was not read.

    Errors in ``Task.throws``, and those that a fault has raised, don't count.

    Args:
        journal: The journal of the tasks and of the reads.
        suite: The files of the tests.
        since: The position in the journal from which failures count.
    """
    reads = [
        event for event in journal.events(Event) if isinstance(event, Looked | RaisedElsewhere)
    ]
    return unseen(journal.events(Ended, since), reads, suite)


def unseen(
    attempts: Iterable[Ended], reads: Iterable[Looked | RaisedElsewhere], suite: Container[str]
) -> list[Ended]:
    """The attempts of tasks that are final failures, and that the test never saw."""
    last: dict[str, Ended] = {}
    for event in attempts:
        # An attempt that leads to another may be recorded after that one (`Results._ended`).
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
        and not is_meant(event.value)
        and event.task_id not in looked
        and not (event.eager and reached_test(event.value, suite))  # raised at the call
    ]


def describe(failure: Ended, journal: Journal, named: Callable[[str], str] = str) -> str:
    """Task, arguments, id and attempt in one line.

    Args:
        failure: The attempt that failed.
        journal: The journal of the test.
        named: What to write for an id.
    """
    # This loads Celery, which a run that uses no fixture must not do.
    from pytest_djcelery.messages.descriptions import call_text, message_text

    attempt = f", attempt {failure.retries + 1}" if failure.retries else ""
    sent = [message for message in journal.sent(failure.task_id) if message.django_call]
    call = (
        message_text(sent[0])
        if sent
        else call_text(failure.task, failure.args or (), failure.kwargs or {})
    )
    return f"{call} [{named(failure.task_id)}]{attempt}"


def led_to(cause: object, error: BaseException | None) -> bool:
    """Whether an error is the given cause, or was raised because of it."""
    while error is not None:
        if error is cause:
            return True
        error = error.__cause__ or error.__context__
    return False


def is_copy(error: BaseException | None, original: object) -> bool:
    """Whether an error is a copy from the result backend, as ``get()`` raises it."""
    if type(error).__name__ != type(original).__name__:
        return False
    try:
        return str(error) == str(original)
    except Exception:  # noqa: BLE001 - an error of the project may have no text
        return False


def own_traceback(error: BaseException) -> TracebackType | None:
    """The part of a task's traceback that begins in the task, without Celery's tracer."""
    traceback = error.__traceback__
    while traceback is not None and in_library(traceback.tb_frame.f_code.co_filename):
        traceback = traceback.tb_next
    return traceback or error.__traceback__


def own_calls(text: str) -> Iterator[str]:
    """The project's own calls in a formatted traceback, one line each, innermost last."""
    lines = text.splitlines()
    calls = [(number, found) for number, line in enumerate(lines) if (found := _CALL.match(line))]
    own = [(number, call) for number, call in calls if is_of_project(call["path"])]
    outside = [(number, call) for number, call in calls if not in_library(call["path"])]
    for number, call in own or outside:
        source = lines[number + 1].strip() if number + 1 < len(lines) else ""
        yield f"at {relative(call['path'])}:{call['line']} in {call['function']}: {source}"


def raised_text(text: str) -> list[str]:
    """The lines of a formatted traceback that say what was raised: its type and its text."""
    lines = text.splitlines()
    last = max((number for number, line in enumerate(lines) if _CALL.match(line)), default=-1)
    rest = lines[last + 1 :]
    first = next((number for number, line in enumerate(rest) if line[:1].strip()), len(rest))
    return rest[first:]


def text(failures: list[Ended], journal: Journal, named: Callable[[str], str] = str) -> str:
    """The text of the error or warning at the end of the test; `describe` has the arguments."""
    return "\n".join(_lines(failures, journal, named))


def _lines(failures: list[Ended], journal: Journal, named: Callable[[str], str]) -> Iterator[str]:
    count = len(failures)
    tasks = "A task failed" if count == 1 else f"{count} tasks failed"
    yield f"{tasks} and the test never looked at {'it' if count == 1 else 'them'}:"
    for failure in failures:
        error = failure.value
        yield f"  {describe(failure, journal, named)}: {type(error).__name__}: {error}"
    yield "Where the failure is meant, look at it: with pytest.raises(...): result.get(), or"
    yield "celery_results[result] == Failure(...), or celery_results.of(task)."
    yield "To let failures pass: @pytest.mark.celery_unhandled_failures('ignore'), or"
    yield "djcelery_unhandled_failures = ignore for the whole run."
