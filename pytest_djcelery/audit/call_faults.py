"""Why a call that a mock has taken would have failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_djcelery.audit import encoding
from pytest_djcelery.messages import arguments


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
            value = encoding.culprit(argument, serializer)
            if value is not arguments.FINE:
                found.append(
                    f"{place}, a {type(value).__qualname__}, can't be encoded by {serializer!r}; "
                    f"{arguments.remedy(value)}"
                )
    except SerializerNotInstalled as error:
        return str(error)
    return "; ".join(found) or None
