"""What is told of results while they are waited for: each state that is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from pytest_djcelery.patching import patches, replaced

_LAST_WORD: Final = 1.0  # seconds, for what a server has sent and was not read


def leaves(results: Iterable[Any]) -> Iterator[Any]:
    """The results of tasks, groups taken apart; those of eager mode are there already."""
    from celery.result import AsyncResult, EagerResult, ResultSet

    for result in results:
        if isinstance(result, ResultSet):
            yield from leaves(result.results)
        elif isinstance(result, AsyncResult) and not isinstance(result, EagerResult):
            yield result


@contextmanager
def states_reported(result: Any, options: dict[str, Any]) -> Iterator[None]:
    """Call ``on_message`` with each state that is stored in a block, as Redis and RPC do.

    Celery's other backends refuse it; the one in memory stands in the place of those two.

    Args:
        result: of a task or of several, that is waited for in the block.
        options: of ``get``; ``on_message`` is taken out where this does what it asks for.
    """
    on_message = options.get("on_message")
    published = on_message and getattr(result.backend, "published", None)
    if on_message is None or published is None:
        yield
        return
    del options["on_message"]
    on_interval = options.get("on_interval") or nothing

    with published([leaf.id for leaf in leaves([result])]) as metas:

        def tell() -> None:
            while metas:
                on_message(result.backend.decode_result(metas.popleft()))

        def tell_and_go_on() -> None:
            tell()
            on_interval()

        options["on_interval"] = tell_and_go_on
        yield
        tell()


@patches(
    "celery.backends.asynchronous:BaseResultConsumer.on_message",
    why="One consumer hands the states that a server has sent to who waits for them.",
    checked_on="Celery 5.4 to 5.7",
)
def drain(result: Any, on_message: Callable[[Any], object] | None) -> None:
    """Tell of the states that a server has sent by now, the last of which is final.

    Private API (``BaseResultConsumer``), checked on Celery 5.4 to 5.7.
    """
    consumer = result.backend.result_consumer
    with replaced(consumer, on_message=on_message), suppress(OSError):
        for _ in consumer.drain_events_until(result.on_ready, timeout=_LAST_WORD):
            pass


def nothing() -> None:
    """Do nothing, where somebody may be told."""
