"""Why a call that a mock has taken would have failed, without running a line of a value's own code.

Encoding an argument would be surer, and would change the audited test: it would make a lazy
object, evaluate a query set, and run what a class has for pickle. So only what is built of plain
types is encoded. Of the rest only the type is looked at, and what that doesn't show is no fault.
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
    """What ``task.delay(*args, **kwargs)`` would have raised, in words; ``None``: nothing.

    Args:
        task: the real task; ``None`` where it is not known here.
        args: positional arguments of the call.
        kwargs: keyword arguments of the call.
        serializer: the name of the one that would encode them; ``None`` where it is not known.
    """
    return _misfit(task, args, kwargs) or _unserializable(args, kwargs, serializer)


def _misfit(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
    """As `Task.apply_async` checks it."""
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
    """The part of a value that a serializer surely can't encode, or `FINE`.

    Args:
        value: an argument of a task.
        serializer: its name.

    Raises:
        kombu.exceptions.SerializerNotInstalled: No serializer has that name.
    """
    encodes = _ENCODES.get(serializer)
    if not _is_kombus(serializer) or encodes is None:
        return FINE  # pickle takes nearly everything, and of the project's own nothing is known
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
    """As `kombu.utils.json.JSONEncoder`, and the encoder of the standard library before it.

    ``_encoders`` is private, and has what ``register_type`` was given; checked on kombu 5.3 to 5.7.
    A lazy object that is not made yet could become one of them; most are a user.
    """
    from kombu.utils import json

    if issubclass(type(value), str | int | float):  # it looks at the real type
        return True
    kind = type(unwrapped(value))
    known = (bytes, *json.textual_types, *vars(json)["_encoders"])
    return hasattr(kind, "__json__") or issubclass(kind, known)


def _others_encode(value: Any) -> bool:
    """YAML and msgpack take plain data and, bar what is made of it, nothing else."""
    return issubclass(type(value), _PLAIN)


_ENCODES: Mapping[str, Callable[[Any], bool]] = {
    "json": _json_encodes,
    "yaml": _others_encode,
    "msgpack": _others_encode,
}


def _is_kombus(serializer: str) -> bool:
    """Whether a name stands for kombu's own: a project may register another in its place.

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
    """Whether it is a mock or a sentinel: what production would send is not known."""
    return is_mock(value) or type(value).__module__ in _MOCK_LIBRARIES


def is_empty(value: Any) -> bool:
    """Whether it is false, and of a plain type: asking another could run anything."""
    return type(value) in _PLAIN and not value


def parts(container: Any) -> Any:
    """What is in a container, whatever its class makes of going through it."""
    if issubclass(type(container), dict):
        return chain(dict.keys(container), dict.values(container))
    kind = next(cls for cls in _CONTAINERS if issubclass(type(container), cls))
    return kind.__iter__(container)
