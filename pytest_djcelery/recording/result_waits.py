"""Makes ``get()`` wake when the task ends, and gives it a deadline.

Private API of celery.result and celery.backends.base, in `waits_woken`: Celery polls its result
backends twice a second and has no hook for reads. Checked on Celery 5.4 to 5.7.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

from celery.exceptions import TimeoutError as CeleryTimeoutError

from pytest_djcelery.clock import Deadline
from pytest_djcelery.errors import DjceleryError
from pytest_djcelery.messages.events import (
    EndedWithoutOutcome,
    Looked,
    RaisedElsewhere,
    StateStored,
    WorkerLost,
    stores_nothing,
)
from pytest_djcelery.patching import Current, patches, replaced
from pytest_djcelery.recording.failures import (
    async_result_replaced,
    result_set_replaced,
    watched_results,
)
from pytest_djcelery.recording.losses import why_lost
from pytest_djcelery.recording.result_messages import do_nothing, drain, leaves, states_reported
from pytest_djcelery.recording.task_threads import in_task

if TYPE_CHECKING:
    from celery import Celery

    from pytest_djcelery.messages.journal import Journal
    from pytest_djcelery.recording.unconsumed import Unconsumed


_ENDS = (StateStored, EndedWithoutOutcome, WorkerLost)
_RECHECK = 0.5  # seconds, as often as Celery polls


class WaitTimeoutError(DjceleryError, CeleryTimeoutError, TimeoutError):
    """A result, a message or an idle worker was waited for and did not come in time.

    It is Celery's and Python's ``TimeoutError``, so code that handles those handles this one. Its
    text says what the worker is doing, what is in the queues, and how to allow a longer wait.
    """


class NeverReadyError(WaitTimeoutError):
    """Nothing will ever make the result ready, so the wait for it ends at once.

    For example, no worker consumes its queue, the worker has ended, or the task raised
    ``Ignore``, which stores nothing. It is a `WaitTimeoutError`, since in production the same wait
    would end in a time-out.
    """


def named(result: Any) -> str:
    """The id of a result, or the ids of its parts: a set of results has no id itself."""
    own = getattr(result, "id", None)
    return own or ", ".join(leaf.id for leaf in leaves([result]))


def no_result_text(task_ids: Iterable[str], situation: str) -> str:
    """The text of the error for results that will never be there."""
    return f"No result for {', '.join(task_ids)} will come.\n{situation}"


def too_late_text(task_ids: Iterable[str], seconds: float, situation: str) -> str:
    """The text of the error for results that did not come in time."""
    return (
        f"No result for {', '.join(task_ids)} after {seconds:g} s.\n{situation}\n"
        "A longer wait: get(timeout=…), or djcelery_timeout for the whole run."
    )


class WaitingTest(Protocol):
    """The test that waits, as far as a wait needs to know it."""

    journal: Journal
    unconsumed: Unconsumed
    suite: Container[str]

    def situation(self) -> str:
        """Why nothing came, as far as is known."""

    def worker_has_ended(self) -> bool:
        """Whether there was a worker that will no longer run anything."""

    def worker_end_is_explained(self) -> None:
        """Note that an error the test sees already says why the worker is about to end."""

    def bring_about(self, task_ids: Collection[str]) -> bool:
        """Make these results ready, unless that happens by itself; return whether it did."""

    def wait_in_task(self, task_ids: Collection[str], timeout: float | None) -> None:
        """Wait for these results in a task that Celery lets wait, if that needs help."""

    def has_in_hand(self, task_id: str) -> bool:
        """Whether a worker is still busy with a task, although an outcome is stored."""


class Waits:
    """How a test's own threads wait for results. Threads that run tasks wait as Celery does.

    Args:
        test: The test, whose journal wakes the waits.
        knows: Whether an app's results are waited for in this way.
        timeout: Seconds, for a wait that sets no timeout itself.
    """

    def __init__(
        self, test: WaitingTest, *, knows: Callable[[Celery], bool], timeout: float
    ) -> None:
        self.test = test
        self.knows = knows
        self._timeout = timeout

    def before(
        self,
        results: Iterable[Any],
        timeout: float | None = None,
        on_message: Callable[[Any], object] | None = None,
    ) -> None:
        """Prepare for a wait that the test, or a task that may wait, is about to begin.

        Args:
            results: The results, of single tasks or of several.
            timeout: The timeout of the wait, in seconds.
            on_message: Called with each state, if the backend sends states as they come.

        Raises:
            NeverReadyError: One of them will never be ready.
        """
        __tracebackhide__ = True
        ours = [
            result
            for result in leaves(results)
            if not result._cache and self.knows(result.app) and _is_stored(result)
        ]
        if not ours:
            return
        task_ids = [result.id for result in ours]
        subscribed = [
            result for result in ours if on_message is not None and result.backend.is_async
        ]
        for result in subscribed:
            result.backend.add_pending_result(result)
        if in_task():
            self.test.wait_in_task(task_ids, timeout)
        elif self.test.bring_about(task_ids):
            # They are ready: a backend that is sent results as they come may have missed it.
            for result in subscribed:
                drain(result, on_message)
            for result in ours:
                _ = result.state  # it keeps what it has read
        # Else no backend is asked before Celery does.
        elif self.test.unconsumed.blocking(task_ids):
            self.check_consumed(result.id for result in ours if not result.ready())

    def check_consumed(self, task_ids: Iterable[str]) -> None:
        """Refuse to wait for a task that no worker will ever take.

        Raises:
            NeverReadyError: Its message, or one that has to run before it, is in such a queue.
        """
        __tracebackhide__ = True
        waiting = list(task_ids)
        reason = self.test.unconsumed.blocking(waiting) if waiting else ""
        if reason:
            raise NeverReadyError(no_result_text(waiting, reason))

    def looked(self, task_ids: Iterable[str]) -> None:
        """Record that the test has read the outcome of these tasks."""
        if not in_task():
            for task_id in task_ids:
                self.test.journal.append(Looked(task_id=task_id))

    def raised_elsewhere(self, task_ids: Iterable[str], error: BaseException) -> None:
        """Record that the outcome of these tasks was raised in code that is not the test's."""
        if not in_task():
            self.test.journal.append(RaisedElsewhere(task_ids=tuple(task_ids), error=error))

    def _meta(self, backend: Any, task_id: str, deadline: Deadline) -> Any:
        from celery import states

        meta = backend.get_task_meta(task_id)
        if meta["status"] in states.EXCEPTION_STATES and self.test.has_in_hand(task_id):
            # Its `on_failure` is running, and an error raised there replaces the failure.
            self.test.journal.wait_until(
                lambda: not self.test.has_in_hand(task_id), deadline.remaining
            )
            meta = backend.get_task_meta(task_id)
        return meta

    def until_ready(
        self, backend: Any, task_ids: Iterable[str], timeout: float | None, on_interval: Any
    ) -> dict[str, Any]:
        """Wait until all these tasks are ready, and return their metas.

        Raises:
            NeverReadyError: The worker has ended, or a task ended without an outcome.
            WaitTimeoutError: ``timeout`` seconds, or those of the run, have passed.
        """
        __tracebackhide__ = True
        from celery import states

        journal = self.test.journal
        waiting: dict[str, None] = dict.fromkeys(task_ids)
        metas: dict[str, Any] = {}
        deadline = Deadline(self._timeout if timeout is None else timeout)
        seen = 0

        def look(candidates: Iterable[str]) -> bool:
            for task_id in list(candidates):
                meta = self._meta(backend, task_id, deadline)
                if meta["status"] in states.READY_STATES:
                    metas[task_id] = meta
                    waiting.pop(task_id, None)
            return not waiting

        def stored() -> bool:
            """Ask the backend only for what was stored since the last look."""
            nonlocal seen
            since, seen = seen, len(journal)
            new = list(journal.events(StateStored, since))
            ours = {event.task_id for event in new} & waiting.keys()
            done = look(ours)
            # The callback checks every parent of the result: too slow for each task of a chord.
            if ours or any(event.state in states.PROPAGATE_STATES for event in new):
                on_interval()
            if not done:
                self._refuse_what_never_comes(waiting, since)
            return done

        # A backend that other processes write to (a live worker's) is also asked now and then.
        while True:
            # Before the look, so that everything the worker stored before its end is found.
            ended = self.test.worker_has_ended()
            done = look(waiting)
            # Even when all is ready: for a chord whose header failed, the header's error is
            # raised, which is stored before the body's, and never the body's by chance.
            on_interval()
            if done:
                return metas
            self._refuse_what_never_comes(waiting, 0)
            self._refuse_if_ended(waiting, ended=ended)
            self.check_consumed(waiting)
            brief = min(_RECHECK, deadline.remaining)
            came = journal.wait_until(stored, brief, kind=_ENDS)
            if not came and deadline.passed:
                situation = self.test.situation()
                raise WaitTimeoutError(too_late_text(waiting, deadline.seconds, situation))

    def _refuse_if_ended(self, waiting: Iterable[str], *, ended: bool) -> None:
        __tracebackhide__ = True
        if ended:
            raise NeverReadyError(no_result_text(waiting, self.test.situation()))

    def _refuse_what_never_comes(self, waiting: Collection[str], since: int) -> None:
        """End the wait for a task that leaves no result.

        Raises:
            NeverReadyError: One of the tasks that are waited for raised `Ignore` or `Reject`, or
                was lost with its worker, or waits for one that was.
        """
        __tracebackhide__ = True
        lost = why_lost(self.test.journal, waiting, since)
        if lost is not None:
            raise NeverReadyError(lost)
        for ended in self.test.journal.events(EndedWithoutOutcome, since):
            if ended.task_id not in waiting or ended.goes_on:
                continue
            if self.test.journal.ended(ended.task_id)[-1] is ended:
                name = f"{ended.task}[{ended.task_id}]"
                msg = f"{name} will never be ready: {stores_nothing(ended.state)}."
                raise NeverReadyError(msg)


@contextmanager
def waits_woken(waits: Current[Waits], suite: Container[str]) -> Iterator[None]:
    """Have waits for results of the apps that ``waits`` knows wake by the journal; note reads.

    Args:
        waits: The waits of the test.
        suite: The files of the tests.
    """
    with _polling_replaced(waits), _waits_announced(waits), watched_results(waits, suite):
        yield


@patches(
    "celery.backends.base:SyncBackendMixin.wait_for",
    "celery.backends.base:BaseKeyValueStoreBackend.get_many",
    why="Celery polls; a wait here wakes on an event, and has a deadline.",
    checked_on="Celery 5.4 to 5.7",
)
@contextmanager
def _polling_replaced(current: Current[Waits]) -> Iterator[None]:
    """Replace the polling of ``SyncBackendMixin.wait_for`` and ``get_many``."""
    from celery.backends.base import BaseKeyValueStoreBackend, SyncBackendMixin

    wait_for, get_many = SyncBackendMixin.wait_for, BaseKeyValueStoreBackend.get_many

    def waits_of(backend: Any) -> Waits | None:
        waits = current.now
        return waits if waits is not None and waits.knows(backend.app) and not in_task() else None

    def waking_wait_for(
        self: Any, task_id: str, timeout: float | None = None, interval: float = 0.5,
        no_ack: bool = True, on_interval: Any = None,
    ) -> Any:  # fmt: skip
        __tracebackhide__ = True
        if (waits := waits_of(self)) is None:
            return wait_for(self, task_id, timeout, interval, no_ack, on_interval)
        self._ensure_not_eager()
        return waits.until_ready(self, [task_id], timeout, on_interval or do_nothing)[task_id]

    def waking_get_many(
        self: Any, task_ids: Any, timeout: float | None = None, interval: float = 0.5,
        no_ack: bool = True, on_message: Any = None, on_interval: Any = None,
        **options: Any,
    ) -> Any:  # fmt: skip
        __tracebackhide__ = True
        if (waits := waits_of(self)) is not None:
            if options.get("max_iterations"):  # Redis only looks, before it waits in its own way
                interval = 0
            else:
                waits.until_ready(self, task_ids, timeout, on_interval or do_nothing)
        return get_many(
            self, task_ids, timeout=timeout, interval=interval, no_ack=no_ack,
            on_message=on_message, on_interval=on_interval, **options,
        )  # fmt: skip

    with (
        replaced(SyncBackendMixin, wait_for=waking_wait_for),
        replaced(BaseKeyValueStoreBackend, get_many=waking_get_many),
    ):
        yield


@contextmanager
def _waits_announced(current: Current[Waits]) -> Iterator[None]:
    """Call `Waits.before` before each wait begins."""
    from celery.result import AsyncResult, ResultSet

    get = vars(AsyncResult)["get"]

    def announced_get(
        self: Any, timeout: Any = None, propagate: bool = True, *args: Any, **kwargs: Any
    ) -> Any:  # fmt: skip
        __tracebackhide__ = True
        waits = current.now
        if waits is None:
            return get(self, timeout, propagate, *args, **kwargs)
        with states_reported(self, kwargs):
            try:
                if _may_wait(kwargs):
                    waits.before([self], timeout, kwargs.get("on_message"))
            except NeverReadyError:
                if propagate:
                    self._maybe_reraise_parent_error()  # as Celery does while it waits
                raise
            return get(self, timeout, propagate, *args, **kwargs)

    def announced_join(name: str) -> Any:
        method = vars(ResultSet)[name]

        def joined(self: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            waits = current.now
            if waits is None:
                return method(self, *args, **kwargs)
            with states_reported(self, kwargs) if name == "join_native" else nullcontext():
                # One that is marked as ready does not wait: Redis joins a chord's header this way.
                if _may_wait(kwargs) and not self.on_ready.ready:
                    timeout = kwargs.get("timeout", args[0] if args else None)
                    waits.before(self.results, timeout, kwargs.get("on_message"))
                return method(self, *args, **kwargs)

        return joined

    with (
        async_result_replaced(get=announced_get, wait=announced_get),
        result_set_replaced(
            join=announced_join("join"),
            join_native=announced_join("join_native"), iter_native=_announced_iter(current),
        ),
    ):  # fmt: skip
        yield


def _announced_iter(current: Current[Waits]) -> Any:
    from celery.result import ResultSet

    iter_native = vars(ResultSet)["iter_native"]

    def announced_iter(self: Any, timeout: Any = None, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        waits = current.now
        if waits is not None and _may_wait(kwargs) and not self.on_ready.ready:
            waits.before(self.results, timeout)
        return iter_native(self, timeout, *args, **kwargs)

    return announced_iter


def _may_wait(options: Mapping[str, Any]) -> bool:
    """Whether Celery lets the calling thread wait, given the options of ``get`` or ``join``."""
    from celery._state import task_join_will_block

    return not (options.get("disable_sync_subtasks", True) and task_join_will_block())


def _is_stored(result: Any) -> bool:
    """Whether there will be a result to read; where there is no backend, Celery says so itself."""
    from celery.backends.base import DisabledBackend

    return not result.ignored and not isinstance(result.backend, DisabledBackend)
