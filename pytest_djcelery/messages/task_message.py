"""What a message contains, and the form of canvases; `SentTask` adds how it compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timezone
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    from celery import Celery
    from celery.canvas import Signature

    from pytest_djcelery.locations import Location, MaybeNone


_Record = TypeVar("_Record")
Transaction = Literal["on_commit", "atomic", "autocommit"]
_Item = TypeVar("_Item")


def quickly_made(cls: type[_Record]) -> type[_Record]:
    """Make the ``__init__`` of a frozen dataclass with slots faster.

    The one that ``dataclass`` writes sets each field by name, through ``object.__setattr__``,
    which looks the slot up each time; this one sets the slots directly.

    Args:
        cls: The dataclass. Its fields are keyword-only, none has a default factory, and it has no
            ``__post_init__``.
    """
    record: Any = cls
    names = [field.name for field in fields(record)]
    made: Any = vars(cls)["__init__"]
    slots = {f"_set_{name}": getattr(cls, name).__set__ for name in names}
    body = "".join(f"\n    _set_{name}(self, {name})" for name in names)
    exec(f"def __init__(self, *, {', '.join(names)}):{body}", slots)  # noqa: S102 - as `dataclass` does
    init: Any = slots["__init__"]
    init.__kwdefaults__ = made.__kwdefaults__
    record.__init__ = update_wrapper(init, made)
    return cls


class Items(tuple[_Item, ...]):
    """A tuple that also equals a list: a worker gets the one, a test may write the other."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return super().__eq__(tuple(other) if isinstance(other, list) else other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = tuple.__hash__


class Message(Protocol):
    """What is known of every message, even of one that no broker has received."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class DjangoCall:
    """The call of a Django task, as it was enqueued."""

    enqueued: str  # which call of ``enqueue()``
    path: str  # ``Task.module_path``
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    priority: int
    queue_name: str
    backend: str
    run_after: datetime | None
    location: Location | None


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
    location: Location | MaybeNone
    transaction: Transaction
    serializer: str = field(default="json", repr=False)
    exact_times: bool = field(default=False, repr=False)  # sent while the clock stood still
    properties: Mapping[str, Any] = field(default_factory=dict, repr=False)  # anything else
    django_call: DjangoCall | None = field(default=None, repr=False)  # that it was sent for

    @property
    def after_commit(self) -> bool:
        """Whether an on_commit hook sent it."""
        return self.transaction == "on_commit"


def fields_of(headers: Mapping[str, Any], body: Any) -> Mapping[str, Any]:
    """What a message says about its task: in its headers, or with protocol 1 in its body."""
    if "id" in headers:
        return headers
    from kombu.utils.json import loads  # here, since the audit must not load kombu

    try:
        fields = loads(body)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


def header_moment(app: Celery, value: Any) -> datetime | None:
    """The moment, in UTC, as a worker understands a message's ``eta`` or ``expires``."""
    if not value:
        return None
    if isinstance(value, str):
        from kombu.utils.json import loads

        value = loads(f'{{"__type__": "datetime", "__value__": "{value}"}}')
    if value.tzinfo is None:  # a worker takes it as UTC, whatever the app's time zone is
        value = value.replace(tzinfo=timezone.utc if app.conf.enable_utc else app.timezone)
    moment: datetime = value.astimezone(timezone.utc)
    return moment


# The common form of all canvases: one after the other, or side by side --------------------
# What a test wrote and what was sent are compared in this form. The same code (`canvas_sent`)
# converts both to it, from what is published for them.


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One task: a message, or a signature that is inside a message or that a test wrote."""

    source: TaskMessage | Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallel:
    """A group; with a ``body``, a chord."""

    members: tuple[Line, ...]
    body: Line = ()
    group_id: str | None = None


Line: TypeAlias = tuple[Step | Parallel, ...]  # what runs one after the other


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What is published at once for one task of a canvas."""

    source: TaskMessage | Signature
    later: tuple[Signature, ...]  # the rest of its chain, in the order in which it will run
    group_id: str | None
    chord: Signature | None


def followed_by(line: Line, more: Line) -> Line:
    """One line after another; all that follows a chord belongs to its body."""
    if line and more and isinstance(line[-1], Parallel) and line[-1].body:
        last = line[-1]
        return (*line[:-1], replace(last, body=followed_by(last.body, more)))
    return line + more
