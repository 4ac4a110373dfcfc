"""Frozen records that are made in a third of the time: each message has five of them."""

from __future__ import annotations

from dataclasses import fields
from functools import update_wrapper
from typing import Any, TypeVar

_Record = TypeVar("_Record")


def quickly_made(cls: type[_Record]) -> type[_Record]:
    """Fill a frozen dataclass with slots through its slots.

    ``dataclass`` has each field of a frozen one set by name, by ``object.__setattr__``, which looks
    for the slot each time.

    Args:
        cls: whose fields are keywords, have no default factory, and need nothing done after.
    """
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type]  # it is a dataclass
    made: Any = vars(cls)["__init__"]
    slots = {f"_set_{name}": getattr(cls, name).__set__ for name in names}
    body = "".join(f"\n    _set_{name}(self, {name})" for name in names)
    exec(f"def __init__(self, *, {', '.join(names)}):{body}", slots)  # noqa: S102 - as `dataclass` does
    init: Any = slots["__init__"]
    init.__kwdefaults__ = made.__kwdefaults__
    cls.__init__ = update_wrapper(init, made)  # type: ignore[method-assign]  # it does the same
    return cls
