"""Compares a value that a test wrote with what came out of the serializer.

JSON turns tuples into lists, and lazy translations and dictionary keys into strings, and wraps
UUIDs, decimals and dates. An expected value is equal if ``==`` says so, or if it is equal once it
has been through the serializer. Containers are compared item by item, so that ``mock.ANY`` and
dirty-equals values work at any depth.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from math import isnan
from typing import Any, Final, NamedTuple

LONGEST_TEXT = 160  # characters of a value that a text shows


class _Absent:
    """Stands for a value where one side has none."""

    def __repr__(self) -> str:
        return "missing"


ABSENT: Final = _Absent()
_UNSENDABLE: Final = _Absent()
_PLAIN = (bool, int, str, bytes, type(None))  # what ``==`` alone decides


class Leaf(NamedTuple):
    """A place inside two values where they differ."""

    path: str
    expected: object
    actual: object


def is_wildcard(value: object) -> bool:
    """Whether ``value`` is ``mock.ANY``, a dirty-equals value (or class), or pytest-unordered's."""
    for module in ("unittest.mock", "mock"):
        mock = sys.modules.get(module)
        # By type: canvas copies options deeply, and a copy of ``ANY`` is another object.
        if mock is not None and isinstance(value, type(mock.ANY)):
            return True
    unordered = sys.modules.get("pytest_unordered")
    if unordered is not None and isinstance(value, unordered.UnorderedList):
        return True
    dirty = sys.modules.get("dirty_equals")
    if dirty is None:
        return False
    kind = value if isinstance(value, type) else type(value)
    return issubclass(kind, dirty.DirtyEquals)


def is_mock_call(value: object) -> bool:
    """Whether ``value`` is a ``mock.call(…)``."""
    return any(
        isinstance(value, type(mock.call))
        for module in ("unittest.mock", "mock")
        if (mock := sys.modules.get(module)) is not None
    )


def called_with(call: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a ``mock.call(…)``."""
    *_, args, kwargs = tuple(call)
    return tuple(args), dict(kwargs)


def same(expected: object, actual: object, serializer: str) -> bool:
    """Whether ``actual`` is what arrives when ``expected`` is sent with ``serializer``."""
    return next(differing(expected, actual, serializer), None) is None


def differing(expected: object, actual: object, serializer: str, path: str = "") -> Iterator[Leaf]:
    """Every place where ``actual`` is not what arrives when ``expected`` is sent."""
    if actual is ABSENT:  # not even ``mock.ANY`` equals a missing value
        yield Leaf(path, expected, actual)
        return
    if equal(expected, actual):
        return
    if is_wildcard(expected) or type(expected) in _PLAIN:
        yield Leaf(path, expected, actual)
    elif isinstance(expected, Mapping) and isinstance(actual, Mapping):
        yield from _differing_items(expected, actual, serializer, path)
    elif (
        isinstance(expected, (list, tuple))
        and isinstance(actual, (list, tuple))
        and (isinstance(expected, tuple) is isinstance(actual, tuple) or _flattens(serializer))
    ):
        if len(expected) != len(actual):
            yield Leaf(path, expected, actual)
            return
        for index, (mine, theirs) in enumerate(zip(expected, actual, strict=True)):
            yield from differing(mine, theirs, serializer, f"{path}[{index}]")
    elif not _equal_when_sent(expected, actual, serializer):
        yield Leaf(path, expected, actual)


def _differing_items(
    expected: Mapping[Any, object], actual: Mapping[Any, object], serializer: str, path: str
) -> Iterator[Leaf]:
    wanted = expected
    if expected.keys() != actual.keys():
        wanted = {_key_when_sent(key, serializer): value for key, value in expected.items()}
    for key, value in wanted.items():
        yield from differing(value, actual.get(key, ABSENT), serializer, f"{path}[{key!r}]")
    for key in actual:
        if key not in wanted:
            yield Leaf(f"{path}[{key!r}]", ABSENT, actual[key])


def equal(left: object, right: object) -> bool:
    """``==`` as a bool; objects whose comparison raises, such as arrays, are not equal."""
    try:
        return bool(left == right) or (_is_nan(left) and _is_nan(right))
    except (TypeError, ValueError):
        return False


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and isnan(value)


def _equal_when_sent(expected: object, actual: object, serializer: str) -> bool:
    arrived = when_sent(expected, serializer)
    return arrived is not _UNSENDABLE and equal(arrived, actual)


def when_sent(value: object, serializer: str) -> object:
    """What a worker would receive for ``value``."""
    from kombu.serialization import dumps, loads  # here, since the audit must not load kombu

    try:
        content_type, encoding, data = dumps(value, serializer)
        return loads(data, content_type, encoding, accept=[content_type])
    except Exception:  # noqa: BLE001 - kombu, the serializer and ``__json__`` raise what they like
        return _UNSENDABLE


def can_be_sent(value: object, serializer: str) -> bool:
    """Whether ``serializer`` can encode ``value``; a wildcard need not be encoded."""
    if is_wildcard(value) or type(value) in _PLAIN:
        return True
    if isinstance(value, Mapping):
        return all(can_be_sent(item, serializer) for item in value.values())
    if isinstance(value, (list, tuple)):
        return all(can_be_sent(item, serializer) for item in value)
    return when_sent(value, serializer) is not _UNSENDABLE


def _key_when_sent(key: object, serializer: str) -> object:
    arrived = when_sent({key: None}, serializer)
    return next(iter(arrived)) if isinstance(arrived, dict) else key


@lru_cache(maxsize=16)
def _flattens(serializer: str) -> bool:
    """Whether a tuple arrives as a list."""
    arrived = when_sent([()], serializer)
    return isinstance(arrived, list) and not isinstance(arrived[0], tuple)


def shown(value: object) -> str:
    """``repr(value)``, shortened, and never raising."""
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001 - a text about a failure must not hide it
        text = f"<{type(value).__name__} whose repr raises {type(error).__name__}>"
    if len(text) <= LONGEST_TEXT:
        return text
    half = LONGEST_TEXT // 2 - 1
    return f"{text[:half]}…{text[-half:]}"
