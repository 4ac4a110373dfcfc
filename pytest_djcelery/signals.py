"""Celery's worker signals, written into the journal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery.exceptions import Reject

from pytest_djcelery.journal import Ended, Journal, Received, Started, StateStored
from pytest_djcelery.patching import replaced

if TYPE_CHECKING:
    from celery import Celery


@contextmanager
def recorded(journal: Journal, app: Celery) -> Iterator[None]:
    """Record what tasks of ``app`` go through, in whatever thread or mode they run."""
    with _signals_connected(_Recorder(journal, app)), _stored_states(journal, app):
        yield


@contextmanager
def _signals_connected(recorder: _Recorder) -> Iterator[None]:
    from celery import signals

    handlers: dict[Any, Callable[..., None]] = {
        signals.task_received: recorder.received,
        signals.task_unknown: recorder.unknown,
        signals.task_revoked: recorder.revoked,
        signals.task_prerun: recorder.started,
        signals.task_success: recorder.succeeded,
        signals.task_failure: recorder.failed,
        signals.task_retry: recorder.retried,
        signals.task_postrun: recorder.postrun,
    }
    # Celery 5.4 takes the same method of two recorders for one receiver, hence the id.
    for signal, handler in handlers.items():
        signal.connect(handler, weak=False, dispatch_uid=recorder)
    try:
        yield
    finally:
        for signal in handlers:
            signal.disconnect(dispatch_uid=recorder)


class _Recorder:
    """What each signal says of a task of ``app``, as an event of the journal."""

    def __init__(self, journal: Journal, app: Celery) -> None:
        self._journal = journal
        self._app = app

    def received(self, request: Any, **_: Any) -> None:
        if self._is_ours(request.task):
            self._journal.append(Received(task_id=request.id, task=request.name))

    def unknown(self, sender: Any, name: str, id: str, exc: Any, **_: Any) -> None:  # noqa: A002 - Celery's name
        if sender.app is self._app:
            self._journal.append(
                Ended(task_id=id, task=name, state="FAILURE", value=exc, retries=0)
            )

    def revoked(self, sender: Any, request: Any, expired: bool, **_: Any) -> None:  # noqa: FBT001 - Celery's signature
        if not self._is_ours(sender):
            return
        self._journal.append(
            Ended(
                task_id=request.id,
                task=sender.name,
                state="REVOKED",
                value=None,
                retries=getattr(request, "retries", 0) or 0,
                expired=bool(expired),
            )
        )

    def started(self, sender: Any, task_id: str, **_: Any) -> None:
        if self._is_ours(sender):
            retries = sender.request.retries or 0
            self._journal.append(Started(task_id=task_id, task=sender.name, retries=retries))

    def succeeded(self, sender: Any, result: Any, **_: Any) -> None:
        if self._is_ours(sender):
            self._ended(sender, sender.request, "SUCCESS", result)

    def failed(
        self, sender: Any, task_id: str, exception: Any, args: Any, kwargs: Any, **_: Any
    ) -> None:
        if not self._is_ours(sender) or isinstance(exception, Reject):
            return  # Celery 5.7 tells of a rejected message twice
        request = sender.request
        if request.id == task_id:
            self._ended(sender, request, "FAILURE", exception)
            return
        # Outside its tracer: a time limit, a lost worker, an argument that can't be decoded.
        self._journal.append(
            Ended(
                task_id=task_id,
                task=sender.name,
                state="FAILURE",
                value=exception,
                retries=_retries_of(task_id),
                args=args,
                kwargs=kwargs,
            )
        )

    def retried(self, sender: Any, request: Any, reason: Any, **_: Any) -> None:
        if self._is_ours(sender):
            self._ended(sender, request, "RETRY", reason)

    def postrun(self, sender: Any, task_id: str, state: str, retval: Any, **_: Any) -> None:
        if self._is_ours(sender) and state in ("IGNORED", "REJECTED"):
            self._journal.append(
                Ended(
                    task_id=task_id,
                    task=sender.name,
                    state=state,
                    value=retval,
                    retries=sender.request.retries or 0,
                )
            )
        self._journal.wake()

    def _is_ours(self, task: Any) -> bool:
        return getattr(task, "_app", None) in (self._app, None)

    def _ended(self, task: Any, request: Any, state: str, value: Any) -> None:
        expected = isinstance(value, BaseException) and isinstance(value, tuple(task.throws or ()))
        self._journal.append(
            Ended(
                task_id=request.id,
                task=task.name,
                state=state,
                value=value,
                retries=request.retries or 0,
                args=request.args,
                kwargs=request.kwargs,
                expected=expected,
                eager=bool(request.is_eager),
            )
        )


def _retries_of(task_id: str) -> int:
    """How often a task that a worker has was retried, as its message says."""
    from celery.worker import state

    request = state.requests.get(task_id)
    return (request.request_dict.get("retries") or 0) if request is not None else 0


@contextmanager
def _stored_states(journal: Journal, app: Celery) -> Iterator[None]:
    """Wrap ``Backend.store_result``: the one call that all states, custom ones too, pass.

    Celery has no signal for ``update_state``. Checked on Celery 5.4 to 5.7 and
    django-celery-results 2.5 and 2.6, which implement ``_store_result`` beneath it.
    """
    from celery.backends.base import Backend

    store = vars(Backend)["store_result"]

    def store_result(
        self: Any, task_id: str, result: Any, state: str, *args: Any, **kwargs: Any
    ) -> Any:
        stored = store(self, task_id, result, state, *args, **kwargs)
        if self.app is app:
            traceback = kwargs.get("traceback", args[0] if args else None)
            journal.append(
                StateStored(task_id=task_id, state=state, meta=result, traceback=traceback)
            )
        return stored

    with replaced(Backend, store_result=store_result):
        yield
