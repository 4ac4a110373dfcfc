"""Warns of messages in queues that no worker consumes: they stay there."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from pytest_djcelery import locations
from pytest_djcelery.errors import QueueNotConsumedWarning
from pytest_djcelery.messages.events import Event, NotSent, Published

if TYPE_CHECKING:
    from pytest_djcelery.locations import Location
    from pytest_djcelery.messages.journal import Journal
    from pytest_djcelery.messages.sent_task import SentTask
    from pytest_djcelery.project.consumed_queues import ConsumedQueues

_MOST_SHOWN: Final = 10  # messages in one text


class Unconsumed:
    """Finds, among the messages of a test, those in queues that no worker consumes.

    Args:
        journal: The journal of the test.
        consumed: Returns the queues that the test's worker consumes, or ``None`` if the test has
            no worker, so that there is nothing to warn of.
        receives: Whether the worker receives a message, remote control included.
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
        self._read = 0  # how far the journal was read
        self._found: list[SentTask] = []
        # By identity: records compare by their contents.
        self._warned: dict[int, SentTask] = {}  # at the line that sent them
        self._listed: dict[int, SentTask] = {}  # in the warning of a wait

    def test_begins(self) -> None:
        """Forget earlier messages: where a block is wider than a test, those of other tests."""
        self._read = len(self._journal)
        self._found.clear()

    def remaining(self) -> list[SentTask]:
        """The messages that no worker will take from where they are."""
        if self._consumed() is None:
            return []
        end = len(self._journal)
        for event in self._journal.events(Event, self._read):
            if isinstance(event, Published):
                if not (event.eager or event.other_app or self._receives(event.message)):
                    self._found.append(event.message)
            elif isinstance(event, NotSent) and self._found:
                self._found = [sent for sent in self._found if sent != event.message]
        self._read = end
        return [sent for sent in self._found if not self._receives(sent)]

    def published(self, sent: SentTask) -> None:
        """Warn of a message that has just been sent, at the line that sent it."""
        __tracebackhide__ = True
        if self._consumed() is not None and not self._receives(sent):
            self._warn([sent], sent.location, self._warned)

    def waited(self) -> None:
        """Warn, at the line that waits for everything due, of the messages that remain."""
        __tracebackhide__ = True
        unlisted = [sent for sent in self.remaining() if id(sent) not in self._listed]
        if unlisted:
            self._warn(unlisted, locations.of_caller(), self._listed)

    def test_ends(self) -> None:
        """Warn of the messages for which no warning has reached the test yet."""
        __tracebackhide__ = True
        for sent in self.remaining():
            if id(sent) not in self._warned and id(sent) not in self._listed:
                self._warn([sent], sent.location, self._warned)

    def blocking(self, task_ids: Collection[str]) -> str:
        """Why one of these results never comes, if it depends on such a message; else ``""``."""
        blocking = [
            sent for sent in self.remaining() if not _task_ids_of(sent).isdisjoint(task_ids)
        ]
        return self.text(blocking) if blocking else ""

    def _warn(
        self, messages: Sequence[SentTask], location: Location | None, warned: dict[int, SentTask]
    ) -> None:
        __tracebackhide__ = True
        # Without a registry, so that no filter takes a second message for a repetition.
        warnings.warn_explicit(
            QueueNotConsumedWarning(self.text(messages)),
            None,
            filename=location.path if location else "<unknown>",
            lineno=location.line if location else 1,
        )
        warned.update((id(sent), sent) for sent in messages)  # unless the warning is an error

    def text(
        self, messages: Sequence[SentTask], named: Callable[[SentTask], str] | None = None
    ) -> str:
        """Say which messages these are, where they stay, and what to write.

        Args:
            messages: The messages.
            named: What to call each; by default its call and its id.
        """
        # This loads Celery, which a run that uses no fixture must not do.
        from pytest_djcelery.messages.descriptions import message_text

        # There is a worker: else no message would have been found.
        consumed = cast("ConsumedQueues", self._consumed())
        queues = list(dict.fromkeys(_destination(sent) for sent in messages))
        calls = [
            f"{named(sent) if named else f'{message_text(sent)} [{sent.id}]'} is in {_place(sent)}"
            for sent in messages[:_MOST_SHOWN]
        ]
        if len(messages) > _MOST_SHOWN:
            calls.append(f"… and {len(messages) - _MOST_SHOWN} more")
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
    marked = ", ".join(f'"{queue}"' for queue in wanted)
    declared = ", ".join(f'Queue("{queue}")' for queue in wanted)
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


def _task_ids_of(sent: SentTask) -> set[str]:
    """The ids of a message's task and of those that follow from it, as far as it carries them."""
    following: list[Any] = [*sent.chain, *sent.links, *([sent.chord] if sent.chord else [])]
    following_ids = {signature.options.get("task_id") for signature in following}
    return {sent.id, *filter(None, following_ids)}
