"""Stories for the tests of the timeline: of events made by hand, without a worker or a database."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pytest_djcelery.clock import real_time_offset
from pytest_djcelery.messages.events import Ended, Event, Note, Published, Started
from pytest_djcelery.messages.journal import Journal
from pytest_djcelery.trace.story import Story
from pytest_djcelery.trace.table import table

if TYPE_CHECKING:
    from pytest_djcelery.messages.sent_task import SentTask


def story_of(
    events: Iterable[Event],
    *,
    error: BaseException | None = None,
    runner: Any = None,
    stays: Sequence[SentTask] = (),
) -> Story:
    """What the timeline makes of some events, in a test with a worker or without."""
    journal = Journal()
    for event in events:
        if isinstance(event, Note):
            journal.note(event)
        else:
            journal.append(event)
    sandbox: Any = SimpleNamespace(
        journal=journal,
        began=0,
        runner=runner,
        unconsumed=SimpleNamespace(remaining=lambda: list(stays)),
        real_time=real_time_offset(),
        suite=frozenset(),
        clock=SimpleNamespace(now=lambda: datetime.now(timezone.utc)),
    )
    return Story(sandbox, error)


def worker(due: Sequence[SentTask] = (), later: Sequence[SentTask] = ()) -> Any:
    """What runs the tasks of the test, with what it has yet to run."""
    return SimpleNamespace(in_place=True, has_ended=False, undelivered=lambda: (due, later))


def run_of(message: SentTask, state: str = "SUCCESS", value: Any = None) -> list[Event]:
    """The beginning and the end of a message's run."""
    ended = Ended(
        task_id=message.id, task=message.task, state=state, value=value, retries=message.retries
    )
    return [Started(task_id=message.id), ended]


def sent_and_run(message: SentTask, *within: Event, value: Any = None) -> list[Event]:
    """A message, and its run with what happened in it."""
    began, ended = run_of(message, value=value)
    return [Published(message=message), began, *within, ended]


def lines(story: Story, *, limit: int = 40, width: int = 120) -> list[str]:
    """The rows of the table without times, which differ from run to run."""
    text = re.sub(r"\d+\.\d( m?s)?", "-", table(story, limit=limit, width=width))
    return [re.sub(r" {2,}(?=\S)", "  ", line.strip()) for line in text.splitlines()]
