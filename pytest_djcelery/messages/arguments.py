"""Which argument can't be sent, and what to send instead."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

_LONGEST: Final = 60  # characters of a value
FINE: Final = object()  # of a value: no part of it is at fault


def explain_unserializable(error: Exception, task: str, body: Any, serializer: str) -> None:
    """Note on an ``EncodeError`` the arguments at fault and the remedy, unless they are there.

    What Celery raised keeps its arguments: code may look at them.
    """
    args, kwargs, _ = body
    notes: list[str] = getattr(error, "__notes__", [])
    headline = f"{task} was not sent: the {serializer!r} serializer can't encode its arguments."
    if any(note.startswith(headline) for note in notes):
        return
    lines = [headline]
    for place, argument in named(args, kwargs):
        value = culprit(argument, serializer)
        if value is FINE:
            continue
        lines.append(
            f"  {place}: {_short(value)} (of type {type(value).__qualname__}); {remedy(value)}"
        )
    add_note(error, "\n".join(lines))


def add_note(error: Any, note: str) -> None:
    """What ``add_note`` does from Python 3.11 on; pytest shows the notes on 3.10 too."""
    error.__notes__ = [*getattr(error, "__notes__", []), note]


def named(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Each argument with words that say which it is."""
    yield from ((f"argument {place + 1}", value) for place, value in enumerate(args))
    yield from ((f"argument {name!r}", value) for name, value in kwargs.items())


def culprit(value: Any, serializer: str, around: tuple[int, ...] = ()) -> Any:
    """The innermost part of a value that a serializer can't encode, or `FINE`.

    It is encoded to find out, so it has to be one that may be: its own code runs.
    """
    from kombu import serialization
    from kombu.exceptions import EncodeError

    try:
        serialization.dumps(value, serializer)
    except EncodeError:
        pass
    else:
        return FINE
    parts = (
        value.values()
        if isinstance(value, Mapping)
        else value
        if isinstance(value, list | tuple)
        else ()
    )
    around = (*around, id(value))
    for part in parts:
        # What contains itself is at fault as a whole.
        found = FINE if id(part) in around else culprit(part, serializer, around)
        if found is not FINE:
            return found
    return value


def remedy(value: Any) -> str:
    """What to send instead of a value that can't be encoded.

    Only its type is asked: looking up an attribute of the value may run a query, or anything else.
    """
    kind = type(unwrapped(value))
    if hasattr(kind, "_meta") and hasattr(kind, "pk"):
        name = kind.__name__
        return f"send its primary key ({name.lower()}.pk) and fetch the {name} in the task"
    if is_lazy(kind):
        return "send plain data instead, such as its primary key"
    if issubclass(kind, set | frozenset):
        return "send a list"
    if issubclass(kind, bytes):
        return "send text, or set serializer='pickle' and accept it"
    if hasattr(kind, "query") and hasattr(kind, "as_manager"):
        return "send a list of primary keys"
    return "send plain data (numbers, text, lists, dicts, dates)"


def is_lazy(kind: type) -> bool:
    """Whether values of a type are lazy objects of Django's, such as ``request.user``."""
    functional = sys.modules.get("django.utils.functional")
    return functional is not None and issubclass(kind, functional.LazyObject)


def unwrapped(value: Any) -> Any:
    """What a lazy object of Django's stands for, where that is made already.

    ``_wrapped`` and ``empty`` are private; checked on Django 4.2, 5.2, 6.0 and 6.1.
    """
    if is_lazy(type(value)):
        made = object.__getattribute__(value, "_wrapped")
        if made is not sys.modules["django.utils.functional"].empty:
            return made
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
