"""Records Celery's worker signals in the journal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

from celery import VERSION
from celery.exceptions import NotRegistered, Reject

from pytest_djcelery.errors import BatchError
from pytest_djcelery.messages.events import (
    Ended,
    EndedWithoutOutcome,
    Event,
    NotStored,
    StateStored,
    Storing,
)
from pytest_djcelery.patching import Current, last_receivers, patches, replaced, standing_while
from pytest_djcelery.recording.batches import is_batch, requests_of
from pytest_djcelery.recording.outages import REFUSALS

if TYPE_CHECKING:
    from celery import Celery

    from pytest_djcelery.messages.journal import Journal


class EventLog(Protocol):
    """A journal, as far as signals need it."""

    def append(self, event: Event) -> None:
        """Add an event."""

    def wake(self) -> None:
        """Have everyone who waits look again."""


@contextmanager
def task_events_recorded(
    journal: Current[Journal],
    knows: Callable[[Celery], bool],
    keeps: Callable[[str], bool] = lambda _: False,
) -> Iterator[None]:
    """Record what the tasks of some apps go through, in any thread and mode.

    Args:
        journal: Where it is recorded.
        knows: Whether the tasks of an app are recorded.
        keeps: Whether the state of a task, by its id, stays what it is, whatever is to be stored.
    """
    with signals_connected(journal, knows), _stored_states(journal, knows, keeps):
        yield


@contextmanager
def signals_connected(
    journal: Current[Any], knows: Callable[[Celery], bool] = lambda _: True
) -> Iterator[None]:
    """Record what a worker's signals say about the tasks of some apps, or of all apps."""
    from celery import signals

    recorder = _Recorder(journal, knows)
    handlers: dict[Any, Callable[..., None]] = {
        signals.task_unknown: recorder.unknown,
        signals.task_revoked: recorder.revoked,
        signals.task_success: recorder.succeeded,
        signals.task_failure: recorder.failed,
        signals.task_retry: recorder.retried,
        signals.task_postrun: recorder.postrun,
    }
    # Celery 5.4 takes the same method of two recorders for a single receiver, hence the id.
    for signal, handler in handlers.items():
        signal.connect(handler, weak=False, dispatch_uid=recorder)
    standing_while(last_receivers(handlers))
    try:
        yield
    finally:
        for signal in handlers:
            signal.disconnect(dispatch_uid=recorder)


class Nowhere:
    """A journal that keeps nothing, such as that of a thread which its test has left behind."""

    def append(self, event: Event) -> None:
        """Drop an event."""

    def wake(self) -> None:
        """Wake nobody."""


NOWHERE: Final = Nowhere()


class _Recorder:
    """Turns each signal for a task of a known app into an event of the journal."""

    def __init__(self, journal: Current[Any], knows: Callable[[Celery], bool]) -> None:
        self._current = journal
        self._knows = knows

    @property
    def _journal(self) -> EventLog:
        return self._current.now or NOWHERE

    def unknown(self, sender: Any, name: str, exc: Any, **details: Any) -> None:
        if self._current.now is not None and self._knows(sender.app):
            self._journal.append(
                Ended(
                    task_id=details["id"],
                    task=name,
                    state="FAILURE",
                    # What the result backend stores (`Consumer.on_unknown_task`).
                    value=NotRegistered(name).with_traceback(exc.__traceback__),
                    retries=0,
                )
            )

    def revoked(self, sender: Any, request: Any, expired: bool, **_: Any) -> None:
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

    def succeeded(self, sender: Any, result: Any, **_: Any) -> None:
        if self._is_ours(sender):
            request = sender.request
            if request.id is not None:  # else it is the request of a whole batch
                self._ended(sender, request, "SUCCESS", result)

    def failed(
        self, sender: Any, task_id: str, exception: Any, args: Any, kwargs: Any, **_: Any
    ) -> None:
        if not self._is_ours(sender) or isinstance(exception, Reject):
            return  # Celery 5.7 sends two signals for a rejected message
        request = sender.request
        if request.id == task_id:
            self._ended(sender, request, "FAILURE", _raised(exception))
            return
        # It failed outside its tracer: a time limit, a lost worker, undecodable arguments.
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

    def postrun(
        self, sender: Any, task_id: str, state: str, retval: Any, args: Any, **_: Any
    ) -> None:
        if self._is_ours(sender) and is_batch(sender):
            self._batch_ended(sender, requests_of(args), state)
        elif self._is_ours(sender) and state in ("IGNORED", "REJECTED"):
            stored = state == "REJECTED" and VERSION >= (5, 7)
            self._journal.append(
                (Ended if stored else EndedWithoutOutcome)(
                    task_id=task_id,
                    task=sender.name,
                    state=state,
                    value=retval,
                    retries=sender.request.retries or 0,
                )
            )
        self._journal.wake()

    def _batch_ended(self, task: Any, requests: Sequence[Any], state: str) -> None:
        """Record the end of each message of a batch: as the batch stored it, or as it ended."""
        states: Callable[[str], list[Storing]] = getattr(self._journal, "states", lambda _: [])
        failure = BatchError(
            f"The batch of {task.name} that this message was in raised: its own error is in the "
            "log of 'celery_batches.trace', and no result is stored."
        )
        for request in requests:
            stored = states(request.id)[-1:]
            value: Any = stored[0].meta if stored else None
            if state == "FAILURE" and not stored:
                value = failure
            self._journal.append(
                Ended(
                    task_id=request.id,
                    task=task.name,
                    state=stored[0].state if stored else state,
                    value=value,
                    retries=(request.request_dict or {}).get("retries") or 0,
                    args=request.args,
                    kwargs=request.kwargs,
                )
            )

    def _is_ours(self, task: Any) -> bool:
        if self._current.now is None:
            return False
        app = getattr(task, "_app", None)
        return app is None or self._knows(app)

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


def _raised(exception: BaseException) -> BaseException:
    """The exception that a task raised, given the one that ``task_failure`` carries.

    The signal carries one that can be pickled: for an exception that can't, one of a base class or
    a wrapper, with the traceback of the original. The original is being handled while the signal
    is sent (``TraceInfo.handle_failure``, Celery 5.4 to 5.7).
    """
    original = sys.exc_info()[1]
    if original is not None and exception.__traceback__ is original.__traceback__:
        return original
    return exception


@contextmanager
def raised_eagerly(wanted: Callable[[], bool]) -> Iterator[dict[str, BaseException]]:
    """Collect what eager tasks raise within the ``with``, by task id, for the caller to pop.

    Args:
        wanted: Whether anyone is going to.
    """
    from celery.signals import task_failure

    raised: dict[str, BaseException] = {}

    def note(sender: Any, task_id: str, exception: BaseException, **_: Any) -> None:
        if sender.request.is_eager and wanted():
            raised[task_id] = _raised(exception)

    task_failure.connect(note, weak=False)
    try:
        yield raised
    finally:
        task_failure.disconnect(note)


def _retries_of(task_id: str) -> int:
    """How often a task that a worker holds was retried, according to its message."""
    from celery.worker import state

    request = state.requests.get(task_id)
    return (request.request_dict.get("retries") or 0) if request is not None else 0


@contextmanager
def _stored_states(
    current: Current[Journal], knows: Callable[[Celery], bool], keeps: Callable[[str], bool]
) -> Iterator[None]:
    """Wrap ``store_result``, the one call through which all states pass, custom ones too.

    The journal has a state before the backend does, so that whoever reads the state there also
    finds it here.

    Celery has no signal for ``update_state``. Checked on Celery 5.4 to 5.7, where the RPC backend
    overrides the method, and django-celery-results 2.5 and 2.6, which implement ``_store_result``.
    """
    from celery.backends.base import Backend
    from celery.backends.rpc import RPCBackend

    def recording(store: Callable[..., Any]) -> Callable[..., Any]:
        def store_result(
            self: Any, task_id: str, result: Any, state: str, *args: Any, **kwargs: Any
        ) -> Any:
            journal = current.now
            if journal is None or not knows(self.app):
                return store(self, task_id, result, state, *args, **kwargs)
            if keeps(task_id):
                return result
            request: Any = kwargs.get("request")
            # A request of celery-batches doesn't count its attempts.
            own = getattr(request, "id", None) == task_id
            retries = getattr(request, "retries", None) if own else None
            journal.append(Storing(task_id=task_id, state=state, meta=result, retries=retries))
            try:
                if REFUSALS.result is not None:
                    REFUSALS.result(self.app, task_id, state)
                stored = store(self, task_id, result, state, *args, **kwargs)
            except BaseException:
                journal.append(NotStored(task_id=task_id, state=state))
                raise
            journal.append(StateStored(task_id=task_id, state=state))
            return stored

        return store_result

    with ExitStack() as stack:
        for backend in (Backend, RPCBackend):
            own = recording(vars(backend)["store_result"])
            stack.enter_context(store_result_replaced(backend, own))
        yield


@patches(
    "celery.backends.base:Backend.store_result",
    "celery.backends.rpc:RPCBackend.store_result",
    why="Celery has no signal for update_state(), nor for the storing of a result.",
    checked_on="Celery 5.4 to 5.7",
)
@contextmanager
def store_result_replaced(backend: type, store_result: Callable[..., Any]) -> Iterator[None]:
    """Replace ``store_result`` of a backend class by this, which calls what was there before."""
    with replaced(backend, store_result=store_result):
        yield


@patches(
    "celery.app.task:Task.apply",
    "celery.app.task:Task.apply_async",
    why="Celery sends no signal for an eager call; all of them end here.",
    checked_on="Celery 5.4 to 5.7",
)
@contextmanager
def task_replaced(**methods: Callable[..., Any]) -> Iterator[None]:
    """Replace methods of every task by these, which call what was there before."""
    from celery.app.task import Task

    with replaced(Task, **methods):
        yield
