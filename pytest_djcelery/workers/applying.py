"""Runs a task as a prefork pool does, for pools that have no processes.

Under prefork, any exception that leaves a task's tracer is an outcome, not only those that Celery
turns into one: an ``on_failure`` that raises, a `GeneratorExit`. The child reports it and goes on
(``billiard.pool.Worker.workloop``); errors in the callbacks of the request are logged, and the
worker goes on (``billiard.pool.ApplyResult.safe_apply_callback``). Celery's solo and threads pools
do neither. Checked on Celery 5.4 to 5.7 and billiard 4.2 to 4.3.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any, Final

from billiard.common import human_status
from billiard.einfo import ExceptionInfo
from celery.concurrency.base import logger
from celery.exceptions import TimeLimitExceeded, WorkerLostError
from celery.worker import state

from pytest_djcelery.errors import meant
from pytest_djcelery.messages.events import WorkerLost
from pytest_djcelery.patching import patches, replaced
from pytest_djcelery.recording.losses import ProcessGoneError, RunningProcess
from pytest_djcelery.session.session import current_sandbox

_KILLED: Final = -9  # the exit code of a process that was ended by signal 9
_SOME_LIMIT: Final = 300  # seconds: that of Celery's documentation, where a project has set none
#: Packages whose exceptions control the test, and are not the outcome of a task.
_TEST_TOOLS: Final = frozenset({"_pytest", "hypothesis"})


def apply_as_prefork(  # noqa: PLR0913 - what `BasePool.apply_async` passes on
    target: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    passes: Callable[[BaseException], bool],
    callback: Callable[[Any], None] | None = None,
    error_callback: Callable[[Any], None] | None = None,
    accept_callback: Callable[[int, float], None] | None = None,
    **options: Any,
) -> None:
    """Run a task in the calling thread, with the outcome that prefork would give it.

    Args:
        target: What runs the task.
        args: Positional arguments of ``target``.
        kwargs: Keyword arguments of ``target``.
        passes: Whether an exception is not an outcome of the task, and is raised by this call.
        callback: Called with what ``target`` returned.
        error_callback: Called with what it raised.
        accept_callback: Called when it begins.
        **options: What else Celery passes to a pool, such as the task's id (``correlation_id``).

    Raises:
        ProcessGoneError: The whole worker is lost, so nothing is reported to it.
    """
    if accept_callback is not None:
        accept_callback(os.getpid(), monotonic())
    running = RunningProcess()
    process = running.process
    try:
        with running:
            result = target(*args, **(kwargs or {}))
    except BaseException as error:
        if process.gone is not None:
            _report_gone(process.gone, error_callback, options)
            return
        if passes(error):
            raise
        taken = _call_back(error_callback, _lost(error) if exits(error) else ExceptionInfo())
        if not (taken or isinstance(error, Exception)):
            # Celery before 5.7 can't store it, and the task would have no outcome at all.
            _call_back(error_callback, _lost(error))
    else:
        if process.gone is not None:  # and a ``__call__`` of the project has kept that to itself
            _report_gone(process.gone, error_callback, options)
            return
        _call_back(callback, result)


def _report_gone(
    gone: ProcessGoneError,
    error_callback: Callable[[Any], None] | None,
    options: Mapping[str, Any],
) -> None:
    """Report what a worker finds when the child that ran a task is dead, as billiard does."""
    if gone.timed_out:
        _report_timeout(gone, error_callback, options)
        return
    task_id = str(options.get("correlation_id"))
    request = state.requests.get(task_id)
    current = current_sandbox()
    if current is not None:
        acknowledged = request is not None and bool(request.acknowledged)
        current.journal.append(
            WorkerLost(task_id=task_id, host=gone.host, acknowledged=acknowledged)
        )
    if gone.host:
        if request is not None:  # what comes in its place has never heard of it
            state.task_ready(request)
        raise gone
    lost = meant(WorkerLostError(f"Worker exited prematurely: {human_status(_KILLED)}."))
    _call_back(error_callback, _raised_by_pool(lost))


def _report_timeout(
    gone: ProcessGoneError,
    error_callback: Callable[[Any], None] | None,
    options: Mapping[str, Any],
) -> None:
    """Report that a child was ended by the hard limit (``billiard.pool.on_hard_timeout``)."""
    limit = options.get("timeout") or _SOME_LIMIT
    error = meant(TimeLimitExceeded(limit))
    _call_back(error_callback, _raised_by_pool(error))
    on_timeout: Callable[..., None] | None = options.get("timeout_callback")
    if on_timeout is not None:
        _call_back(lambda timeout: on_timeout(soft=False, timeout=timeout), limit)
    gone.end()


def _raised_by_pool(error: BaseException) -> ExceptionInfo:
    """Describe an error that a pool raises itself: its traceback has no frame of the task."""
    try:
        raise error from None
    except type(error):
        found = ExceptionInfo()
    error.__traceback__ = None  # of no use to who looks at the task's failure
    return found


def ends_the_test(error: BaseException) -> bool:
    """Whether an exception comes from Ctrl-C, or from a tool that ends or skips the test.

    `pytest.fail` in a mock that a task calls raises one, for example.
    """
    return isinstance(error, KeyboardInterrupt) or any(
        kind.__module__.partition(".")[0] in _TEST_TOOLS for kind in type(error).__mro__
    )


def exits(error: BaseException) -> bool:
    """Whether an exception ends the child of a prefork pool, or the worker of a solo pool."""
    return isinstance(error, (SystemExit, KeyboardInterrupt))


def _lost(error: BaseException) -> ExceptionInfo:
    code = error.code if isinstance(error, SystemExit) else error
    exited = isinstance(error, SystemExit)
    lost = WorkerLostError(f"The task {'exited with' if exited else 'raised'} {code!r}")
    lost.__cause__ = error
    return ExceptionInfo((WorkerLostError, lost, error.__traceback__))


def _call_back(callback: Callable[[Any], None] | None, outcome: Any) -> bool:
    """Whether the callback took the outcome."""
    if callback is None:
        return True
    try:
        callback(outcome)
    except MemoryError:  # Celery lets it end the worker
        raise
    except Exception as error:  # noqa: BLE001 - as billiard
        logger.exception("Pool callback raised exception: %r", error)
        return False
    return True


@patches(
    "celery.app.trace:report_internal_error",
    why="Celery reports an error in a handler or receiver by a warning, which itself would be "
    "raised where warnings are errors.",
    checked_on="Celery 5.4 to 5.7",
)
@contextmanager
def internal_errors_reported() -> Iterator[None]:
    """Have Celery report errors of handlers and receivers even where warnings are errors.

    Celery warns before it goes on with the report (``celery.app.trace.report_internal_error``); a
    worker prints the warning. The failure is reported in any case, as the outcome of the task.

    Private API, checked on Celery 5.4 to 5.7.
    """
    from celery.app import trace

    report = trace.report_internal_error

    def report_internal_error(task: Any, exc: Exception) -> Any:
        try:
            return report(task, exc)
        except RuntimeWarning:
            known = task.backend.prepare_exception(exc, "pickle")
            return ExceptionInfo((type(exc), known, exc.__traceback__), internal=True)

    with replaced(trace, report_internal_error=report_internal_error):
        yield
