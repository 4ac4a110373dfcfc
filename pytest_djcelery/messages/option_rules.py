"""The options of a call: what a message tells of each, and when two values mean the same.

Names and meanings are those of ``Task.apply_async`` and ``Celery.send_task``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from celery.canvas import Signature
from kombu import Exchange, Queue
from kombu.compression import get_encoder
from kombu.entity import maybe_delivery_mode

from pytest_djcelery.messages.sent_task import header_moment
from pytest_djcelery.messages.wire import ABSENT, Leaf, differing, equal, is_wildcard, same, shown

if TYPE_CHECKING:
    from celery.app.base import Celery

    from pytest_djcelery.messages.sent_task import SentTask

TOLERANCE: Final = 1.0  # seconds between two times that count as the same
_ROUNDING: Final = 0.001  # … where the clock stood when the message was sent


class _Untold:
    """Stands for what one side can't tell."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


UNTOLD: Final = _Untold("the message doesn't tell")
NOT_SET: Final = _Untold("not set")

# ``None`` means "none" for these; for every other option it means Celery's default, whatever
# that is, and then there is nothing to compare.
_NONE_MEANS_NONE: Final = frozenset(
    {
        *("chain", "chord", "countdown", "eta", "expires", "group_id", "link", "link_error"),
        *("parent_id", "priority", "shadow", "soft_time_limit", "time_limit"),
    }
)
# What ``Signature.freeze`` writes into a signature; no one writes it by hand.
BOOKKEEPING: Final = frozenset(
    {"chord", "group_id", "group_index", "parent_id", "reply_to", "root_id", "stamped_headers"}
)
# How a call is made, which is over once the message is on its way: no worker can tell.
NOT_SENT: Final = frozenset(
    {
        *("add_to_parent", "confirm_timeout", "connection", "declare", "event_dispatcher"),
        *("exchange_type", "producer", "publisher", "result_cls", "retry", "retry_policy"),
        *("route_name", "router", "timeout"),
    }
)
# What is sent where the call says nothing.
_SETTINGS: Final = {
    "compression": "task_compression",
    "delivery_mode": "task_default_delivery_mode",
}
_SIGNATURES: Final = frozenset({"chain", "chord", "link", "link_error"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One side of a comparison: a message, or a signature that a message carries."""

    task: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    option: Callable[[str], object]
    serializer: str
    sent_at: datetime | None = None  # None for a signature, which has not been sent yet
    immutable: bool = False
    exact_times: bool = False

    def near(self, expected: float, found: float) -> bool:
        """Whether two times, in seconds, count as the same."""
        return abs(expected - found) <= (_ROUNDING if self.exact_times else TOLERANCE)

    def same_wait(self, expected: float | None, found: object) -> bool:
        """Whether two countdowns count as the same; a short one is another thing than none."""
        if not isinstance(found, (int, float, type(None))) or bool(expected) is not bool(found):
            return False
        if self.sent_at is None:  # nothing has been added to the time of day yet
            return (expected or 0) == (found or 0)
        return self.near(expected or 0, found or 0)


class OptionDifference(NamedTuple):
    """An option that is not what was expected."""

    name: str
    expected: str
    actual: str


def told_by_message(message: SentTask) -> Told:
    """What a message tells."""
    return Told(
        task=message.task,
        args=tuple(message.args),
        kwargs=message.kwargs,
        option=lambda name: _message_option(message, name),
        serializer=message.serializer,
        sent_at=message.sent_at,
        exact_times=message.exact_times,
    )


def told_by_signature(signature: Signature, serializer: str) -> Told:
    """What a signature inside a message tells."""
    options = signature.options or {}
    return Told(
        task=signature["task"],
        args=tuple(signature.args or ()),
        kwargs=signature.kwargs or {},
        option=lambda name: options.get(name, NOT_SET),
        serializer=serializer,
        immutable=bool(signature.immutable),
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


def _message_option(message: SentTask, name: str) -> object:
    if name in _FIELDS:
        return getattr(message, _FIELDS[name])
    if name == "countdown":
        if message.eta is None:
            return None
        return (message.eta - message.sent_at).total_seconds()
    headers = message.headers
    if name in ("time_limit", "soft_time_limit"):
        limits = headers.get("timelimit")
        return UNTOLD if limits is None else limits[name == "soft_time_limit"]
    for told in (headers, headers.get("stamps") or {}, message.properties):
        if name in told:
            return told[name]
    return message.id if name == "correlation_id" else NOT_SET


def option_differences(
    options: Mapping[str, Any], actual: Told, app: Celery
) -> Iterator[OptionDifference]:
    """Every option that ``options`` sets and ``actual`` doesn't have so."""
    stamps = options.get("stamped_headers") or ()
    for name, expected in options.items():
        if (
            name == "stamped_headers"
            or name in NOT_SENT
            or (expected is None and name not in _NONE_MEANS_NONE)
        ):
            continue
        if name == ("eta" if options.get("countdown") else "countdown") and _both_set(options):
            continue  # Celery computes the ETA from the countdown, if that is not 0
        if name == "reply_to" and expected == app.thread_oid:
            continue  # not the user's: ``Signature.freeze`` writes it
        found = actual.option(name)
        if found is NOT_SET and actual.sent_at is not None and name in _SETTINGS:
            found = app.conf[_SETTINGS[name]]
        if name == "headers" and isinstance(expected, Mapping) and isinstance(found, Mapping):
            yield from _header_differences(expected, found, actual.serializer)
        elif isinstance(found, _Untold):
            if actual.sent_at is None and _is_none(name, expected):
                continue
            text = "no such stamp" if name in stamps else found.text
            yield OptionDifference(name, option_text(name, expected), text)
        elif not _same_option(name, expected, found, actual, app):
            yield OptionDifference(
                name, option_text(name, expected), _actual_text(name, found, options, actual)
            )


def _both_set(options: Mapping[str, Any]) -> bool:
    return options.get("eta") is not None and options.get("countdown") is not None


def _is_none(name: str, value: object) -> bool:
    return value is None or (name in _SIGNATURES and value == [])


def _header_differences(
    expected: Mapping[str, Any], found: Mapping[str, Any], serializer: str
) -> Iterator[OptionDifference]:
    for key, value in expected.items():
        leaf: Leaf
        for leaf in differing(value, found.get(key, ABSENT), serializer, f"header {key!r}"):
            yield OptionDifference(leaf.path, shown(leaf.expected), shown(leaf.actual))


def _same_option(  # noqa: PLR0911 - a list of cases
    name: str, expected: Any, found: Any, actual: Told, app: Celery
) -> bool:
    if is_wildcard(expected):
        return equal(expected, found)
    if name in _SIGNATURES:
        return _same_signatures(name, expected, found, actual)
    if name == "countdown" and isinstance(expected, (int, float, type(None))):
        return actual.same_wait(expected, found)
    if name in ("eta", "expires"):
        return _same_time(expected, found, actual, app)
    if name in ("queue", "exchange"):
        return _name(expected) == _name(found)
    if name in _SETTINGS:
        return _on_the_wire(name, expected) == _on_the_wire(name, found)
    if name == "ignore_result":
        return bool(expected) is bool(found)
    return same(expected, found, actual.serializer)


def _same_time(expected: Any, found: Any, actual: Told, app: Celery) -> bool:
    if expected is None or found is None:
        return expected is found
    if isinstance(expected, (int, float)):  # ``expires`` in seconds after the publish
        if actual.sent_at is None:
            return actual.same_wait(expected, found)
        expected = actual.sent_at + timedelta(seconds=expected)
    moments = _moment(expected, app), _moment(found, app)
    return all(moments) and actual.near(*(moment.timestamp() for moment in moments if moment))


def _moment(value: Any, app: Celery) -> datetime | None:
    """The moment that the record of a message would show for a value of the option."""
    try:
        return header_moment(app, value) if isinstance(value, (str, datetime)) else None
    except ValueError:
        return None


def _on_the_wire(name: str, value: Any) -> object:
    """Aliases mean the same."""
    try:
        return maybe_delivery_mode(value) if name == "delivery_mode" else get_encoder(value)[1]
    except KeyError:
        return value


def _name(value: object) -> object:
    return value.name if isinstance(value, (Queue, Exchange)) else value


def signatures_of(name: str, value: object) -> list[Any]:
    """The signatures that an option holds, in the order in which they run."""
    if value is None:
        return []
    many = list(value) if isinstance(value, (list, tuple)) else [value]
    # The option ``chain`` is stored back to front; ``SentTask.chain`` is a tuple, in order.
    return many[::-1] if name == "chain" and isinstance(value, list) else many


def _same_signatures(name: str, expected: object, found: object, actual: Told) -> bool:
    from pytest_djcelery.messages.canvas import same_step

    wanted, sent = signatures_of(name, expected), signatures_of(name, found)
    return len(wanted) == len(sent) and all(
        equal(mine, theirs)
        if is_wildcard(mine)
        else same_step(mine, theirs, serializer=actual.serializer)
        for mine, theirs in zip(wanted, sent, strict=True)
    )


def option_text(name: str, value: object) -> str:
    """The value of an option as a person writes it."""
    from pytest_djcelery.messages.descriptions import describe_call

    if is_wildcard(value):
        return shown(value)
    if name in _SIGNATURES:
        if isinstance(value, (list, tuple)):
            items: Iterable[Any] = signatures_of(name, value)
            return f"[{', '.join(describe_call(item) for item in items)}]"
        return describe_call(value) if isinstance(value, Signature) else shown(value)
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    return shown(_name(value))


def _actual_text(name: str, found: object, options: Mapping[str, Any], actual: Told) -> str:
    if name == "countdown" and isinstance(found, float):
        return f"{round(found, 3 if actual.exact_times else 1):g}"
    in_seconds = isinstance(options.get(name), (int, float))
    if name == "expires" and in_seconds and isinstance(found, datetime) and actual.sent_at:
        return f"{round((found - actual.sent_at).total_seconds(), 1):g}"
    if name in ("routing_key", "exchange") and actual.option("exchange") == "":
        # amqp.send_task_message: both are needed, or Celery goes by the queue alone.
        return (
            f"{option_text(name, found)} (Celery publishes straight to the queue unless both "
            "exchange and routing_key are set)"
        )
    return option_text(name, found)
