"""Messages that were run twice, and what the second run did that the first had not done already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from pytest_djcelery.messages.events import RanTwice

if TYPE_CHECKING:
    from pytest_djcelery.messages.journal import Journal
    from pytest_djcelery.messages.task_message import Message

MOST_SHOWN: Final = 10  # messages in one text, and effects of each
_MAPS: Final = ("celery.map", "celery.starmap")
_now: Final[list[object]] = []  # the second runs that are under way


@contextmanager
def second_run() -> Iterator[None]:
    """Enter around a second run, of which nothing is to stay."""
    run = object()
    _now.append(run)
    try:
        yield
    finally:
        _now.remove(run)


def is_under_way() -> bool:
    """Whether a task runs for the second time now."""
    return bool(_now)


def task_of(message: Message) -> str:
    """The task whose function a message runs: for ``map()`` and ``starmap()``, the one mapped."""
    mapped = message.kwargs.get("task") if message.task in _MAPS else None
    return str(mapped["task"]) if isinstance(mapped, Mapping) else message.task


def different(journal: Journal, since: int = 0) -> list[RanTwice]:
    """The messages whose second run made a difference, in order.

    Args:
        journal: The journal of the test.
        since: The position from which they count.
    """
    return [event for event in journal.events(RanTwice, since) if event.effects]


def text(found: list[RanTwice]) -> str:
    """The text of the error at the end of the test."""
    return "\n".join(_lines(found))


def _lines(found: list[RanTwice]) -> Iterator[str]:
    # This loads Celery, which a run that uses no fixture must not do.
    from pytest_djcelery.messages.descriptions import message_text

    names = list(dict.fromkeys(task_of(event.message) for event in found))
    if len(names) == 1:
        yield (
            "A task is not safe to run twice. Its message was delivered once more, and the second "
            "run made a difference:"
        )
    else:
        yield (
            f"{len(names)} tasks are not safe to run twice. Their messages were delivered once "
            "more, and the second runs made a difference:"
        )
    for event in found[:MOST_SHOWN]:
        location = event.message.location
        sent = f", sent at {location}" if location else ""
        yield f"  {message_text(event.message)} [{event.task_id}]{sent}"
        yield from (f"    {effect}" for effect in _first(event.effects))
    if len(found) > MOST_SHOWN:
        yield f"  … and {len(found) - MOST_SHOWN} more messages"
    yield "A broker delivers a message again if the acknowledgement of the first delivery is lost."
    yield "To fix: have the task leave alone what is done already. Look for it in the same"
    yield "transaction, use update_or_create() with a unique key, or pass a key on to the service."
    yield "If a second run may make a difference, exempt the task:"
    yield f"  @pytest.mark.celery_redeliver(exempt=[{', '.join(map(_last_part, names))}])"
    yield f"  djcelery_redeliver_exempt = {', '.join(names)}"


def _first(effects: tuple[str, ...]) -> Iterator[str]:
    yield from effects[:MOST_SHOWN]
    if len(effects) > MOST_SHOWN:
        yield f"… and {len(effects) - MOST_SHOWN} more"


def _last_part(name: str) -> str:
    return name.rpartition(".")[2]
