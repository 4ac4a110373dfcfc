"""Frozen records that are made in a third of the time: each message has five of them."""

from __future__ import annotations

from dataclasses import fields
from functools import update_wrapper
from typing import Any, TypeVar

_Record = TypeVar("_Record")


def quickly_made(cls: type[_Record]) -> type[_Record]:
    """Have a frozen dataclass with slots filled through its slots.

    What ``dataclass`` writes sets each field by its name, with ``object.__setattr__``, which looks
    the slot up each time.

    Args:
        cls: the dataclass: its fields are keywords, none has a default factory, and it has no
            ``__post_init__``.
    """
    record: Any = cls
    names = [field.name for field in fields(record)]
    made: Any = vars(cls)["__init__"]
    slots = {f"_set_{name}": getattr(cls, name).__set__ for name in names}
    body = "".join(f"\n    _set_{name}(self, {name})" for name in names)
    exec(f"def __init__(self, *, {', '.join(names)}):{body}", slots)  # noqa: S102 - as `dataclass` does
    init: Any = slots["__init__"]
    init.__kwdefaults__ = made.__kwdefaults__
    record.__init__ = update_wrapper(init, made)
    return cls
