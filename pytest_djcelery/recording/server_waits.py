"""Results that a server sends (Redis, RPC): waits for them end, and say what they waited for.

Celery's own waits for such results never end where the test sets no timeout.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final

from celery.exceptions import TimeoutError as CeleryTimeoutError
from kombu.exceptions import OperationalError

from pytest_djcelery.brokers.servers import ResultsUnreachableError
from pytest_djcelery.clock import Deadline
from pytest_djcelery.errors import DjceleryError
from pytest_djcelery.patching import patches, replaced
from pytest_djcelery.project.after_import import entered_after_import
from pytest_djcelery.recording.result_waits import (
    NeverReadyError,
    WaitTimeoutError,
    named,
    no_result_text,
    too_late_text,
)
from pytest_djcelery.recording.task_threads import in_task

if TYPE_CHECKING:
    from celery import Celery

    from pytest_djcelery.recording.result_waits import WaitingTest


_GRACE: Final = 1.0  # seconds, to read what the worker sent before it ended


@patches(
    "celery.backends.asynchronous:AsyncBackendMixin._wait_for_pending",
    why="Celery waits without a deadline for results that a server sends.",
    checked_on="Celery 5.4 to 5.7",
)
@contextmanager
def result_waits_bounded(
    app: Celery, timeout: float, waiting: Callable[[], WaitingTest | None]
) -> Iterator[None]:
    """Give every wait of a test for results of ``app`` a deadline.

    Private API (``AsyncBackendMixin._wait_for_pending``, which ``get`` and ``join`` share),
    checked on Celery 5.4 to 5.7.

    Args:
        app: The project's app.
        timeout: Seconds, for a wait that sets no timeout itself.
        waiting: Returns the running test, if it has an open sandbox.
    """
    from celery.backends.asynchronous import AsyncBackendMixin

    wait_for_pending = vars(AsyncBackendMixin)["_wait_for_pending"]

    def bounded_wait_for_pending(
        self: Any, result: Any, timeout: float | None = None, **options: Any
    ) -> Any:
        __tracebackhide__ = True
        if self.app is not app or in_task():
            yield from wait_for_pending(self, result, timeout=timeout, **options)
            return
        seconds = limit if timeout is None else timeout
        options["on_interval"] = _unless_worker_has_ended(options.get("on_interval"), waiting)
        with unreachable_backend_named(self, f"No result for {named(result)} can come.", waiting()):
            try:
                yield from wait_for_pending(self, result, timeout=seconds, **options)
            except _WorkerHasEndedError:
                raise NeverReadyError(
                    no_result_text([named(result)], _situation(waiting()))
                ) from None
            except CeleryTimeoutError as error:
                if isinstance(error, WaitTimeoutError):
                    raise
                raise WaitTimeoutError(
                    too_late_text([named(result)], seconds, _situation(waiting()))
                ) from error

    limit = timeout
    with ExitStack() as stack:
        stack.enter_context(replaced(AsyncBackendMixin, _wait_for_pending=bounded_wait_for_pending))
        if "celery.backends.redis" in sys.modules or str(app.conf.result_backend).startswith(
            "redis"
        ):
            stack.enter_context(_subscriptions_explained(app, waiting))
        yield


@patches(
    "celery.backends.redis:RedisBackend.on_task_call",
    why="Celery subscribes to a result before it sends the message: the error for a server that is "
    "down names it there.",
    checked_on="Celery 5.4 to 5.7",
)
@contextmanager
def _subscriptions_explained(
    app: Celery, waiting: Callable[[], WaitingTest | None]
) -> Iterator[None]:
    """Name a server that is down, when Celery subscribes to a result before sending the message."""
    from celery.backends.redis import RedisBackend

    on_task_call = vars(RedisBackend)["on_task_call"]

    def explained_on_task_call(self: Any, producer: Any, task_id: str) -> Any:
        __tracebackhide__ = True
        if self.app is not app:
            return on_task_call(self, producer, task_id)
        with unreachable_backend_named(self, "The task was not sent.", waiting()):
            return on_task_call(self, producer, task_id)

    with replaced(RedisBackend, on_task_call=explained_on_task_call):
        yield


class _WorkerHasEndedError(Exception):
    """Ends a wait from inside, where Celery takes any `TimeoutError` for the backend's own."""


def _unless_worker_has_ended(
    on_interval: Callable[[], object] | None, waiting: Callable[[], WaitingTest | None]
) -> Callable[[], None]:
    """Make an ``on_interval`` that also ends the wait soon after the worker has ended."""
    grace: Deadline | None = None

    def after_interval() -> None:
        nonlocal grace
        if on_interval:
            on_interval()
        current = waiting()
        if current is None or not current.worker_has_ended():
            return
        if grace is None:
            grace = Deadline(_GRACE)
        elif grace.passed:
            raise _WorkerHasEndedError

    return after_interval


@contextmanager
def unreachable_backend_named(
    backend: Any, consequence: str, waiting: WaitingTest | None
) -> Iterator[None]:
    """Name the result backend in the error that its client raises when it does not answer.

    Args:
        backend: The result backend.
        consequence: What follows from it, as a sentence.
        waiting: The running test, whose worker will end of the same error.

    Raises:
        ResultsUnreachableError: Instead of the client's error.
    """
    __tracebackhide__ = True
    try:
        yield
    except DjceleryError:  # it already says so
        raise
    except Exception as error:
        _explain(backend, error, consequence, waiting)
        raise


def _explain(backend: Any, error: Exception, consequence: str, waiting: WaitingTest | None) -> None:
    """Say which backend does not answer, if that is what an error means.

    Raises:
        ResultsUnreachableError: Instead of the error of the backend's client.
    """
    __tracebackhide__ = True
    errors = (*getattr(backend, "connection_errors", ()), OperationalError)
    cause = error.__cause__ if isinstance(error.__cause__, errors) else error
    # Celery gives up with a RuntimeError.
    if isinstance(cause, errors) or isinstance(error.__context__, errors):
        if waiting is not None:
            waiting.worker_end_is_explained()  # a worker ends when it can't store a result
        raise ResultsUnreachableError(
            f"The result backend {backend.as_uri()} does not answer: {cause or error}\n"
            f"{consequence} The run uses that backend because of djcelery_result_backend "
            "(or --djcelery-result-backend), or of a setting that the test changed.\n"
            "Start it, or use djcelery_result_backend = memory (the default), which needs none."
        ) from error


def _situation(waiting: WaitingTest | None) -> str:
    return "" if waiting is None else waiting.situation()


# Stores results in Redis without a command that redis-py has deprecated -------------------


def results_set_without_setex() -> AbstractContextManager[None]:
    """Within the ``with``, have results stored by ``SET … EX``, which does what ``SETEX`` does."""
    return entered_after_import("celery.backends.redis", _set_replaced)


@patches(
    "celery.backends.redis:RedisBackend._set",
    why="Celery stores results by redis-py's setex(), which is deprecated since redis-py 8: where "
    "warnings are errors, none would be stored.",
    checked_on="Celery 5.4 to 5.7, redis-py 6 to 8",
)
@contextmanager
def _set_replaced() -> Iterator[None]:
    from celery.backends.redis import RedisBackend

    def _set(self: Any, key: Any, value: Any, expires: Any = None) -> None:
        expires = self.expires if expires is None else expires
        with self.client.pipeline() as pipe:
            pipe.set(key, value, ex=expires or None)
            pipe.publish(key, value)
            pipe.execute()

    with replaced(RedisBackend, _set=_set):
        yield
