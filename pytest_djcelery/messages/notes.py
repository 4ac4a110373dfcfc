"""What only the timeline reads: the beginnings and ends of runs, requests and transactions.

They are notes in the journal, which wake nobody and have no position themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pytest_djcelery.messages.journal import Note
from pytest_djcelery.messages.task_message import quickly_made

if TYPE_CHECKING:
    from pytest_djcelery.locations import Location


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Note):
    """A worker has begun to run a message of this task."""

    task_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestStarted(Note):
    """Django began to answer a request."""

    method: str
    path: str
    location: Location | None  # the line that made it


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRaised(Note):
    """The view raised an error that Django answered with its page for errors."""

    error: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFinished(Note):
    """Django has answered it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SentByBeat(Note):
    """The last message of this task was an entry of the periodic schedule."""

    task_id: str
    entry: str  # its name


class BlockOpener(Protocol):
    """What opened a transaction; `str()` says it as a person would."""

    @property
    def location(self) -> Location | None:
        """The project's line that opened it."""


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class BlockEntered(Note):
    """The code under test has begun a transaction, in production's terms."""

    block: int
    opener: BlockOpener


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class BlockLeft(Note):
    """The transaction is over."""

    block: int
    committed: bool
