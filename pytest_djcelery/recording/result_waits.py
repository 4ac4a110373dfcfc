"""``get()`` that wakes when the task ends, has a deadline, and is remembered.

Private API of celery.result and celery.backends.base, in `patched`: Celery polls its result
backends twice a second and has no hook for a reader. Checked on Celery 5.4 to 5.7.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from celery.exceptions import TimeoutError as CeleryTimeoutError

from pytest_djcelery.clock import Deadline
from pytest_djcelery.errors import DjceleryError
from pytest_djcelery.messages.journal import Journal, Looked, StateStored
from pytest_djcelery.patching import replaced

if TYPE_CHECKING:
    from celery import Celery


_RECHECK = 0.5  # seconds, as often as Celery polls


class WaitTimeoutError(DjceleryError, CeleryTimeoutError, TimeoutError):
    """A result, a message or an idle worker did not come in time."""


class NeverReadyError(WaitTimeoutError):
    """A result that nothing will ever make ready: said at once."""


def none_will_come(task_ids: Iterable[str], situation: str) -> str:
    """What to say of results that nobody will bring."""
    return f"No result for {', '.join(task_ids)} will come.\n{situation}"


class Waits:
    """How this test's own threads wait for results.

    Args:
        journal: wakes the waits.
        knows: whether the results of an app are meant.
        timeout: seconds for a wait that has no time-out of its own.
        situation: what to say of worker and queues when the time is over.
        ended: whether the worker has ended that was to bring the results.
        in_worker: whether the calling thread runs tasks; there Celery's own ways apply.
        bring_about: called with the ids of results that are about to be waited for; whether
            they are ready now.
        wait_in_task: the same for a task that waits, with the seconds that it does, if it says so;
            returns when they are.
        has_in_hand: whether the worker is not done with a task, though an outcome is stored.
        in_the_way_of: why one of these results never comes, where a message stays in a queue that
            no worker consumes; an empty text where none does.
    """

    def __init__(  # noqa: PLR0913 - each is told by another part
        self,
        *,
        journal: Journal,
        knows: Callable[[Celery], bool],
        timeout: float,
        situation: Callable[[], str],
        ended: Callable[[], bool],
        in_worker: Callable[[], bool],
        bring_about: Callable[[Collection[str]], bool],
        wait_in_task: Callable[[Collection[str], float | None], None],
        has_in_hand: Callable[[str], bool],
        in_the_way_of: Callable[[Collection[str]], str],
    ) -> None:
        self.journal = journal
        self.knows = knows
        self.timeout = timeout
        self.situation = situation
        self.ended = ended
        self.in_worker = in_worker
        self._bring_about = bring_about
        self._wait_in_task = wait_in_task
        self._has_in_hand = has_in_hand
        self._in_the_way_of = in_the_way_of

    def before(self, results: Iterable[Any], timeout: float | None = None) -> None:
        """The test, or a task that may, is about to wait for these.

        Raises:
            NeverReadyError: when one of them will never be ready.
        """
        __tracebackhide__ = True
        ours = [each for each in _leaves(results) if self.knows(each.app) and _comes(each)]
        if not ours:
            return
        task_ids = [each.id for each in ours]
        if self.in_worker():
            self._wait_in_task(task_ids, timeout)
        elif self._bring_about(task_ids):
            # They are there: a backend that is told of results as they come may have missed it.
            for each in ours:
                each.state  # noqa: B018 - it keeps what it has read
        elif self._in_the_way_of(task_ids):  # else no backend is asked before Celery does
            self.check_consumed(each.id for each in ours if not each.ready())

    def check_consumed(self, task_ids: Iterable[str]) -> None:
        """Refuse to wait for a task that no worker will ever take.

        Raises:
            NeverReadyError: its message, or one that it comes after, is in such a queue.
        """
        __tracebackhide__ = True
        waiting = list(task_ids)
        reason = self._in_the_way_of(waiting) if waiting else ""
        if reason:
            raise NeverReadyError(none_will_come(waiting, reason))

    def looked(self, task_ids: Iterable[str]) -> None:
        """The test has read the outcome of these."""
        if not self.in_worker():
            for task_id in task_ids:
                self.journal.append(Looked(task_id=task_id))

    def _meta(self, backend: Any, task_id: str, deadline: Deadline) -> Any:
        from celery import states

        meta = backend.get_task_meta(task_id)
        if meta["status"] in states.EXCEPTION_STATES and self._has_in_hand(task_id):
            # Its `on_failure` runs now, and what that raises takes the place of the failure.
            self.journal.wait_until(lambda: not self._has_in_hand(task_id), deadline.remaining)
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

        waiting: dict[str, None] = dict.fromkeys(task_ids)
        metas: dict[str, Any] = {}
        deadline = Deadline(self.timeout if timeout is None else timeout)
        seen = 0

        def look(candidates: Iterable[str]) -> bool:
            for task_id in list(candidates):
                meta = self._meta(backend, task_id, deadline)
                if meta["status"] in states.READY_STATES:
                    metas[task_id] = meta
                    waiting.pop(task_id, None)
            if waiting and on_interval:
                on_interval()
            return not waiting

        def stored() -> bool:
            """Ask the backend only for what it was told since the last look."""
            nonlocal seen
            since, seen = seen, len(self.journal)
            told = {event.task_id for event in self.journal.events(StateStored, since)}
            return look(told & waiting.keys())

        # A backend that others write to as well (a live worker) is asked now and then, too.
        while True:
            ended = self.ended()  # before the look: what the worker has stored until then is found
            if look(waiting):
                return metas
            if ended:
                raise NeverReadyError(none_will_come(waiting, self.situation()))
            self.check_consumed(waiting)
            brief = min(_RECHECK, deadline.remaining)
            if not self.journal.wait_until(stored, brief, kind=StateStored) and deadline.passed:
                msg = (
                    f"No result for {', '.join(waiting)} after {deadline.seconds:g} s.\n"
                    f"{self.situation()}\n"
                    "A longer wait: get(timeout=…), or djcelery_timeout for the whole run."
                )
                raise WaitTimeoutError(msg)


@contextmanager
def patched(waits: Waits) -> Iterator[None]:
    """Let results of the apps that ``waits`` knows wait on the journal, and tell who read them."""
    with _event_driven_backends(waits), _brought_about(waits), watched_results(waits):
        yield


@contextmanager
def _event_driven_backends(waits: Waits) -> Iterator[None]:
    """Replace the polling of ``SyncBackendMixin.wait_for`` and ``get_many``."""
    from celery.backends.base import BaseKeyValueStoreBackend, SyncBackendMixin

    wait_for, get_many = SyncBackendMixin.wait_for, BaseKeyValueStoreBackend.get_many

    def ours(backend: Any) -> bool:
        return waits.knows(backend.app) and not waits.in_worker()

    def waking_wait_for(  # noqa: PLR0913, PLR0917 - Celery's signature
        self: Any, task_id: str, timeout: float | None = None, interval: float = 0.5,
        no_ack: bool = True, on_interval: Any = None,  # noqa: FBT001, FBT002 - Celery's signature
    ) -> Any:  # fmt: skip
        __tracebackhide__ = True
        if not ours(self):
            return wait_for(self, task_id, timeout, interval, no_ack, on_interval)
        self._ensure_not_eager()
        return waits.until_ready(self, [task_id], timeout, on_interval)[task_id]

    def waking_get_many(  # noqa: PLR0913, PLR0917 - Celery's signature
        self: Any, task_ids: Any, timeout: float | None = None, interval: float = 0.5,
        no_ack: bool = True, on_message: Any = None, on_interval: Any = None,  # noqa: FBT001, FBT002 - Celery's signature
        **options: Any,
    ) -> Any:  # fmt: skip
        __tracebackhide__ = True
        if ours(self):
            waits.until_ready(self, task_ids, timeout, on_interval)
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
    from celery.result import AsyncResult

    get = vars(AsyncResult)["get"]

    def brought_about_get(
        self: Any, timeout: Any = None, propagate: bool = True, *args: Any, **kwargs: Any  # noqa: FBT001, FBT002 - Celery's signature
    ) -> Any:  # fmt: skip
        __tracebackhide__ = True
        try:
            if _may_wait(kwargs):
                waits.before([self], timeout)
        except NeverReadyError:
            if propagate:
                self._maybe_reraise_parent_error()  # what Celery's own wait does meanwhile
            raise
        return get(self, timeout, propagate, *args, **kwargs)

    with replaced(AsyncResult, get=brought_about_get, wait=brought_about_get):
        yield


def _may_wait(options: Mapping[str, Any]) -> bool:
    """Whether Celery lets the calling thread wait, by what was given to ``get`` or ``join``."""
    from celery._state import task_join_will_block

    return not (options.get("disable_sync_subtasks", True) and task_join_will_block())


def _comes(result: Any) -> bool:
    """Whether there will be something to read; where there is no backend, Celery says so."""
    from celery.backends.base import DisabledBackend

    return not result.ignored and not isinstance(result.backend, DisabledBackend)


class Reads(Protocol):
    """Who is told of results that are waited for and read."""

    def before(self, results: Iterable[Any], timeout: float | None = None) -> None:
        """These are about to be waited for."""

    def looked(self, task_ids: Iterable[str]) -> None:
        """The outcome of these has been read."""


@contextmanager
def watched_results(waits: Reads) -> Iterator[None]:
    """Note each outcome that reaches a result object in the test's own hands."""
    from celery import states
    from celery.result import AsyncResult, EagerResult

    set_cache = vars(AsyncResult)["_set_cache"]
    eager_get = vars(EagerResult)["get"]

    def _set_cache(self: Any, meta: Any) -> Any:
        if meta["status"] in states.READY_STATES:
            waits.looked(with_relatives(self))
        return set_cache(self, meta)

    def watched_read(name: str) -> property:
        attribute = vars(EagerResult)[name]

        def read(self: Any) -> Any:
            waits.looked([self.id])
            return attribute.fget(self)

        return property(read, doc=attribute.__doc__)

    def watched_get(self: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        waits.looked([self.id])
        return eager_get(self, *args, **kwargs)

    state = watched_read("state")
    with (
        replaced(AsyncResult, _set_cache=_set_cache),
        _watched_sets(waits),
        # What an eager result inherits (``info``, ``maybe_throw``) reads its ``_cache``.
        replaced(
            EagerResult, state=state, status=state, result=watched_read("result"),
            traceback=watched_read("traceback"), _cache=watched_read("_cache"),
            get=watched_get, wait=watched_get,
        ),
    ):  # fmt: skip
        yield


@contextmanager
def _watched_sets(waits: Reads) -> Iterator[None]:
    """Who is told that one of several results has failed, has been told of all of them."""
    from celery.result import ResultSet

    iter_native = vars(ResultSet)["iter_native"]

    def watched_join(name: str) -> Any:
        method = vars(ResultSet)[name]

        def joined(self: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            try:
                # One that is marked as ready waits for nothing: Redis joins a chord's header so.
                if _may_wait(kwargs) and not self.on_ready.ready:
                    waits.before(self.results, kwargs.get("timeout", args[0] if args else None))
                return method(self, *args, **kwargs)
            finally:
                waits.looked(with_relatives(self))

        return joined

    def watched_question(name: str) -> Any:
        method = vars(ResultSet)[name]

        def asked(self: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            try:
                return method(self, *args, **kwargs)
            finally:  # it stops at the first that has failed, as `join` does
                if _has_failed(self):
                    waits.looked(with_relatives(self))

        return asked

    def watched_iter(self: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        waits.looked(with_relatives(self))
        return iter_native(self, *args, **kwargs)

    with replaced(
        ResultSet, join=watched_join("join"), join_native=watched_join("join_native"),
        iter_native=watched_iter, failed=watched_question("failed"),
        successful=watched_question("successful"),
        maybe_throw=watched_question("maybe_throw"),
        maybe_reraise=watched_question("maybe_reraise"),
    ):  # fmt: skip
        yield


def _leaves(results: Iterable[Any]) -> Iterator[Any]:
    """The results of tasks, groups taken apart; those of eager mode are there already."""
    from celery.result import AsyncResult, EagerResult, ResultSet

    for result in results:
        if isinstance(result, ResultSet):
            yield from _leaves(result.results)
        elif isinstance(result, AsyncResult) and not isinstance(result, EagerResult):
            yield result


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
        if each is None or getattr(each, "id", None) in found:
            continue
        if each.id is not None:
            found[each.id] = None
        pending.append(getattr(each, "parent", None))
        pending.extend(getattr(each, "results", None) or ())
    return list(found)
