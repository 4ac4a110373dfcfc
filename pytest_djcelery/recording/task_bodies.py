"""Stands around the body of a task, and around functions that it calls, in one run of it.

A task's ``run`` is what Celery calls; with ``autoretry_for`` it is a wrapper of the project's
function, which is then ``_orig_run``. A tracer remembers ``run`` when it is built, and a worker
asks the task for its tracer at each message.

Private API (``Task._orig_run``, ``Task.__trace__``, ``celery.app.trace.build_tracer``), checked on
Celery 5.4 to 5.7.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import FunctionType
from typing import Any, Final

from pytest_djcelery import locations
from pytest_djcelery.errors import BadOptionError
from pytest_djcelery.patching import patches, replaced
from pytest_djcelery.project.derived import info_logging_enabled
from pytest_djcelery.transactions.stand_in import stand_in_for

#: What stands around a body: it gets the body as a function without parameters, then the
#: arguments of the call, and returns what the task is to return.
Around = Callable[[Callable[[], Any], tuple[Any, ...], dict[str, Any]], Any]


@patches(
    "celery.app.task:Task.run",
    "celery.app.task:Task._orig_run",
    "celery.app.task:Task.__trace__",
    why="What happens to a run on purpose has to happen inside it: signals come before and after "
    "autoretry_for and a task class's __call__.",
    checked_on="Celery 5.4 to 5.7",
)
@contextmanager
def body_wrapped(task: Any, around: Around) -> Iterator[None]:
    """Within the ``with``, have a function called in place of the body of a task.

    Args:
        task: The task, as its app has registered it.
        around: The function.
    """
    name = "_orig_run" if hasattr(task, "_orig_run") else "run"
    body = getattr(task, name)

    @wraps(body)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        return around(lambda: body(*args, **kwargs), args, kwargs)

    with _tracer_renewed(task) as renew, replaced(task, **{name: wrapped}):
        renew()
        yield


@contextmanager
def _tracer_renewed(task: Any) -> Iterator[Callable[[], None]]:
    """Yield what makes the task's tracer call the present ``run``; it is put back afterwards.

    A task without a tracer gets one from the worker that runs it.
    """
    before = task.__trace__
    ours = None

    def renew() -> None:
        nonlocal ours
        if before is not None:
            ours = task.__trace__ = _tracer(task)
            ours.stands_for = before

    try:
        yield renew
    finally:
        # One that a worker has built meanwhile would call the wrapper forever; but that worker
        # relies on there being one.
        task.__trace__ = before if task.__trace__ in {ours, None} else _tracer(task)


def tracer_apart(task: Any) -> Any:
    """The tracer of a task, as it is without `body_wrapped`."""
    return getattr(task.__trace__, "stands_for", task.__trace__)


def _tracer(task: Any) -> Any:
    from celery.app import trace

    app = task.app
    _, _, hostname = trace._localized or (None, None, None)
    with info_logging_enabled():
        return trace.build_tracer(task.name, task, app.loader, hostname, app=app)


# Where a project holds a function, and what its calls in a run of a task do instead -------
# A function is found by identity: as an attribute of modules (its own, and those that import the
# name) and of classes. Each place gets a stand-in, which is the function itself to everybody but
# the run whose fault waits for it.

#: Called with the call of the function, in place of it.
OnCall = Callable[[Callable[[], Any]], Any]


def function_text(function: Any) -> str:
    """Return a function as code that has imported its module writes it: ``gateway.charge``."""
    name = getattr(function, "__qualname__", None)
    if not isinstance(name, str):
        return repr(function)
    module = getattr(function, "__module__", None)
    if "." in name or not isinstance(module, str):  # a method, or inside of a function
        return name
    return f"{module.rpartition('.')[2]}.{name}"


class CallSite:
    """A function that a task calls, with a stand-in wherever it is held.

    Args:
        method: The call that needs it, for the text of an error.
        function: The function.
        waiting: Returns what to do at a call in the present run; ``None`` for no more than to
            call the function.

    Raises:
        BadOptionError: It is no function, or no module or class holds it.
    """

    def __init__(self, method: str, function: Any, waiting: Callable[[], OnCall | None]) -> None:
        if not callable(function) or isinstance(function, type):
            msg = (
                f"{method}: at={function!r}. Expected a function that the task calls "
                "(at=gateway.charge), the function itself and not its name or its call."
            )
            raise BadOptionError(msg)
        self._of = getattr(function, "__self__", None) if inspect.ismethod(function) else None
        self._waiting = waiting
        self.text = function_text(function)
        self._held = _held_with(function.__func__ if inspect.ismethod(function) else function)
        if not self._held.places:
            msg = (
                f"{method}: at={self.text} is held by no module and no class, so its calls can't "
                "be seen. Expected a function that a module or a class has as an attribute: not "
                "one inside a function, in a container, or a partial of one."
            )
            raise BadOptionError(msg)
        self._held.sites.append(self)

    @property
    def places(self) -> list[str]:
        """Where the function is held, as text."""
        return [f"{_name(owner)}.{name}" for owner, name, _, _ in self._held.places]

    def close(self) -> None:
        """Put the function back, wherever it has not been replaced since.

        Where another fault waits for the same function, that is left to its end.
        """
        if self in self._held.sites:
            self._held.sites.remove(self)
            if not self._held.sites:
                self._held.put_back()

    def on_call(self, args: tuple[Any, ...]) -> OnCall | None:
        """What to do at a call with these arguments."""
        if self._of is not None and not (args and args[0] is self._of):
            return None
        return self._waiting()


class _Held:
    """A function that stands behind stand-ins, for as long as a site waits for its calls."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self.sites: list[CallSite] = []
        #: Owner, name, what it held, and the stand-in that it holds now.
        self.places: list[tuple[Any, str, Any, Any]] = []
        self.stand_in = self._made()

    def find(self) -> None:
        """Put the stand-in wherever the function is held."""
        for owner, name, held in _places(self.function):
            self._replace(owner, name, held)

    def put_back(self) -> None:
        """Put the function back, wherever it has not been replaced since."""
        _behind.pop(id(self.function), None)
        _behind.pop(id(self.stand_in), None)
        while self.places:
            owner, name, held, stand_in = self.places.pop()
            if vars(owner).get(name) is stand_in:
                setattr(owner, name, held)

    def _replace(self, owner: Any, name: str, held: Any) -> None:
        stand_in = self.stand_in
        if isinstance(held, (staticmethod, classmethod)):
            stand_in = type(held)(stand_in)
        try:
            setattr(owner, name, stand_in)
        except (AttributeError, TypeError):  # a class in C, or a module that refuses
            return
        self.places.append((owner, name, held, stand_in))

    def _on_call(self, args: tuple[Any, ...]) -> OnCall | None:
        answers = (site.on_call(args) for site in list(self.sites))
        return next((answer for answer in answers if answer is not None), None)

    def _made(self) -> Any:
        function = self.function
        if inspect.iscoroutinefunction(function):
            return self._made_of_coroutine(function)

        def stand_in(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            on_call = self._on_call(args)
            if on_call is None:
                return function(*args, **kwargs)
            return on_call(lambda: function(*args, **kwargs))

        return _like(function, stand_in)

    def _made_of_coroutine(self, function: Any) -> Any:
        async def stand_in(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            on_call = self._on_call(args)
            if on_call is None:
                return await function(*args, **kwargs)
            # What happens before the call happens now; what comes after it needs its result.
            pending: list[Any] = []

            def call() -> Any:
                if not pending:
                    raise _Awaited
                return pending[0]

            try:
                return on_call(call)
            except _Awaited:
                pending.append(await function(*args, **kwargs))
                return on_call(call)

        return _like(function, stand_in)


#: What is held, by the identity of the function and of its stand-in.
_behind: Final[dict[int, _Held]] = {}


def _held_with(function: Any) -> _Held:
    """Return what is behind a function, or behind its stand-in."""
    held = _behind.get(id(function))
    if held is None:
        held = _Held(function)
    held.find()
    if held.places:
        _behind[id(held.function)] = _behind[id(held.stand_in)] = held
    return held


class _Awaited(BaseException):
    """The call has to be awaited first."""


def _like(function: Any, stand_in: Any) -> Any:
    if isinstance(function, FunctionType):
        return wraps(function)(stand_in)
    return stand_in_for(function, stand_in)  # a mock, which the test asks for its calls


def _places(function: Any) -> Iterator[tuple[Any, str, Any]]:
    """Each module and class that holds a function, with the name, and what it holds by it."""
    package = str(getattr(function, "__module__", None)).partition(".")[0]
    seen: set[int] = set()
    for module in list(sys.modules.values()):
        if id(module) in seen or not _may_hold(module, package):
            continue
        seen.add(id(module))
        for name, value in list(vars(module).items()):
            if value is function:
                yield module, name, value
            elif isinstance(value, type) and id(value) not in seen:
                seen.add(id(value))
                owner = sys.modules.get(value.__module__)
                if owner is module or _may_hold(owner, package):
                    yield from _in_class(value, function)


def _may_hold(module: Any, package: str) -> bool:
    """Whether to look into a module: one of the project's, or of the function's own package.

    All the others together hold some ten thousand names, too many for each fault of each test.
    """
    if not hasattr(module, "__dict__"):
        return False
    file = getattr(module, "__file__", None)
    return (
        str(getattr(module, "__name__", "")).partition(".")[0] == package
        or file is None
        or locations.is_of_project(file)
    )


def _in_class(owner: type, function: Any) -> Iterator[tuple[type, str, Any]]:
    for name, value in list(vars(owner).items()):
        bare = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
        if bare is function:
            yield owner, name, value
        elif isinstance(value, type) and value.__qualname__ == f"{owner.__qualname__}.{name}":
            yield from _in_class(value, function)


def _name(owner: Any) -> str:
    if isinstance(owner, type):
        return f"{owner.__module__}.{owner.__qualname__}"
    return str(owner.__name__)
