"""Context managers that say so when they are used without having been entered."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from types import MethodType, TracebackType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from pytest_djcelery.errors import NotEnteredError, NotEnteredWarning

P = ParamSpec("P")
T = TypeVar("T")

# What each is called in a ``with``, for texts.
_NAMES = {
    "app": "app", "beat": "beat", "eager": "app", "faults": "faults", "inline": "worker",
    "live_worker": "worker", "on_commit": "hooks", "outbox": "sent", "results": "results",
    "session_app": "app", "session_worker": "worker", "worker": "worker",
}  # fmt: skip


def entered(function: Callable[P, Iterator[T]]) -> Callable[P, Block[T]]:
    """Make a context manager of a generator function, as `contextlib.contextmanager` does."""
    make = contextmanager(function)

    @wraps(function)
    def block(*args: P.args, **kwargs: P.kwargs) -> Block[T]:
        __tracebackhide__ = True
        caller = sys._getframe(1)
        place = caller.f_code.co_filename, caller.f_lineno
        return Block(function.__name__, lambda: make(*args, **kwargs), place)

    return block


class _Entering:
    """The method ``__enter__``: whoever gets it may call it later, as an ``ExitStack`` does."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __get__(self, block: Any, owner: type) -> Any:
        if block is None:
            return self._function
        block.mark_used()
        return MethodType(self._function, block)


class Block(AbstractContextManager[T], Generic[T]):
    """A part of a test, to be entered with ``with``; it can also decorate a function.

    Args:
        name: The name of the function that returned it.
        make: Makes the context manager that does the work.
        place: The file and the line where that function was called.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], AbstractContextManager[T]],
        place: tuple[str, int],
    ) -> None:
        self.__name = name
        self.__make = make
        self.__place = place
        self.__used = True
        self.__block = make()  # which checks the arguments
        self.__used = False

    def __enter__(self) -> T:
        __tracebackhide__ = True
        self.mark_used()
        return self.__block.__enter__()

    if not TYPE_CHECKING:
        __enter__ = _Entering(__enter__)

    def mark_used(self) -> None:
        """Note that it is entered, or may be later."""
        self.__used = True

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        __tracebackhide__ = True
        return self.__block.__exit__(exc_type, exc_value, traceback)

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        self.__used = True

        @wraps(function)
        def within(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            with self.__make():
                return function(*args, **kwargs)

        return within

    def __getattr__(self, name: str) -> Any:
        __tracebackhide__ = True
        if name.startswith("__"):  # asked for by Python and by debuggers
            raise AttributeError(name)
        raise self.__refusal(f".{name}")

    def __eq__(self, other: object) -> bool:
        __tracebackhide__ = True
        if other is self:
            return True
        raise self.__refusal(" == …")

    def __hash__(self) -> int:
        return id(self)

    def __iter__(self) -> Any:
        __tracebackhide__ = True
        raise self.__refusal(", iterated over,")

    def __len__(self) -> int:
        __tracebackhide__ = True
        raise self.__refusal(", asked for its length,")

    def __bool__(self) -> bool:
        return True

    def __contains__(self, item: object) -> bool:
        __tracebackhide__ = True
        raise self.__refusal(", asked what is in it,")

    def __getitem__(self, index: object) -> Any:
        __tracebackhide__ = True
        raise self.__refusal("[…]")

    def __repr__(self) -> str:
        return f"<{self.__name}(), a context manager>"

    def __refusal(self, use: str) -> NotEnteredError:
        self.__used = True  # this says enough
        return NotEnteredError(
            f"{self.__name}(){use} is used like what the context manager {self.__name}() yields, "
            f"but it was not entered.\n{self.__remedy()}"
        )

    def __remedy(self) -> str:
        yields = _NAMES.get(self.__name, "it")
        return (
            f"Write `with {self.__name}() as {yields}:` and use {yields} inside, or ask for the "
            f"fixture celery_{self.__name}."
        )

    def __del__(self) -> None:
        if not self.__used and not sys.is_finalizing():
            path, line = self.__place
            warnings.warn_explicit(
                f"{self.__name}() was called, but not entered, so it did nothing.\n"
                f"{self.__remedy()}",
                NotEnteredWarning,
                path,
                line,
            )
