"""``get()`` that wakes when the task ends, and has a deadline.

Private API of celery.result and celery.backends.base, in `waits_woken`: Celery polls its result
backends twice a second and has no hook for a reader. Checked on Celery 5.4 to 5.7.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

from celery.exceptions import TimeoutError as CeleryTimeoutError

from pytest_djcelery.clock import Deadline
from pytest_djcelery.errors import DjceleryError
from pytest_djcelery.messages.journal import (
    EndedWithoutOutcome,
    Journal,
    Looked,
    RaisedElsewhere,
    StateStored,
    stores_nothing,
)
from pytest_djcelery.patching import patches, replaced
from pytest_djcelery.recording.failures import (
    async_result_replaced,
    result_set_replaced,
    watched_results,
)
from pytest_djcelery.recording.result_messages import drain, leaves, nothing, states_reported
from pytest_djcelery.recording.task_threads import in_task

if TYPE_CHECKING:
    from celery import Celery

    from pytest_djcelery.recording.unconsumed import Unconsumed


_RECHECK = 0.5  # seconds, as often as Celery polls


class WaitTimeoutError(DjceleryError, CeleryTimeoutError, TimeoutError):
    """A result, a message or an idle worker did not come in time."""


class NeverReadyError(WaitTimeoutError):
    """A result that nothing will ever make ready: said at once."""


def named(result: Any) -> str:
    """The ids of what a result stands for; a set of results has none itself."""
    own = getattr(result, "id", None)
    return own or ", ".join(leaf.id for leaf in leaves([result]))


def none_will_come(task_ids: Iterable[str], situation: str) -> str:
    """What to say of results that nobody will bring."""
    return f"No result for {', '.join(task_ids)} will come.\n{situation}"


class WaitingTest(Protocol):
    """The test that waits, as far as a wait asks."""

    journal: Journal
    unconsumed: Unconsumed
    suite: Container[str]

    def situation(self) -> str:
        """Why nothing came, as far as can be told."""

    def worker_has_ended(self) -> bool:
        """Whether there was a worker, which will run nothing any more."""

    def worker_end_is_explained(self) -> None:
        """An error that the test sees says what the worker is about to end of."""

    def bring_about(self, task_ids: Collection[str]) -> bool:
        """Make these results ready, if that is not done by itself; whether it did."""

    def wait_in_task(self, task_ids: Collection[str], timeout: float | None) -> None:
        """Wait for these results in a task that Celery lets wait, if that needs help."""

    def has_in_hand(self, task_id: str) -> bool:
        """Whether a worker is not yet done with a task, though an outcome is stored."""


class Waits:
    """How a test's own threads wait for results. In those that run tasks, Celery's ways apply.

    Args:
        test: whose journal wakes the waits.
        knows: whether the results of an app are meant.
        timeout: seconds for a wait that has no time-out of its own.
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
        """The test, or a task that may, is about to wait for these.

        Args:
            results: of tasks, or of several.
            timeout: of the wait, in seconds.
            on_message: is to be told of each state, where the backend tells of any.

        Raises:
            NeverReadyError: when one of them will never be ready.
        """
        __tracebackhide__ = True
        ours = [
            each
            for each in leaves(results)
            if not each._cache and self.knows(each.app) and _comes(each)
        ]
        if not ours:
            return
        task_ids = [each.id for each in ours]
        heard = [each for each in ours if on_message is not None and each.backend.is_async]
        for each in heard:
            each.backend.add_pending_result(each)
        if in_task():
            self.test.wait_in_task(task_ids, timeout)
        elif self.test.bring_about(task_ids):
            # They are there: a backend that is told of results as they come may have missed it.
            for each in heard:
                drain(each, on_message)
            for each in ours:
                _ = each.state  # it keeps what it has read
        # Else no backend is asked before Celery does.
        elif self.test.unconsumed.in_the_way_of(task_ids):
            self.check_consumed(each.id for each in ours if not each.ready())

    def check_consumed(self, task_ids: Iterable[str]) -> None:
        """Refuse to wait for a task that no worker will ever take.

        Raises:
            NeverReadyError: its message, or one that it comes after, is in such a queue.
        """
        __tracebackhide__ = True
        waiting = list(task_ids)
        reason = self.test.unconsumed.in_the_way_of(waiting) if waiting else ""
        if reason:
            raise NeverReadyError(none_will_come(waiting, reason))

    def looked(self, task_ids: Iterable[str]) -> None:
        """The test has read the outcome of these."""
        if not in_task():
            for task_id in task_ids:
                self.test.journal.append(Looked(task_id=task_id))

    def raised_elsewhere(self, task_ids: Iterable[str], error: BaseException) -> None:
        """The outcome of these was raised to code that is not the test's."""
        if not in_task():
            self.test.journal.append(RaisedElsewhere(task_ids=tuple(task_ids), error=error))

    def _meta(self, backend: Any, task_id: str, deadline: Deadline) -> Any:
        from celery import states

        meta = backend.get_task_meta(task_id)
        if meta["status"] in states.EXCEPTION_STATES and self.test.has_in_hand(task_id):
            # Its `on_failure` runs now, and what that raises takes the place of the failure.
            self.test.journal.wait_until(
                lambda: not self.test.has_in_hand(task_id), deadline.remaining
            )
            meta = backend.get_task_meta(task_id)
        return meta

    def until_ready(
        self, backend: Any, task_ids: Iterable[str], timeout: float | None, on_interval: Any
    ) -> dict[str, Any]:
        """The metas of all tasks, once all are ready.

        Raises:
            NeverReadyError: when the worker has ended.
            WaitTimeoutError: after ``timeout`` (or the run's) seconds.
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
            """Ask the backend only for what it was told since the last look."""
            nonlocal seen
            since, seen = seen, len(journal)
            new = list(journal.events(StateStored, since))
            ours = {event.task_id for event in new} & waiting.keys()
            done = look(ours)
            # It looks at all that led to the result, so not for each task of a large chord.
            if ours or any(event.state in states.PROPAGATE_STATES for event in new):
                on_interval()
            if not done:
                self._refuse_what_never_comes(waiting, since)
            return done

        # A backend that others write to as well (a live worker) is asked now and then, too.
        while True:
            # Before the look: what the worker has stored until then is found.
            ended = self.test.worker_has_ended()
            done = look(waiting)
            # Also when it is there: of a chord whose header failed, the header's error is raised,
            # which is stored before the body's, and never that of the body by chance.
            on_interval()
            if done:
                return metas
            self._refuse_what_never_comes(waiting, 0)
            self._refuse_if_ended(waiting, ended=ended)
            self.check_consumed(waiting)
            brief = min(_RECHECK, deadline.remaining)
            came = journal.wait_until(stored, brief, kind=(StateStored, EndedWithoutOutcome))
            if not came and deadline.passed:
                raise WaitTimeoutError(self._too_late(waiting, deadline.seconds))

    def _too_late(self, waiting: Iterable[str], seconds: float) -> str:
        return (
            f"No result for {', '.join(waiting)} after {seconds:g} s.\n{self.test.situation()}\n"
            "A longer wait: get(timeout=…), or djcelery_timeout for the whole run."
        )

    def _refuse_if_ended(self, waiting: Iterable[str], *, ended: bool) -> None:
        __tracebackhide__ = True
        if ended:
            raise NeverReadyError(none_will_come(waiting, self.test.situation()))

    def _refuse_what_never_comes(self, waiting: Collection[str], since: int) -> None:
        """Say of a task that raised `Ignore` or `Reject` that no result of it will come.

        Raises:
            NeverReadyError: if one of those that are waited for did.
        """
        __tracebackhide__ = True
        for ended in self.test.journal.events(EndedWithoutOutcome, since):
            if ended.task_id not in waiting or ended.goes_on:
                continue
            if self.test.journal.ended(ended.task_id)[-1] is ended:
                name = f"{ended.task}[{ended.task_id}]"
                msg = f"{name} will never be ready: {stores_nothing(ended.state)}."
                raise NeverReadyError(msg)


@contextmanager
def waits_woken(waits: Waits) -> Iterator[None]:
    """Let results of the apps that ``waits`` knows wait on the journal, and tell who read them."""
    with (
        _event_driven_backends(waits),
        _brought_about(waits),
        watched_results(waits, waits.test.suite),
    ):
        yield


@patches(
    "celery.backends.base:SyncBackendMixin.wait_for",
    "celery.backends.base:BaseKeyValueStoreBackend.get_many",
    why="Celery polls; a wait here wakes on an event, and has a deadline.",
    checked_on="Celery 5.4 to 5.7",
)
@contextmanager
def _event_driven_backends(waits: Waits) -> Iterator[None]:
    """Replace the polling of ``SyncBackendMixin.wait_for`` and ``get_many``."""
    from celery.backends.base import BaseKeyValueStoreBackend, SyncBackendMixin

    wait_for, get_many = SyncBackendMixin.wait_for, BaseKeyValueStoreBackend.get_many

    def ours(backend: Any) -> bool:
        return waits.knows(backend.app) and not in_task()

    def waking_wait_for(
        self: Any, task_id: str, timeout: float | None = None, interval: float = 0.5,
        no_ack: bool = True, on_interval: Any = None,
    ) -> Any:  # fmt: skip
        __tracebackhide__ = True
        if not ours(self):
            return wait_for(self, task_id, timeout, interval, no_ack, on_interval)
        self._ensure_not_eager()
        return waits.until_ready(self, [task_id], timeout, on_interval or nothing)[task_id]

    def waking_get_many(
        self: Any, task_ids: Any, timeout: float | None = None, interval: float = 0.5,
        no_ack: bool = True, on_message: Any = None, on_interval: Any = None,
        **options: Any,
    ) -> Any:  # fmt: skip
        __tracebackhide__ = True
        if ours(self):
            if options.get("max_iterations"):  # Redis looks, before it waits in its own way
                interval = 0
            else:
                waits.until_ready(self, task_ids, timeout, on_interval or nothing)
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
def _brought_about(waits: Waits) -> Iterator[None]:
    """Tell of each wait before it begins."""
    from celery.result import AsyncResult, ResultSet

    get = vars(AsyncResult)["get"]
    iter_native = vars(ResultSet)["iter_native"]

    def brought_about_get(
        self: Any, timeout: Any = None, propagate: bool = True, *args: Any, **kwargs: Any
    ) -> Any:  # fmt: skip
        __tracebackhide__ = True
        with states_reported(self, kwargs):
            try:
                if _may_wait(kwargs):
                    waits.before([self], timeout, kwargs.get("on_message"))
            except NeverReadyError:
                if propagate:
                    self._maybe_reraise_parent_error()  # what Celery's own wait does meanwhile
                raise
            return get(self, timeout, propagate, *args, **kwargs)

    def brought_about_join(name: str) -> Any:
        method = vars(ResultSet)[name]

        def joined(self: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            with states_reported(self, kwargs) if name == "join_native" else nullcontext():
                # One that is marked as ready waits for nothing: Redis joins a chord's header so.
                if _may_wait(kwargs) and not self.on_ready.ready:
                    timeout = kwargs.get("timeout", args[0] if args else None)
                    waits.before(self.results, timeout, kwargs.get("on_message"))
                return method(self, *args, **kwargs)

        return joined

    def brought_about_iter(self: Any, timeout: Any = None, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if _may_wait(kwargs) and not self.on_ready.ready:
            waits.before(self.results, timeout)
        return iter_native(self, timeout, *args, **kwargs)

    with (
        async_result_replaced(get=brought_about_get, wait=brought_about_get),
        result_set_replaced(
            join=brought_about_join("join"),
            join_native=brought_about_join("join_native"), iter_native=brought_about_iter,
        ),
    ):  # fmt: skip
        yield


def _may_wait(options: Mapping[str, Any]) -> bool:
    """Whether Celery lets the calling thread wait, by what was given to ``get`` or ``join``."""
    from celery._state import task_join_will_block

    return not (options.get("disable_sync_subtasks", True) and task_join_will_block())


def _comes(result: Any) -> bool:
    """Whether there will be something to read; where there is no backend, Celery says so."""
    from celery.backends.base import DisabledBackend

    return not result.ignored and not isinstance(result.backend, DisabledBackend)
