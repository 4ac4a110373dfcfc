"""Which argument can't be sent, and what to send instead."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any


def explain_unserializable(error: Exception, task: str, body: Any, serializer: str) -> None:
    """Add to an ``EncodeError`` the arguments at fault and the remedy."""
    args, kwargs, _ = body
    culprits = [
        *_culprits(
            serializer, ((f"argument {place + 1}", value) for place, value in enumerate(args))
        ),
        *_culprits(serializer, ((f"argument {name!r}", value) for name, value in kwargs.items())),
    ]
    lines = [f"{task} was not sent: the {serializer!r} serializer can't encode its arguments."]
    for place, value in culprits:
        lines.append(f"  {place}: {_short(value)} (a {type(value).__qualname__}); {_remedy(value)}")
    note = "\n".join(lines)
    if sys.version_info >= (3, 11):
        error.add_note(note)
    # The first argument of an exception is what every report shows, also on Python 3.10.
    error.args = (f"{error}\n{note}", *error.args[1:])


def _culprits(serializer: str, named: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    from kombu import serialization
    from kombu.exceptions import EncodeError

    for name, value in named:
        try:
            serialization.dumps(value, serializer)
        except EncodeError:
            yield name, _innermost(value, serializer)


def _innermost(value: Any, serializer: str) -> Any:
    """The part of a container that is at fault, where it is one part."""
    parts = (
        value.values()
        if isinstance(value, Mapping)
        else value
        if isinstance(value, list | tuple)
        else ()
    )
    for _, part in _culprits(serializer, (("", part) for part in parts)):
        return part
    return value


def _remedy(value: Any) -> str:
    if hasattr(value, "_meta") and hasattr(value, "pk"):
        name = type(value).__name__
        return f"send its primary key ({name.lower()}.pk) and fetch the {name} in the task"
    if isinstance(value, set | frozenset):
        return "send a list"
    if isinstance(value, bytes):
        return "send text, or set serializer='pickle' and accept it"
    if hasattr(value, "query") and hasattr(value, "model"):
        return "send a list of primary keys"
    return "send plain data (numbers, text, lists, dicts, dates)"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004 - a line's worth
