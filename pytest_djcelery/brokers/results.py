"""Waits for results that another server is to tell of: they end, and say what they waited for.

Celery's own waits for Redis and RPC have no end where the test gives none.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from celery.exceptions import TimeoutError as CeleryTimeoutError
from kombu.exceptions import OperationalError

from pytest_djcelery import scope
from pytest_djcelery.patching import replaced
from pytest_djcelery.waiting import WaitTimeoutError
from pytest_djcelery.workers.threads import in_task

if TYPE_CHECKING:
    from celery import Celery


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
        try:
            yield from wait_for_pending(self, result, timeout=seconds, **options)
        except CeleryTimeoutError as error:
            if isinstance(error, WaitTimeoutError):
                raise
            raise WaitTimeoutError(_nothing_came(result, seconds)) from error
        except Exception as error:
            _explain(self, error, f"No result for {result.id} can come.")
            raise

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
        try:
            return on_task_call(self, producer, task_id)
        except Exception as error:
            if self.app is app:
                _explain(self, error, "The task was not sent.")
            raise

    with replaced(RedisBackend, on_task_call=explained_on_task_call):
        yield


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
        from pytest_djcelery.reachable import ResultsUnreachableError

        raise ResultsUnreachableError(
            f"The result backend {backend.as_uri()} does not answer: {cause or error}\n"
            f"{consequence} The run uses that backend because of djcelery_result_backend "
            "(or --djcelery-result-backend), or of a setting that the test changed.\n"
            "Start it, or use djcelery_result_backend = memory (the default), which needs none."
        ) from error


def _nothing_came(result: Any, seconds: float) -> str:
    current = scope.current()
    situation = f"{current.situation()}\n" if current is not None else ""
    return (
        f"No result for {result.id} after {seconds:g} s.\n{situation}"
        "A longer wait: get(timeout=…), or djcelery_timeout for the whole run."
    )
