"""Where a broker or a result backend that is down on purpose is felt: at the very call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from pytest_djcelery.patching import SharedChange, patches, replaced
from pytest_djcelery.recording.failures import async_result_replaced, result_set_replaced

if TYPE_CHECKING:
    from celery import Celery

    from pytest_djcelery.messages.sent_task import SentTask


class Refusals:
    """What is asked before a message is handed to the broker, and before a result is used.

    Each raises if the server is down. ``None``, as nearly always, costs one look.
    """

    publish: Callable[[SentTask], None] | None = None
    result: Callable[[Celery, str, str], None] | None = None


REFUSALS: Final = Refusals()
_reads: Final = SharedChange()


@contextmanager
def outages_possible(
    *,
    publish: Callable[[SentTask], None],
    result: Callable[[Celery, str, str], None],
) -> Iterator[None]:
    """Within the ``with``, ask these first.

    Args:
        publish: Called with the record of a message that is about to be sent.
        result: Called with the app, the task's id, and what is about to be done: the state that
            is to be stored, or ``"read"``.
    """
    before = REFUSALS.publish, REFUSALS.result
    REFUSALS.publish, REFUSALS.result = publish, result
    try:
        with _reads.used(_reads_asked()):
            yield
    finally:
        REFUSALS.publish, REFUSALS.result = before


@patches(
    "celery.result:AsyncResult._get_task_meta",
    why="Celery has no hook for the read of a result.",
    checked_on="Celery 5.4 to 5.7",
)
@contextmanager
def _reads_asked() -> Iterator[None]:
    """Ask before a result is read, as its own ``get()``, or any of its attributes, does."""
    from celery.result import AsyncResult, ResultSet

    get_meta = vars(AsyncResult)["_get_task_meta"]
    get = vars(AsyncResult)["get"]

    def asked_get_task_meta(self: Any) -> Any:
        if self._cache is None:
            _ask(self)
        return get_meta(self)

    def asked_get(self: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if not self._cache:
            _ask(self)
        return get(self, *args, **kwargs)

    def asked_set(name: str) -> Any:
        method = vars(ResultSet)[name]

        def asked(self: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            for result in self.results[:1]:
                _ask(result)
            return method(self, *args, **kwargs)

        return asked

    with (
        replaced(AsyncResult, _get_task_meta=asked_get_task_meta),
        async_result_replaced(get=asked_get, wait=asked_get),
        result_set_replaced(
            join_native=asked_set("join_native"), iter_native=asked_set("iter_native")
        ),
    ):
        yield


def _ask(result: Any) -> None:
    __tracebackhide__ = True
    if REFUSALS.result is not None:
        REFUSALS.result(result.app, getattr(result, "id", ""), "read")
