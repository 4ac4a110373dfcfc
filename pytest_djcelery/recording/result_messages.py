"""Reports each state that is stored for a result while the test waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from pytest_djcelery.patching import patches, replaced

_GRACE: Final = 1.0  # seconds, to read what a server has already sent


def leaves(results: Iterable[Any]) -> Iterator[Any]:
    """The results of single tasks, groups taken apart, without those that eager mode has stored."""
    from celery.result import AsyncResult, EagerResult, ResultSet

    for result in results:
        if isinstance(result, ResultSet):
            yield from leaves(result.results)
        elif isinstance(result, AsyncResult) and not isinstance(result, EagerResult):
            yield result


@contextmanager
def states_reported(result: Any, options: dict[str, Any]) -> Iterator[None]:
    """Within the ``with``, call ``on_message`` with each state stored, as Redis and RPC do.

    Celery's other backends refuse it; the one in memory takes the place of those two.

    Args:
        result: The result, of one task or of several, that is waited for.
        options: The options of ``get``; ``on_message`` is removed if it is called here.
    """
    on_message = options.get("on_message")
    published = on_message and getattr(result.backend, "published", None)
    if on_message is None or published is None:
        yield
        return
    del options["on_message"]
    on_interval = options.get("on_interval") or do_nothing

    with published([leaf.id for leaf in leaves([result])]) as metas:

        def report() -> None:
            while metas:
                on_message(result.backend.decode_result(metas.popleft()))

        def report_at_interval() -> None:
            report()
            on_interval()

        options["on_interval"] = report_at_interval
        yield
        report()


@patches(
    "celery.backends.asynchronous:BaseResultConsumer.on_message",
    why="A single consumer distributes the states that a server sends to all that wait.",
    checked_on="Celery 5.4 to 5.7",
)
def drain(result: Any, on_message: Callable[[Any], object] | None) -> None:
    """Report the states that a server has already sent, the last of which is final.

    Private API (``BaseResultConsumer``), checked on Celery 5.4 to 5.7.
    """
    consumer = result.backend.result_consumer
    with replaced(consumer, on_message=on_message), suppress(OSError):
        for _ in consumer.drain_events_until(result.on_ready, timeout=_GRACE):
            pass


def do_nothing() -> None:
    """The callback where none was given."""
