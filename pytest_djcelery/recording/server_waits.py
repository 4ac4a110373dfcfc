"""Waits for results that another server is to tell of: they end, and say what they waited for.

Celery's own waits for Redis and RPC have no end where the test gives none.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final

from celery.exceptions import TimeoutError as CeleryTimeoutError
from kombu.exceptions import OperationalError

from pytest_djcelery.deadlines import Deadline
from pytest_djcelery.errors import DjceleryError
from pytest_djcelery.patching import replaced
from pytest_djcelery.recording.result_waits import NeverReadyError, WaitTimeoutError, none_will_come
from pytest_djcelery.recording.task_threads import in_task
from pytest_djcelery.session.session import current_scope

if TYPE_CHECKING:
    from celery import Celery

_LAST_WORD: Final = 1.0  # seconds


@contextmanager
def bounded(app: Celery, timeout: float) -> Iterator[None]:
    """End all waits of the test for results of ``app``.

    Private API (``AsyncBackendMixin._wait_for_pending``, which ``get`` and ``join`` share),
    checked on Celery 5.4 to 5.7.

    Args:
        app: the project's app.
        timeout: seconds for a wait that has no time-out of its own.
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
        options["on_interval"] = _unless_worker_has_ended(options.get("on_interval"))
        with explained(self, f"No result for {result.id} can come."):
            try:
                yield from wait_for_pending(self, result, timeout=seconds, **options)
            except _WorkerHasEndedError:
                raise NeverReadyError(none_will_come([result.id], _situation())) from None
            except CeleryTimeoutError as error:
                if isinstance(error, WaitTimeoutError):
                    raise
                raise WaitTimeoutError(_nothing_came(result, seconds)) from error

    limit = timeout
    with ExitStack() as stack:
        stack.enter_context(replaced(AsyncBackendMixin, _wait_for_pending=bounded_wait_for_pending))
        if "celery.backends.redis" in sys.modules or str(app.conf.result_backend).startswith(
            "redis"
        ):
            stack.enter_context(_named_before_sending(app))
        yield


@contextmanager
def _named_before_sending(app: Celery) -> Iterator[None]:
    """Celery subscribes to a result before it sends the message."""
    from celery.backends.redis import RedisBackend

    on_task_call = vars(RedisBackend)["on_task_call"]

    def explained_on_task_call(self: Any, producer: Any, task_id: str) -> Any:
        __tracebackhide__ = True
        with explained(self, "The task was not sent.") if self.app is app else nullcontext():
            return on_task_call(self, producer, task_id)

    with replaced(RedisBackend, on_task_call=explained_on_task_call):
        yield


class _WorkerHasEndedError(Exception):
    """Ends a wait from inside, where Celery takes any `TimeoutError` for one of the backend's."""


def _unless_worker_has_ended(on_interval: Callable[[], object] | None) -> Callable[[], None]:
    """What to do after each second, or result, of a wait: `on_interval`, and see who is there."""
    last_word: Deadline | None = None  # for what the worker has sent before its end

    def after_interval() -> None:
        nonlocal last_word
        if on_interval:
            on_interval()
        current = current_scope()
        if current is None or not current.worker_has_ended():
            return
        if last_word is None:
            last_word = Deadline(_LAST_WORD)
        elif last_word.passed:
            raise _WorkerHasEndedError

    return after_interval


@contextmanager
def explained(backend: Any, consequence: str) -> Iterator[None]:
    """Name the result backend in what its client raises when it does not answer.

    Raises:
        ResultsUnreachableError: in place of that.
    """
    __tracebackhide__ = True
    try:
        yield
    except DjceleryError:  # which has said it already
        raise
    except Exception as error:
        _explain(backend, error, consequence)
        raise


def _explain(backend: Any, error: Exception, consequence: str) -> None:
    """Say which backend it is that does not answer, if that is what an error means.

    Raises:
        ResultsUnreachableError: in place of what the client of the backend raised.
    """
    __tracebackhide__ = True
    errors = (*getattr(backend, "connection_errors", ()), OperationalError)
    cause = error.__cause__ if isinstance(error.__cause__, errors) else error
    # Celery gives up with a RuntimeError of its own.
    if isinstance(cause, errors) or isinstance(error.__context__, errors):
        from pytest_djcelery.brokers.servers import ResultsUnreachableError

        current = current_scope()
        if current is not None and current.runner is not None:
            current.runner.end_told = True  # what can't be stored ends a worker
        raise ResultsUnreachableError(
            f"The result backend {backend.as_uri()} does not answer: {cause or error}\n"
            f"{consequence} The run uses that backend because of djcelery_result_backend "
            "(or --djcelery-result-backend), or of a setting that the test changed.\n"
            "Start it, or use djcelery_result_backend = memory (the default), which needs none."
        ) from error


def _nothing_came(result: Any, seconds: float) -> str:
    return (
        f"No result for {result.id} after {seconds:g} s.\n{_situation()}\n"
        "A longer wait: get(timeout=…), or djcelery_timeout for the whole run."
    )


def _situation() -> str:
    current = current_scope()
    return "" if current is None else current.situation()
