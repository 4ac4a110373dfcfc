"""The options of a call: what a message says of each, and when two values mean the same.

Names and meanings are those of ``Task.apply_async`` and ``Celery.send_task``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from kombu import Exchange, Queue
from kombu.compression import get_encoder
from kombu.entity import maybe_delivery_mode

from pytest_djcelery.messages.signature_types import as_signature, signatures_of
from pytest_djcelery.messages.task_message import TaskMessage, header_moment
from pytest_djcelery.messages.wire import ABSENT, Leaf, differing, equal, is_wildcard, same

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.canvas import Signature

TOLERANCE: Final = 1.0  # seconds between two times that count as the same
_ROUNDING: Final = 0.001  # … if the clock stood still when the message was sent


class NoValue:
    """Stands for the value of an option when there is none to compare with."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


UNKNOWN: Final = NoValue("unknown (the message doesn't say)")
NOT_SET: Final = NoValue("not set")
_NO_STAMP: Final = NoValue("no such stamp")

# ``None`` means "none" for these; for every other option it means Celery's default, whatever
# that is, and then there is nothing to compare.
_NONE_MEANS_NONE: Final = frozenset(
    {
        *("chain", "chord", "countdown", "eta", "expires", "group_id", "link", "link_error"),
        *("parent_id", "priority", "shadow", "soft_time_limit", "time_limit"),
    }
)
# What ``Signature.freeze`` writes into a signature; nobody writes it by hand.
BOOKKEEPING: Final = frozenset(
    {"chord", "group_id", "group_index", "parent_id", "reply_to", "root_id", "stamped_headers"}
)
# Options for the call itself, which no message shows: a worker can't know them.
NOT_SENT: Final = frozenset(
    {
        *("add_to_parent", "confirm_timeout", "connection", "declare", "event_dispatcher"),
        *("exchange_type", "producer", "publisher", "result_cls", "retry", "retry_policy"),
        *("route_name", "router", "timeout"),
    }
)
# The settings whose values are sent if the call sets nothing.
_SETTINGS: Final = {
    "compression": "task_compression",
    "delivery_mode": "task_default_delivery_mode",
}
SIGNATURES: Final = frozenset({"chain", "chord", "link", "link_error"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ActualCall:
    """What was sent: the call that a message makes, or that a signature inside one will make."""

    task: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    option: Callable[[str], object]
    serializer: str
    same_signature: Callable[[Any, Any], bool]  # compares an expected one with one inside it
    sent_at: datetime | None = None  # None for a signature, which has not been sent yet
    immutable: bool = False
    exact_times: bool = False

    def near(self, expected: float, found: float) -> bool:
        """Whether two times, in seconds, count as the same."""
        return abs(expected - found) <= (_ROUNDING if self.exact_times else TOLERANCE)

    def same_wait(self, expected: float | None, found: object) -> bool:
        """Whether two countdowns count as the same; a short one differs from none."""
        if not isinstance(found, (int, float, type(None))) or bool(expected) is not bool(found):
            return False
        if self.sent_at is None:  # nothing has been added to the time of day yet
            return (expected or 0) == (found or 0)
        return self.near(expected or 0, found or 0)


def _same_signature(mine: Any, theirs: object) -> bool:
    return bool(theirs == as_signature(mine))  # a signature inside a message compares itself


def call_in_message(message: TaskMessage) -> ActualCall:
    """The call that a message makes."""
    return ActualCall(
        task=message.task,
        args=tuple(message.args),
        kwargs=message.kwargs,
        option=lambda name: _message_option(message, name),
        serializer=message.serializer,
        sent_at=message.sent_at,
        exact_times=message.exact_times,
        same_signature=_same_signature,
    )


def call_in_signature(
    signature: Signature,
    serializer: str,
    same_signature: Callable[[Any, Any], bool] = _same_signature,
) -> ActualCall:
    """The call that a signature inside a message will make."""
    options = signature.options or {}
    return ActualCall(
        task=signature["task"],
        args=tuple(signature.args or ()),
        kwargs=signature.kwargs or {},
        option=lambda name: options.get(name, NOT_SET),
        serializer=serializer,
        immutable=bool(signature.immutable),
        same_signature=same_signature,
    )


_FIELDS: Final = {
    "link": "links",
    "link_error": "link_errors",
    "task_id": "id",
    **{
        name: name
        for name in [
            "queue",
            "routing_key",
            "exchange",
            "eta",
            "expires",
            "priority",
            "retries",
            "headers",
            "root_id",
            "parent_id",
            "group_id",
            "chain",
            "chord",
            "serializer",
        ]
    },
}


def _message_option(message: TaskMessage, name: str) -> object:
    if name in _FIELDS:
        return getattr(message, _FIELDS[name])
    if name == "countdown":
        if message.eta is None:
            return None
        return (message.eta - message.sent_at).total_seconds()
    headers = message.headers
    if name in ("time_limit", "soft_time_limit"):
        limits = headers.get("timelimit")
        return UNKNOWN if limits is None else limits[name == "soft_time_limit"]
    for values in (headers, headers.get("stamps") or {}, message.properties):
        if name in values:
            return values[name]
    return message.id if name == "correlation_id" else NOT_SET


def option_differences(
    options: Mapping[str, Any], actual: ActualCall, app: Celery
) -> Iterator[Leaf]:
    """Every option that ``options`` sets and that is different in ``actual``."""
    stamps = options.get("stamped_headers") or ()
    for name, expected in options.items():
        if (
            name == "stamped_headers"
            or name in NOT_SENT
            or (expected is None and name not in _NONE_MEANS_NONE)
        ):
            continue
        if name == ("eta" if options.get("countdown") else "countdown") and _both_set(options):
            continue  # Celery computes the ETA from the countdown, unless that is 0
        if name == "reply_to" and expected == app.thread_oid:
            continue  # not the user's: ``Signature.freeze`` writes it
        found = actual.option(name)
        if found is NOT_SET and actual.sent_at is not None and name in _SETTINGS:
            found = app.conf[_SETTINGS[name]]
        if name == "headers" and isinstance(expected, Mapping) and isinstance(found, Mapping):
            yield from _header_differences(expected, found, actual.serializer)
        elif isinstance(found, NoValue):
            if actual.sent_at is not None or not _is_none(name, expected):
                yield Leaf(name, expected, _NO_STAMP if name in stamps else found)
        elif not _same_option(name, expected, found, actual, app):
            yield Leaf(name, expected, found)


def _both_set(options: Mapping[str, Any]) -> bool:
    return options.get("eta") is not None and options.get("countdown") is not None


def _is_none(name: str, value: object) -> bool:
    return value is None or (name in SIGNATURES and value == [])


def _header_differences(
    expected: Mapping[str, Any], found: Mapping[str, Any], serializer: str
) -> Iterator[Leaf]:
    for key, value in expected.items():
        yield from differing(value, found.get(key, ABSENT), serializer, f"header {key!r}")


def _same_option(name: str, expected: Any, found: Any, actual: ActualCall, app: Celery) -> bool:
    if is_wildcard(expected):
        return equal(expected, found)
    if name in SIGNATURES:
        return _same_signatures(name, expected, found, actual)
    if name == "countdown" and isinstance(expected, (int, float, type(None))):
        return actual.same_wait(expected, found)
    if name in ("eta", "expires"):
        return _same_time(expected, found, actual, app)
    if name in _PLAIN_FORMS:
        plain = _PLAIN_FORMS[name]
        return plain(expected) == plain(found)
    return same(expected, found, actual.serializer)


def _same_time(expected: Any, found: Any, actual: ActualCall, app: Celery) -> bool:
    if expected is None or found is None:
        return expected is found
    if isinstance(expected, (int, float)):  # ``expires`` in seconds after the publish
        if actual.sent_at is None:
            return actual.same_wait(expected, found)
        expected = actual.sent_at + timedelta(seconds=expected)
    moments = _moment(expected, app), _moment(found, app)
    return all(moments) and actual.near(*(moment.timestamp() for moment in moments if moment))


def _moment(value: Any, app: Celery) -> datetime | None:
    """The moment that a message's record would have for a value of the option."""
    try:
        return header_moment(app, value) if isinstance(value, (str, datetime)) else None
    except ValueError:
        return None


def _delivery_mode(value: Any) -> object:
    try:
        return maybe_delivery_mode(value)
    except KeyError:
        return value


def _compression(value: Any) -> object:
    try:
        return get_encoder(value)[1]
    except KeyError:
        return value


def entity_name(value: object) -> object:
    """A queue or an exchange by its name; any other value as it is."""
    return value.name if isinstance(value, (Queue, Exchange)) else value


# Options with several ways to write one value.
_PLAIN_FORMS: Final[Mapping[str, Callable[[Any], object]]] = {
    "compression": _compression,
    "delivery_mode": _delivery_mode,
    "exchange": entity_name,
    "ignore_result": bool,
    "queue": entity_name,
}


def _same_signatures(name: str, expected: object, found: object, actual: ActualCall) -> bool:
    wanted, sent = signatures_of(name, expected), signatures_of(name, found)
    return len(wanted) == len(sent) and all(
        equal(mine, theirs) if is_wildcard(mine) else actual.same_signature(mine, theirs)
        for mine, theirs in zip(wanted, sent, strict=True)
    )
