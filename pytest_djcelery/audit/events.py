"""What the ears of an audit append to its journal, beside the events of every journal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pytest_djcelery.messages.journal import Event

if TYPE_CHECKING:
    from pytest_djcelery.locations import Location


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sent(Event):
    """A task was published, run by eager mode, or handed to a mock in place of that.

    Arguments are those of the call: no serializer has seen them.
    """

    task: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    location: Location | None
    way: Literal["broker", "eager", "mock"]
    id: str | None = None
    mocked: str | None = None  # what the mock stands for: ``Task.delay``, or the whole task
    fault: str | None = None  # why the real call would have failed
    simulates: str | None = None  # what the mock plays by raising


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken(Event):
    """A worker of this process took a message."""

    task_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached(Event):
    """Something outside the process was connected to or written to."""

    what: Literal["broker", "result backend"]
    url: str
    location: Location | None
