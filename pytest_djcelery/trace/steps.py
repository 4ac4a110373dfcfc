"""Reads the journal as a story: steps in the order in which they began, and what led to each.

A step is what a person would tell: a request, a transaction, a hook, a message, its run. The
journal has an event for its beginning and one for its end; here the two are found together, and a
step stands below the one in which, or because of which, it began.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, cast

from pytest_djcelery.messages.events import (
    BlockEntered,
    BlockLeft,
    Dropped,
    Ended,
    EndedWithoutOutcome,
    Event,
    FaultFired,
    HookDiscarded,
    HookFinished,
    HookRegistered,
    HookStarted,
    NotSent,
    Published,
    RaceRaised,
    RanTwice,
    RequestFinished,
    RequestRaised,
    RequestStarted,
    SentByBeat,
    Started,
    Warned,
    WorkerLost,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_djcelery.locations import Location
    from pytest_djcelery.messages.journal import Journal, Recorded
    from pytest_djcelery.messages.sent_task import SentTask

Kind = Literal["line", "request", "atomic", "hook", "publish", "eager", "run", "note"]
_NONE: Final = -1


class Step(NamedTuple):
    """One thing that happened, which may have led to others."""

    kind: Kind
    began: Recorded
    ended: Recorded | None  # what happened last: its end, if it has ended
    ran: Recorded | None  # when a hook began to run, or what a request raised
    parent: int  # the index of the step that led to it; -1 if none did
    depth: int
    message: SentTask | None  # that was published, or run
    within: SentTask | None  # the message in whose run it happened
    line: Location | None  # of the test
    entry: str | None  # of the periodic schedule that it was sent for

    @property
    def event(self) -> Event:
        """The event with which it began."""
        event: Event = self.began[2]
        return event

    @property
    def end(self) -> Event | None:
        """The event with which it ended."""
        return None if self.ended is None else self.ended[2]


def steps_of(journal: Journal, since: int = 0) -> list[Step]:
    """The steps of a test, in the order in which they began.

    Args:
        journal: The journal of the test.
        since: The position in it where the test begins.
    """
    return _Reader(journal.recorded(since, _READ)).steps()


class _Reader:
    """Goes through the journal once, and notes for each step where it begins and ends."""

    def __init__(self, recorded: list[Recorded]) -> None:
        self._recorded = recorded
        self._kinds: list[Kind] = []
        self._began: list[Recorded] = []
        self._ended: dict[int, Recorded] = {}
        self._ran: dict[int, Recorded] = {}
        self._parents: list[int] = []
        self._messages: dict[int, SentTask] = {}
        self._lines: dict[int, Location | None] = {}  # steps that stand for a line of the test
        self._last: tuple[Location | None, int] = None, _NONE  # the last of them
        self._open: defaultdict[int, list[int]] = defaultdict(list)  # by thread, innermost last
        self._published: dict[str, int] = {}  # the last message of a task
        self._running: dict[str, list[int]] = defaultdict(list)
        self._lost: dict[str, int] = {}  # the last run of a task whose worker was lost
        self._entries: dict[int, str] = {}  # of the periodic schedule
        self._hooks: dict[int, int] = {}
        self._blocks: dict[int, int] = {}

    def steps(self) -> list[Step]:
        """Read the journal."""
        for entry in self._recorded:
            _READ[type(entry[2])](self, entry)
        return self._told()

    # What begins ----------------------------------------------------------------------------

    def _add(self, kind: Kind, entry: Recorded, parent: int) -> int:
        self._kinds.append(kind)
        self._began.append(entry)
        self._parents.append(parent)
        return len(self._kinds) - 1

    def _begin(self, kind: Kind, entry: Recorded, line: Location | None = None) -> int:
        """Add a step below the innermost one of its thread, or below the line of the test."""
        around = self._open.get(entry[1][2])
        if around:
            outermost = self._parents[around[0]]
            if line is not None and self._lines.get(outermost, line) is None:
                self._lines[outermost] = line  # which what it began with did not know
            return self._add(kind, entry, around[-1])
        if line is None or line is not self._last[0]:
            self._last = line, self._add("line", entry, _NONE)
            self._lines[self._last[1]] = line
        return self._add(kind, entry, self._last[1])

    def _enter(self, entry: Recorded, step: int) -> None:
        self._open[entry[1][2]].append(step)

    def _leave(self, entry: Recorded, step: int) -> None:
        self._ended[step] = entry
        for thread in (entry[1][2], self._began[step][1][2]):  # nearly always the same
            around = self._open[thread]
            if step in around:
                around.remove(step)
                return

    def _on_published(self, entry: Recorded) -> None:
        event: Published = entry[2]
        step = self._begin("eager" if event.eager else "publish", entry, event.test_line)
        self._messages[step] = event.message
        self._published[event.message.id] = step
        if event.eager:
            self._enter(entry, step)

    def _on_started(self, entry: Recorded) -> None:
        task_id: str = entry[2].task_id
        step = self._run(entry, task_id)
        self._running[task_id].append(step)
        self._enter(entry, step)

    def _on_beat(self, entry: Recorded) -> None:
        event: SentByBeat = entry[2]
        step = self._published.get(event.task_id)
        if step is not None:
            self._entries[step] = event.entry

    def _run(self, entry: Recorded, task_id: str) -> int:
        sent = self._published.get(task_id, _NONE)
        step = self._add("run", entry, sent) if sent != _NONE else self._begin("run", entry)
        if sent != _NONE:
            self._messages[step] = self._messages[sent]
        return step

    def _on_hook_registered(self, entry: Recorded) -> None:
        event: HookRegistered = entry[2]
        self._hooks[event.hook] = self._begin("hook", entry, event.test_line)

    def _on_request(self, entry: Recorded) -> None:
        event: RequestStarted = entry[2]
        self._enter(entry, self._begin("request", entry, event.location))

    def _on_block(self, entry: Recorded) -> None:
        event: BlockEntered = entry[2]
        step = self._blocks[event.block] = self._begin("atomic", entry)
        self._enter(entry, step)

    def _on_note(self, entry: Recorded) -> None:
        self._begin("note", entry)

    def _on_ran_twice(self, entry: Recorded) -> None:
        event: RanTwice = entry[2]
        sent = self._published.get(event.task_id, _NONE)
        step = self._begin("note", entry) if sent == _NONE else self._add("note", entry, sent)
        self._messages[step] = event.message

    # What ends ------------------------------------------------------------------------------

    def _on_ended(self, entry: Recorded) -> None:
        event: Ended = entry[2]
        if event.eager:
            step = self._eager_run(entry, event)
        elif running := self._running.get(event.task_id):
            step = running.pop()
        elif event.task_id in self._lost:  # Celery says what becomes of it
            step = self._lost.pop(event.task_id)
        else:  # it was revoked, say, and never began
            step = self._run(entry, event.task_id)
        self._leave(entry, step)

    def _on_worker_lost(self, entry: Recorded) -> None:
        task_id: str = entry[2].task_id
        if running := self._running.get(task_id):
            step = self._lost[task_id] = running.pop()
            self._leave(entry, step)

    def _eager_run(self, entry: Recorded, event: Ended) -> int:
        for step in reversed(self._open[entry[1][2]]):
            message = self._messages.get(step)
            if message is not None and (message.id, message.retries) == (
                event.task_id,
                event.retries,
            ):
                return step
        return self._begin("run", entry)  # the test called ``task.apply()``

    def _on_not_sent(self, entry: Recorded) -> None:
        message: SentTask = entry[2].message
        step = self._published.get(message.id)
        if step is not None:
            self._ended[step] = entry

    def _on_hook_started(self, entry: Recorded) -> None:
        step = self._hooks.get(entry[2].hook)
        if step is not None:
            self._ran[step] = entry
            self._enter(entry, step)

    def _on_hook_ended(self, entry: Recorded) -> None:
        step = self._hooks.get(entry[2].hook)
        if step is not None:
            self._leave(entry, step)

    def _on_block_left(self, entry: Recorded) -> None:
        step = self._blocks.get(entry[2].block)
        if step is not None:
            self._leave(entry, step)

    def _on_request_raised(self, entry: Recorded) -> None:
        if (step := self._request(entry)) is not None:
            self._ran[step] = entry

    def _on_request_finished(self, entry: Recorded) -> None:
        if (step := self._request(entry)) is not None:
            self._leave(entry, step)

    def _request(self, entry: Recorded) -> int | None:
        around = self._open[entry[1][2]]
        return next((step for step in reversed(around) if self._kinds[step] == "request"), None)

    # The story ------------------------------------------------------------------------------

    def _told(self) -> list[Step]:
        """Every step but the transactions in which nothing of interest happened."""
        steps: list[Step] = []
        places = [_NONE] * (len(self._kinds) + 1)  # the last is that of `_NONE`
        line: tuple[Location | None, int] = None, _NONE  # the last one of the test
        kept = self._kept()
        for step, kind in enumerate(self._kinds):
            if not kept[step]:
                continue
            location = self._lines.get(step)
            if kind == "line" and location in (None, line[0]):
                places[step] = _NONE if location is None else line[1]
                continue
            parent = places[self._parents[step]]
            places[step] = len(steps)
            if kind == "line":
                line = location, len(steps)
            depth, within = 0, None
            if parent != _NONE:
                above = steps[parent]
                depth = above.depth + 1
                within = above.message if above.kind in ("run", "eager") else above.within
            made = (
                kind,
                self._began[step],
                self._ended.get(step),
                self._ran.get(step),
                parent,
                depth,
                self._messages.get(step),
                within,
                location,
                self._entries.get(step),
            )
            steps.append(_step(Step, made))
        return steps

    def _kept(self) -> list[bool]:
        kept = [kind not in ("atomic", "line") for kind in self._kinds]
        for step in range(len(kept) - 1, -1, -1):  # what a step led to comes after it
            if kept[step] and (parent := self._parents[step]) != _NONE:
                kept[parent] = True
        return kept


#: Makes a step of a tuple, faster than the class itself does.
_step: Final = cast("Callable[[type[Step], tuple[Any, ...]], Step]", tuple.__new__)
_READ: Final[dict[type[Event], Callable[[_Reader, Recorded], None]]] = {
    Published: _Reader._on_published,
    Started: _Reader._on_started,
    SentByBeat: _Reader._on_beat,
    Ended: _Reader._on_ended,
    EndedWithoutOutcome: _Reader._on_ended,
    NotSent: _Reader._on_not_sent,
    HookRegistered: _Reader._on_hook_registered,
    HookStarted: _Reader._on_hook_started,
    HookFinished: _Reader._on_hook_ended,
    HookDiscarded: _Reader._on_hook_ended,
    RequestStarted: _Reader._on_request,
    RequestRaised: _Reader._on_request_raised,
    RequestFinished: _Reader._on_request_finished,
    BlockEntered: _Reader._on_block,
    BlockLeft: _Reader._on_block_left,
    RaceRaised: _Reader._on_note,
    Dropped: _Reader._on_note,
    Warned: _Reader._on_note,
    FaultFired: _Reader._on_note,
    RanTwice: _Reader._on_ran_twice,
    WorkerLost: _Reader._on_worker_lost,
}
