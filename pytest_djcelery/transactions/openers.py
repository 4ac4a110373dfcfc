"""Finds out what opened an atomic block, and says it as a person would."""

from __future__ import annotations

import inspect
import os
import sys
from contextlib import ContextDecorator
from dataclasses import dataclass
from functools import lru_cache, partial
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, Literal

from pytest_djcelery import locations

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_djcelery.locations import Location

# The code of the frames between a decorated function and the block around it: one function before
# Python 3.15, since then one for each kind of function (generator, coroutine, …).
_DECORATED = frozenset(
    const for const in ContextDecorator.__call__.__code__.co_consts if isinstance(const, CodeType)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opener:
    """What opened an atomic block.

    It is kept for every outermost block but seldom read, so its text is only made on demand.
    """

    kind: Literal["with", "decorator", "request", "call"]
    location: Location | None = None  # the project's line that opened it or made Django open it
    function: Callable[..., Any] | None = None  # the decorated function, or the view
    call: str | None = None  # the function of Django or of a package that the project called

    def __str__(self) -> str:
        return self.text(locations.relative)

    @property
    def path(self) -> str | None:
        """The file of what opened it; for a decorator, the file of the decorated function."""
        if self.function is not None:
            if (heir := _heir(self.function)) is not None:
                return getattr(sys.modules.get(heir.__module__), "__file__", None)
            code = getattr(inspect.unwrap(self.function), "__code__", None)
            return code.co_filename if code is not None else None
        return self.location.path if self.location else None

    def text(self, shown: Callable[[str], str]) -> str:
        """Describe it as a person would.

        Args:
            shown: Shortens the path of a file.
        """
        if self.function is not None:
            name, definition = function_text(self.function), _definition(self.function)
            at = f" ({shown(definition[0])}:{definition[1]})" if definition else ""
            if self.kind == "request":
                return f"ATOMIC_REQUESTS, around the view {name}{at}"
            return f"the decorator transaction.atomic of {name}{at}"
        place = self.location
        at = f" at {shown(place.path)}:{place.line} in {place.function}" if place else ""
        if self.call:
            return f"{self.call}(){at and f', called{at}'}"
        return f"`with transaction.atomic()`{at}"


def opener_of(frame: FrameType | None, *, atomic_requests: bool) -> Opener:
    """Find what opened a block, from the frame that entered it.

    Args:
        frame: The frame that called ``Atomic.__enter__``.
        atomic_requests: The database's ``ATOMIC_REQUESTS``.
    """
    function: Callable[..., Any] | None = None
    while frame is not None and frame.f_code in _DECORATED:
        function = frame.f_locals["func"]
        frame = frame.f_back
    if function is not None:
        # Note [The frame that calls a view]
        # ``BaseHandler._get_response`` calls it, by way of asgiref's threads under ASGI.
        request = atomic_requests and frame is not None and _calls_views(frame)
        return Opener(kind="request" if request else "decorator", function=function)
    caller, call = _called_by_project(frame)
    if call is None and frame is not None and _in_django(frame):
        call = _django_call(frame)
    return Opener(
        kind="call" if call else "with",
        call=call,
        location=locations.of_frame(caller) if caller is not None else None,
    )


def _called_by_project(frame: FrameType | None) -> tuple[FrameType | None, str | None]:
    """The project's frame that led to this one, and the package's function it called, if any.

    Where no frame is the project's, the frame of an installed package.
    """
    caller = locations.frame_of_project(frame, locations.of_library)
    called: FrameType | None = None
    while frame is not None and frame is not caller:
        if not locations.of_library(frame):
            called = frame
        frame = frame.f_back
    return caller, called and f"{called.f_globals.get('__name__')}.{_qualified(called)}"


def function_text(function: Any) -> str:
    """A callable as a person would name it: ``demoapp.tasks.send_email.delay``."""
    if (heir := _heir(function)) is not None:
        return f"{heir.__module__}.{heir.__qualname__}.{_innermost(function).__name__}"
    while True:
        if isinstance(function, partial):
            function = function.func
        elif inspect.ismethod(function) and (owner := task_of(function)) is not None:
            return f"{owner}.{function.__name__}"
        elif (inner := getattr(function, "__wrapped__", None)) is not None:
            function = inner
        else:
            break
    function = getattr(function, "view_class", function)  # made by ``View.as_view()``
    if not hasattr(function, "__qualname__"):
        function = type(function)
    return f"{function.__module__}.{function.__qualname__}"


def task_of(method: Any) -> str | None:
    """The name of the task that a method, of a task or of a signature, is for. Imports nothing."""
    owner = method.__self__
    task, canvas = sys.modules.get("celery.app.task"), sys.modules.get("celery.canvas")
    if task is not None and isinstance(owner, task.Task):
        return str(owner.name)
    if canvas is not None and isinstance(owner, canvas.Signature):
        return str(owner.task)
    return None


def _definition(function: Callable[..., Any]) -> tuple[str, int] | None:
    """The file and line where a function, or the class of a view, is defined."""
    written: Any = _heir(function)
    if written is None:
        while isinstance(function, partial) and not hasattr(function, "__wrapped__"):
            function = function.func
        written = inspect.unwrap(function)
        written = getattr(written, "view_class", written)
    try:
        path, (_, line) = inspect.getsourcefile(written), inspect.getsourcelines(written)
    except (OSError, TypeError):  # made at run time, or in C
        return None
    return (path, line) if path else None


def _heir(function: Any) -> type | None:
    """The class that decorated a method which it inherits from another class.

    ``@method_decorator(transaction.atomic, name="dispatch")`` on a view does so: what it decorates
    is a partial of the bound method, which is Django's own and doesn't name the project's class.
    """
    method = _innermost(function)
    if method is function or not inspect.ismethod(method) or task_of(method) is not None:
        return None
    owner = method.__self__ if isinstance(method.__self__, type) else type(method.__self__)
    name = method.__name__
    heir = next((cls for cls in owner.__mro__ if name in vars(cls)), None)
    if heir is None or method.__qualname__ == f"{heir.__qualname__}.{name}":
        return None
    return heir


def _innermost(function: Any) -> Any:
    while isinstance(function, partial):
        function = function.func
    return function


@lru_cache(maxsize=1)
def _django_folder() -> str:
    import django

    return os.path.join(os.path.dirname(django.__file__), "")


def _in_django(frame: FrameType, *part: str) -> bool:
    return frame.f_code.co_filename.startswith(os.path.join(_django_folder(), *part))


def _calls_views(frame: FrameType) -> bool:
    # See Note [The frame that calls a view].
    return _in_django(frame, "core", "handlers") or "asgiref" in frame.f_code.co_filename


def _django_call(frame: FrameType) -> str:
    """The Django method that a project would know: ``Model.delete``, ``QuerySet.get_or_create``.

    The ORM calls itself, so this is the outermost of its frames, apart from the one that forwards
    a manager's calls to its query set.
    """
    named = frame
    outer = frame.f_back
    while outer is not None and _in_django(outer, "db", ""):
        if outer.f_code.co_name != "manager_method" and not outer.f_code.co_name.startswith("_"):
            named = outer
        outer = outer.f_back
    return _qualified(named)


def _qualified(frame: FrameType) -> str:
    name: str = getattr(frame.f_code, "co_qualname", "")
    if not name:  # before Python 3.11
        name = frame.f_code.co_name
        for cls in type(frame.f_locals.get("self")).__mro__:
            if getattr(vars(cls).get(name), "__code__", None) is frame.f_code:
                name = f"{cls.__qualname__}.{name}"
                break
    return name.rpartition("<locals>.")[2]
