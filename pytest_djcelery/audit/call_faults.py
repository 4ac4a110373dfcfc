"""Why a call that a mock has taken would have failed, found without running any value's own code.

Encoding every argument would be more certain, but would change the audited test: it would evaluate
lazy objects and query sets, and run a class's own pickling. So only values built from plain types
are encoded. For the rest only the type is looked at, and what that doesn't show is not a fault.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import chain
from typing import Any
from uuid import UUID

from pytest_djcelery.messages import arguments
from pytest_djcelery.messages.arguments import FINE, unwrapped

_CONTAINERS = (dict, list, tuple, set, frozenset)
_PLAIN = (
    str, bool, int, float, type(None), bytes, bytearray, datetime, date, time, timedelta, Decimal,
    UUID, *_CONTAINERS,
)  # fmt: skip
_QUICK = frozenset({str, bool, int, float, type(None)})
_MOCK_LIBRARIES = ("unittest.mock", "mock.mock")


def fault_of(
    task: Any, args: Sequence[Any], kwargs: Mapping[str, Any], serializer: Any
) -> str | None:
    """What ``task.delay(*args, **kwargs)`` would have raised, in words; ``None`` for nothing.

    Args:
        task: The real task; ``None`` if it isn't known in this process.
        args: Positional arguments of the call.
        kwargs: Keyword arguments of the call.
        serializer: The name of the serializer for them; ``None`` if it isn't known.
    """
    return _misfit(task, args, kwargs) or _unserializable(args, kwargs, serializer)


def _misfit(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
    """Why the arguments don't fit the task, as `Task.apply_async` checks it."""
    header = getattr(task, "__header__", None)
    if header is None or not task.typing:
        return None
    try:
        header(*args, **kwargs)
    except TypeError as error:
        return f"it doesn't fit the task: {error}"
    return None


def _unserializable(args: Sequence[Any], kwargs: Mapping[str, Any], serializer: Any) -> str | None:
    from kombu.exceptions import SerializerNotInstalled

    if type(serializer) is not str:
        return None
    found = []
    try:
        for place, argument in arguments.named(args, kwargs):
            value = culprit(argument, serializer)
            if value is not arguments.FINE:
                found.append(
                    f"{place}, a {type(value).__qualname__}, can't be encoded by {serializer!r}; "
                    f"{arguments.remedy(value)}"
                )
    except SerializerNotInstalled as error:
        return str(error)
    return "; ".join(found) or None


def culprit(value: Any, serializer: str) -> Any:
    """The part of a value that a serializer certainly can't encode, or `FINE`.

    Args:
        value: An argument of a task.
        serializer: The name of the serializer.

    Raises:
        kombu.exceptions.SerializerNotInstalled: No serializer has that name.
    """
    encodes = _ENCODES.get(serializer)
    if not _is_kombus(serializer) or encodes is None:
        return FINE  # pickle takes nearly everything, and a project's own serializer is unknown
    return _culprit(value, serializer, encodes, ())


def _culprit(
    value: Any, serializer: str, encodes: Callable[[Any], bool], around: tuple[int, ...]
) -> Any:
    if type(value) in _QUICK or is_of_the_test(value) or id(value) in around:
        return FINE
    if _is_built_of_plain_types(value, ()):
        return arguments.culprit(value, serializer)
    if not issubclass(type(value), _CONTAINERS):
        return FINE if encodes(value) else unwrapped(value)
    for part in parts(value):
        found = _culprit(part, serializer, encodes, (*around, id(value)))
        if found is not FINE:
            return found
    return FINE


def _is_built_of_plain_types(value: Any, around: tuple[int, ...]) -> bool:
    kind = type(value)
    if kind not in _PLAIN:
        return False
    if kind not in _CONTAINERS or id(value) in around:
        return True
    around = (*around, id(value))
    return all(
        type(part) in _QUICK or _is_built_of_plain_types(part, around) for part in parts(value)
    )


def _json_encodes(value: Any) -> bool:
    """What `kombu.utils.json.JSONEncoder` encodes, and before it the standard library's encoder.

    ``_encoders`` is private, and has what was passed to ``register_type``; checked on kombu 5.3 to
    5.7. A lazy object that isn't evaluated yet could turn out to be of such a type, but most of
    them are a user.
    """
    from kombu.utils import json

    if issubclass(type(value), str | int | float):  # the encoder checks the real type
        return True
    kind = type(unwrapped(value))
    known = (bytes, *json.textual_types, *vars(json)["_encoders"])
    return hasattr(kind, "__json__") or issubclass(kind, known)


def _others_encode(value: Any) -> bool:
    """What YAML and msgpack encode: plain data, and what is built from it."""
    return issubclass(type(value), _PLAIN)


_ENCODES: Mapping[str, Callable[[Any], bool]] = {
    "json": _json_encodes,
    "yaml": _others_encode,
    "msgpack": _others_encode,
}


def _is_kombus(serializer: str) -> bool:
    """Whether a serializer is kombu's own: a project may have registered another by that name.

    The registry's ``_encoders`` are private; checked on kombu 5.3 to 5.7.
    """
    from kombu.exceptions import SerializerNotInstalled
    from kombu.serialization import registry

    codec = vars(registry)["_encoders"].get(serializer)
    if codec is None and serializer != "raw":
        raise SerializerNotInstalled(f"No encoder installed for {serializer}")
    return getattr(getattr(codec, "encoder", None), "__module__", None) in (
        "kombu.utils.json", "kombu.serialization", "yaml",
    )  # fmt: skip


# What else a type shows ------------------------------------------------------------------


def is_mock(value: Any) -> bool:
    """Whether a value is a mock, of whichever library."""
    return any(cls.__name__ == "NonCallableMock" for cls in type(value).__mro__)


def is_of_the_test(value: Any) -> bool:
    """Whether a value is a mock or a sentinel, so that production's value is unknown."""
    return is_mock(value) or type(value).__module__ in _MOCK_LIBRARIES


def is_empty(value: Any) -> bool:
    """Whether a value is of a plain type and false: any other type could run code to decide."""
    return type(value) in _PLAIN and not value


def parts(container: Any) -> Any:
    """What is in a container, without calling a subclass's own iteration."""
    if issubclass(type(container), dict):
        return chain(dict.keys(container), dict.values(container))
    kind = next(cls for cls in _CONTAINERS if issubclass(type(container), cls))
    return kind.__iter__(container)
