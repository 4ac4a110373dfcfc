"""Stand-ins for callables, which pass for what they stand in for.

wrapt's proxies would not do: such a proxy has its own answer to ``repr``, ``pickle``, ``copy``,
``inspect.signature`` and ``__wrapped__``, and has every special method there is, so code that asks
a hook or a task's method what it is would notice it.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from functools import cache
from types import FunctionType, MethodType
from typing import Any, Final
from weakref import WeakKeyDictionary

# What a stand-in defines itself, and what concerns a class rather than its instances.
_OWN: Final = frozenset({"__call__", "__copy__", "__deepcopy__", "__reduce_ex__", "__signature__"})
_OF_CLASSES: Final = frozenset({
    "__class_getitem__", "__del__", "__doc__", "__getattr__", "__getattribute__", "__init__",
    "__init_subclass__", "__new__", "__reduce__", "__subclasshook__",
})  # fmt: skip


class StandIn:
    """Stands in for what it wraps; only ``is`` and ``type()`` can tell them apart.

    Code that finds it where it expects the callable (a list of on_commit hooks, a task's method)
    notices nothing: it reads and sets the attributes of the wrapped object, copies that object,
    and may use everything else it can do. Made by `stand_in_for`.
    """

    __slots__ = ("__weakref__", "_call", "_wrapped")

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        return _call(self)(*args, **kwargs)

    def __getattribute__(self, name: str) -> Any:
        __tracebackhide__ = True
        if name in _OWN:
            return object.__getattribute__(self, name)
        return getattr(_wrapped(self), name)

    def __copy__(self) -> Any:
        __tracebackhide__ = True
        return copy.copy(_wrapped(self))

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        __tracebackhide__ = True
        return copy.deepcopy(_wrapped(self), memo)

    def __reduce_ex__(self, _: Any) -> Any:
        return copy.copy, (_wrapped(self),)

    @property
    def __signature__(self) -> inspect.Signature:  # of an object with ``__call__``
        return inspect.signature(_wrapped(self))


_SLOTS: Final[Any] = vars(StandIn)  # every other access leads to the wrapped object
_call: Callable[[StandIn], Callable[..., Any]] = _SLOTS["_call"].__get__
_wrapped: Callable[[StandIn], Any] = _SLOTS["_wrapped"].__get__
_classes: WeakKeyDictionary[type, type[StandIn]] = WeakKeyDictionary()


def stand_in_for(wrapped: Callable[..., Any], call: Callable[..., Any]) -> Any:
    """Make an object that passes for ``wrapped`` but, when called, calls ``call``."""
    stand_in = object.__new__(_class_for(type(wrapped)))
    _SLOTS["_wrapped"].__set__(stand_in, wrapped)
    _SLOTS["_call"].__set__(stand_in, call)
    return stand_in


def call_of(value: Any) -> Callable[..., Any] | None:
    """What a stand-in calls; ``None`` if the value is no stand-in."""
    return _call(value) if issubclass(type(value), StandIn) else None


def _class_for(wrapped: type) -> type[StandIn]:
    """A class with the special methods of another, since Python looks these up on the type."""
    made = _classes.get(wrapped)
    if made is None:
        namespace: dict[str, Any] = {"__slots__": (), "__module__": wrapped.__module__}
        for cls in reversed(wrapped.__mro__):
            for name, value in vars(cls).items():
                if name.startswith("__") and name not in _OWN | _OF_CLASSES and _is_method(value):
                    namespace[name] = None if value is None else _forwarded(name)
        if wrapped is FunctionType:
            namespace["__get__"] = _bound_to
        made = _classes[wrapped] = type(wrapped.__name__, (StandIn,), namespace)
    return made


def _bound_to(self: StandIn, instance: Any, _: Any = None) -> Any:
    """Become a method of an instance, as a function in a class does."""
    return self if instance is None else MethodType(self, instance)


def _is_method(value: object) -> bool:
    """Whether it is a method, becomes one on access as a mock's does, or is ``None``: has none."""
    on_access = hasattr(type(value), "__get__") and not hasattr(type(value), "__set__")
    return value is None or callable(value) or on_access


@cache
def _forwarded(name: str) -> Callable[..., Any]:
    def forwarded(self: StandIn, /, *args: Any) -> Any:
        __tracebackhide__ = True
        return _special(_wrapped(self), name)(*map(_unwrapped, args))

    return forwarded


def _special(value: Any, name: str) -> Callable[..., Any]:
    """A special method as Python finds it: on the type, whatever the object itself may have."""
    cls = type(value)
    found = next(vars(base)[name] for base in cls.__mro__ if name in vars(base))
    bound = getattr(type(found), "__get__", None)
    method: Callable[..., Any] = found if bound is None else bound(found, value, cls)
    return method


def _unwrapped(value: Any) -> Any:
    """What a stand-in wraps, or the value itself: two stand-ins of one function are equal."""
    return _wrapped(value) if issubclass(type(value), StandIn) else value
