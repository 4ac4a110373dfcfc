"""What becomes of a message's headers and properties on their way through a broker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from kombu.utils.json import dumps, loads

from pytest_djcelery.messages.arguments import FINE, add_note, culprit, remedy

if TYPE_CHECKING:
    from pytest_djcelery.messages.sent_task import SentTask

_PLAIN: Final = frozenset({bool, int, float, str, type(None)})
_NAMES: Final = frozenset({str})


class Recorded(dict[str, Any]):
    """The headers of a recorded message, on their way from the producer to the broker in memory.

    They tell the broker which record belongs to the message.
    """

    __slots__ = ("record",)

    def __init__(self, headers: Mapping[str, Any], record: SentTask | None) -> None:
        super().__init__(headers)
        self.record = record


def received(sent: Mapping[Any, Any]) -> dict[str, Any]:
    """Headers or properties as a worker gets them, sharing no object with the sender's.

    kombu's brokers transport them as JSON (`kombu.transport.virtual`), whatever the serializer of
    the arguments. Nearly all of them are unchanged by that, and so are not encoded.

    Raises:
        TypeError: kombu's own error if a value can't be encoded; its note names the header.
    """
    if not _NAMES.issuperset(map(type, sent)):
        return _encoded_and_decoded(sent)
    copied = dict(sent)
    for name, value in sent.items():
        kind = type(value)
        if kind in _PLAIN:
            continue
        if (kind is list and _PLAIN.issuperset(map(type, value))) or (
            kind is dict and _is_plain(value)
        ):
            copied[name] = value.copy()
        else:
            copied[name] = _encoded_and_decoded({name: value})[name]
    return copied


def _is_plain(value: Mapping[Any, Any]) -> bool:
    return _NAMES.issuperset(map(type, value)) and _PLAIN.issuperset(map(type, value.values()))


def _encoded_and_decoded(values: Mapping[Any, Any]) -> dict[str, Any]:
    try:
        decoded: dict[str, Any] = loads(dumps(values))
    except (TypeError, ValueError) as error:
        _explain(error, values)
        raise
    return decoded


def _explain(error: Exception, values: Mapping[Any, Any]) -> None:
    for name, value in values.items():
        found = culprit(value, "json")
        if found is FINE:
            continue
        note = (
            f"{name!r} can't be a header of a message: no broker carries {found!r} "
            f"(of type {type(found).__qualname__}); {remedy(found)}.\n"
            "It comes from the call (headers=…), or from a receiver of before_task_publish."
        )
        add_note(error, note)
