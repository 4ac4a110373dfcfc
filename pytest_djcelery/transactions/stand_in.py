"""What stands in for a callable and is taken for it.

A proxy of wrapt's has its own answer to ``repr``, ``pickle``, ``copy``, ``inspect.signature`` and
``__wrapped__``, and every special method that there is: code that asks a hook or a task's method
what it is would notice it.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from functools import cache
from types import FunctionType, MethodType
from typing import Any, Final
from weakref import WeakKeyDictionary

# What a stand-in has of its own, and what makes a class and not what its instances do.
_OWN: Final = frozenset({"__call__", "__copy__", "__deepcopy__", "__reduce_ex__", "__signature__"})
_OF_CLASSES: Final = frozenset({
    "__class_getitem__", "__del__", "__doc__", "__getattr__", "__getattribute__", "__init__",
    "__init_subclass__", "__new__", "__reduce__", "__subclasshook__",
})  # fmt: skip


class Transparent:
    """Stands in for what it wraps; only ``is`` and ``type()`` can tell them apart.

    Code that finds it where it expects the callable (a list of on_commit hooks, a task's method)
    goes on as if nothing stood between: it reads and sets the attributes of what is wrapped,
    copies that, and may treat it as whatever it is. Made by `transparent`.
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


_SLOTS: Final[Any] = vars(Transparent)  # all other ways lead to what is wrapped
_call: Callable[[Transparent], Callable[..., Any]] = _SLOTS["_call"].__get__
_wrapped: Callable[[Transparent], Any] = _SLOTS["_wrapped"].__get__
_classes: WeakKeyDictionary[type, type[Transparent]] = WeakKeyDictionary()


def transparent(wrapped: Callable[..., Any], call: Callable[..., Any]) -> Any:
    """Make what is taken for ``wrapped``, and calls ``call``."""
    stand_in = object.__new__(_class_for(type(wrapped)))
    _SLOTS["_wrapped"].__set__(stand_in, wrapped)
    _SLOTS["_call"].__set__(stand_in, call)
    return stand_in


def call_of(value: Any) -> Callable[..., Any] | None:
    """What a stand-in calls; ``None`` where the value is none."""
    return _call(value) if issubclass(type(value), Transparent) else None


def _class_for(wrapped: type) -> type[Transparent]:
    """A class whose special methods, which Python looks up on the type, are those of another."""
    made = _classes.get(wrapped)
    if made is None:
        namespace: dict[str, Any] = {"__slots__": (), "__module__": wrapped.__module__}
        for each in reversed(wrapped.__mro__):
            for name, value in vars(each).items():
                if name.startswith("__") and name not in _OWN | _OF_CLASSES and _is_method(value):
                    namespace[name] = None if value is None else _passed_on(name)
        if wrapped is FunctionType:
            namespace["__get__"] = _method_of
        made = _classes[wrapped] = type(wrapped.__name__, (Transparent,), namespace)
    return made


def _method_of(self: Transparent, instance: Any, _: Any = None) -> Any:
    """What stands in for a function in a class is a method of the instances, as that would be."""
    return self if instance is None else MethodType(self, instance)


def _is_method(value: object) -> bool:
    """Whether it is one, made late as a mock's may be, or says that there is none (``None``)."""
    late = hasattr(type(value), "__get__") and not hasattr(type(value), "__set__")
    return value is None or callable(value) or late


@cache
def _passed_on(name: str) -> Callable[..., Any]:
    def passed_on(self: Transparent, /, *args: Any) -> Any:
        __tracebackhide__ = True
        return _special(_wrapped(self), name)(*map(_bare, args))

    return passed_on


def _special(value: Any, name: str) -> Callable[..., Any]:
    """A special method as Python finds it: what the object itself has by that name is no matter."""
    cls = type(value)
    found = next(vars(each)[name] for each in cls.__mro__ if name in vars(each))
    bound = getattr(type(found), "__get__", None)
    method: Callable[..., Any] = found if bound is None else bound(found, value, cls)
    return method


def _bare(value: Any) -> Any:
    """What is wrapped, where the value is a stand-in: two of the same function are equal."""
    return _wrapped(value) if issubclass(type(value), Transparent) else value
