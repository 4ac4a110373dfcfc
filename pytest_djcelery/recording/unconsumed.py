"""Messages in queues that nobody consumes: they stay there, and the test is told."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from pytest_djcelery import locations
from pytest_djcelery.errors import QueueNotConsumedWarning
from pytest_djcelery.messages.journal import Event, NotSent, Published

if TYPE_CHECKING:
    from pytest_djcelery.locations import Location
    from pytest_djcelery.messages.journal import Journal
    from pytest_djcelery.messages.sent_task import SentTask
    from pytest_djcelery.project.consumed_queues import ConsumedQueues

_MOST: Final = 10  # messages in one text


class Unconsumed:
    """Finds them among what a test has published.

    Args:
        journal: of the test.
        consumed: the queues that the worker of the test consumes; ``None`` where it has none, so
            that there is nothing to be told.
        receives: whether it receives a message, remote control considered.
    """

    def __init__(
        self,
        journal: Journal,
        consumed: Callable[[], ConsumedQueues | None],
        receives: Callable[[SentTask], bool],
    ) -> None:
        self._journal = journal
        self._consumed = consumed
        self._receives = receives
        self._read = 0  # how far
        self._found: list[SentTask] = []
        # By identity: records compare with what they carry.
        self._warned: dict[int, SentTask] = {}  # where they were sent
        self._listed: dict[int, SentTask] = {}  # by a wait

    def test_begins(self) -> None:
        """Those before are of the tests before, in a block that is wider than a test."""
        self._read = len(self._journal)
        self._found.clear()

    def left(self) -> list[SentTask]:
        """The messages that no worker will take from where they are."""
        if self._consumed() is None:
            return []
        end = len(self._journal)
        for event in self._journal.events(Event, self._read):
            if isinstance(event, Published):
                if not (event.eager or event.other_app or self._receives(event.message)):
                    self._found.append(event.message)
            elif isinstance(event, NotSent) and self._found:
                self._found = [each for each in self._found if each != event.message]
        self._read = end
        return [each for each in self._found if not self._receives(each)]

    def published(self, sent: SentTask) -> None:
        """Warn of a message that has just been sent, at the line that sent it."""
        __tracebackhide__ = True
        if self._consumed() is not None and not self._receives(sent):
            self._warn([sent], sent.location, self._warned)

    def waited(self) -> None:
        """Warn, at the line that waits, of those that were left by a wait for all that is due."""
        __tracebackhide__ = True
        left = [each for each in self.left() if id(each) not in self._listed]
        if left:
            self._warn(left, locations.of_caller(), self._listed)

    def test_ends(self) -> None:
        """Warn of those that the test has not been told of, or was kept from hearing of."""
        __tracebackhide__ = True
        for sent in self.left():
            if id(sent) not in self._warned and id(sent) not in self._listed:
                self._warn([sent], sent.location, self._warned)

    def in_the_way_of(self, task_ids: Collection[str]) -> str:
        """Why one of these results never comes, if such a message is what it waits for."""
        left = [each for each in self.left() if not _brings(each).isdisjoint(task_ids)]
        return self.text(left) if left else ""

    def _warn(
        self, sent: Sequence[SentTask], location: Location | None, told: dict[int, SentTask]
    ) -> None:
        __tracebackhide__ = True
        # With no registry, so that no filter takes a second message for the first.
        warnings.warn_explicit(
            QueueNotConsumedWarning(self.text(sent)),
            None,
            filename=location.path if location else "<unknown>",
            lineno=location.line if location else 1,
        )
        told.update((id(each), each) for each in sent)  # not where the warning is an error

    def text(self, sent: Sequence[SentTask]) -> str:
        """What to say of messages: which they are, where they stay, and what to write."""
        # It loads Celery, which a run that uses no fixture must not.
        from pytest_djcelery.messages.descriptions import call_text

        # A worker consumes some: else there would be no message to tell of.
        consumed = cast("ConsumedQueues", self._consumed())
        queues = list(dict.fromkeys(_destination(each) for each in sent))
        calls = [
            f"{call_text(each.task, each.args, each.kwargs)} [{each.id}] is in {_place(each)}"
            for each in sent[:_MOST]
        ]
        if len(sent) > _MOST:
            calls.append(f"… and {len(sent) - _MOST} more")
        names = ", ".join(map(repr, consumed.shown)) or "none"
        return "\n".join(
            [
                "No worker consumes the queue that a message was sent to, so it stays there:",
                *(f"  {call}" for call in calls),
                f"Workers consume {names} ({consumed.source}).",
                *_remedy(consumed, queues),
            ]
        )


def _remedy(consumed: ConsumedQueues, queues: Iterable[str]) -> list[str]:
    wanted = list(dict.fromkeys([*consumed.shown, *queues]))
    if consumed.of_worker:
        return [f"To have it consumed, give {consumed.source} these: {', '.join(wanted)}."]
    marked = ", ".join(f'"{each}"' for each in wanted)
    declared = ", ".join(f'Queue("{each}")' for each in wanted)
    lines = [
        "If a worker of production consumes it, write one of these:",
        f"  djcelery_queues = {', '.join(wanted)}   (ini file, or --djcelery-queues)",
        f"  @pytest.mark.celery_queues({marked})   (for one test)",
    ]
    if consumed.source != "djcelery_queues":
        lines.append(f"  task_queues = [{declared}]   (in Celery's settings)")
    return lines


def _destination(sent: SentTask) -> str:
    return sent.queue or f"{sent.exchange}:{sent.routing_key}"


def _place(sent: SentTask) -> str:
    if sent.queue is not None:
        return f"the queue {sent.queue!r}"
    return f"no queue: exchange {sent.exchange!r}, routing key {sent.routing_key!r}"


def _brings(sent: SentTask) -> set[str]:
    """The ids of the tasks that come of a message, as far as it carries them."""
    carried: list[Any] = [*sent.chain, *sent.links, *([sent.chord] if sent.chord else [])]
    ids = {sent.id}
    for signature in carried:
        ids |= {each for each in (signature.options.get("task_id"),) if each}
    return ids
