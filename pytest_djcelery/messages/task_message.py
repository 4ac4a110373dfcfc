"""What a message says, without how it compares: that comes with `SentTask`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from kombu.utils.json import loads

if TYPE_CHECKING:
    from celery import Celery
    from celery.canvas import Signature

    from pytest_djcelery.locations import Location

Transaction = Literal["on_commit", "atomic", "autocommit"]
_Item = TypeVar("_Item")


class Items(tuple[_Item, ...]):
    """A tuple that equals a list of the same, too: a worker gets one, a test writes the other."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return super().__eq__(tuple(other) if isinstance(other, list) else other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = tuple.__hash__


class Message(Protocol):
    """What is known of every message, also of one that no broker has seen."""

    @property
    def task(self) -> str:
        """The name of the task."""

    @property
    def args(self) -> Sequence[Any]:
        """Positional arguments."""

    @property
    def kwargs(self) -> Mapping[str, Any]:
        """Keyword arguments."""

    @property
    def location(self) -> Location | None:
        """The project's line that sent it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TaskMessage:
    """A message to run one task, as a worker receives it."""

    task: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    id: str
    queue: str | None
    routing_key: str | None
    exchange: str | None
    eta: datetime | None
    expires: datetime | None
    priority: int | None
    retries: int
    headers: Mapping[str, Any]
    root_id: str | None
    parent_id: str | None
    group_id: str | None
    links: tuple[Signature, ...]
    link_errors: tuple[Signature, ...]
    chain: tuple[Signature, ...]  # what follows, in the order it will run
    chord: Signature | None
    sent_at: datetime
    location: Location | None
    transaction: Transaction
    serializer: str = field(default="json", repr=False)
    exact_times: bool = field(default=False, repr=False)  # sent while the clock stood
    properties: Mapping[str, Any] = field(default_factory=dict, repr=False)  # what else it says

    @property
    def after_commit(self) -> bool:
        """Whether an on_commit hook sent it."""
        return self.transaction == "on_commit"


def fields_of(headers: Mapping[str, Any], body: Any) -> Mapping[str, Any]:
    """What a message says of its task: in its headers, or in its body by the first protocol."""
    if "id" in headers:
        return headers
    try:
        fields = loads(body)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


def header_moment(app: Celery, value: Any) -> datetime | None:
    """The moment, in UTC, that a worker makes of a message's ``eta`` or ``expires``."""
    if not value:
        return None
    if isinstance(value, str):
        value = loads(f'{{"__type__": "datetime", "__value__": "{value}"}}')
    if value.tzinfo is None:  # a worker takes it as UTC, whatever the app's time zone is
        value = value.replace(tzinfo=timezone.utc if app.conf.enable_utc else app.timezone)
    moment: datetime = value.astimezone(timezone.utc)
    return moment
