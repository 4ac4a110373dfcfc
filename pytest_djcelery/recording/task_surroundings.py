"""What a task finds around it that no message has brought, and what it leaves behind.

Production runs it in another process than the code that publishes: no language, time zone,
request id or current user of that code is there. Here both share a thread, so each task is run
in what a worker's process has that has only imported the project, and what it sets is gone
after it.

A prefork process itself keeps from task to task what a task has left; the next task may as well
run in another process, so no code can count on it.
"""

from __future__ import annotations

import copy
import decimal
import inspect
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextvars import Context, ContextVar, copy_context
from types import ModuleType
from typing import Any, Final, TypeVar

T = TypeVar("T")

# Whose `threading.local` are not the project's: they keep what this process needs to go on.
_INFRASTRUCTURE: Final = frozenset(sys.stdlib_module_names) | {
    "_pytest", "amqp", "asgiref", "billiard", "celery", "coverage", "django", "freezegun",
    "hypothesis", "kombu", "pluggy", "pytest", "pytest_celery", "pytest_django",
    "pytest_djcelery", "time_machine", "vine", "xdist",
}  # fmt: skip


class Surroundings:
    """Runs tasks in what a worker's process has that has only imported the project."""

    def __init__(self) -> None:
        self._context = Context()
        self._decimal: decimal.Context | None = None
        self._locals: list[_Local] = []
        self._searched: set[str] = set()
        self._modules = 0
        self._lock = threading.Lock()

    def remember(self) -> None:
        """Take what is there now for what importing the project makes of a process."""
        default = repr(decimal.DefaultContext)
        self._context, self._decimal = Context(), None
        for variable, value in copy_context().items():
            if not isinstance(value, decimal.Context):  # which is changed in place
                self._context.run(variable.set, value)
            elif repr(value) != default:
                self._decimal = value.copy()
        self._locals, self._searched = [], set()
        self._find_locals(imported=True)

    def context(self, *, carried: Iterable[ContextVar[Any]] = ()) -> Context:
        """A new context, as a worker's process starts with.

        Args:
            carried: variables that keep the value of the calling code.
        """
        context = self._context.copy()
        if self._decimal is not None:
            context.run(decimal.setcontext, self._decimal.copy())
        if _WARNINGS_BY_CONTEXT:
            carried = (*carried, *_warnings_variable())
        for variable in carried:
            context.run(variable.set, variable.get())
        return context

    def run(
        self,
        call: Callable[..., T],
        /,
        *args: Any,
        carried: Iterable[ContextVar[Any]] = (),
        **kwargs: Any,
    ) -> T:
        """Call a function as a worker's process runs a task.

        Args:
            call: the function.
            *args: for it.
            carried: context variables that keep the value of the calling code.
            **kwargs: for it.
        """
        __tracebackhide__ = True
        if len(sys.modules) != self._modules:
            self._find_locals(imported=False)
        found = [each.hide() for each in self._locals]
        try:
            return self.context(carried=carried).run(call, *args, **kwargs)
        finally:
            for local, values in zip(self._locals, found, strict=False):
                local.show(values)

    def _find_locals(self, *, imported: bool) -> None:
        """Find the project's own `threading.local`, in modules that were not searched before.

        Args:
            imported: whether their values come of importing the module, and are a worker's too.
        """
        with self._lock:
            self._modules = len(sys.modules)
            for name, module in list(sys.modules.items()):
                if name in self._searched or name.partition(".")[0] in _INFRASTRUCTURE:
                    continue
                names = _names_of(module)
                if not _is_initializing(names):
                    self._searched.add(name)
                known = {id(each.local) for each in self._locals}
                new = [each for each in _locals_of(name, names) if id(each) not in known]
                self._locals += [_Local(each, imported=imported) for each in new]


class _Local:
    """A `threading.local` of the project, which a task finds as a worker's process has it."""

    def __init__(self, local: threading.local, *, imported: bool) -> None:
        self.local = local
        self._initializes = type(local).__init__ is not threading.local.__init__
        self._values = dict(vars(local)) if imported and not self._initializes else {}

    def hide(self) -> dict[str, Any] | None:
        """Take away what the calling code has put there, and return it."""
        values = vars(self.local)
        if not values and not self._values:
            return None
        found = dict(values)
        values.clear()
        if self._initializes:
            type(self.local).__init__(self.local)
        for name, value in self._values.items():
            values[name] = copy.copy(value) if type(value) in (list, dict, set) else value
        return found

    def show(self, found: dict[str, Any] | None) -> None:
        """Put it back, in place of what a task has left."""
        values = vars(self.local)
        if values or found:
            values.clear()
            values.update(found or {})


def _names_of(module: ModuleType) -> dict[str, Any]:
    """The names of a module; one that is loaded at its first use stays as it is."""
    if not issubclass(type(module), ModuleType):
        return {}
    names: dict[str, Any] = object.__getattribute__(module, "__dict__")
    return names


def _locals_of(name: str, names: dict[str, Any]) -> Iterator[threading.local]:
    """Those that are attributes of a module, or of a class that it defines.

    Nothing is asked of other objects, their ``__class__`` neither: a lazy one would wake up.
    """
    for value in list(names.values()):
        if issubclass(type(value), type) and value.__module__ == name:
            held = list(vars(value).values())
        else:
            held = [value]
        yield from (each for each in held if _is_plain_local(each))


def _is_plain_local(value: object) -> bool:
    kind = type(value)
    if not issubclass(kind, threading.local):
        return False
    if kind.__init__ is threading.local.__init__:
        return True
    try:  # else a new thread calls it with what only the local itself knows
        inspect.signature(kind.__init__).bind(value)
    except TypeError:
        return False
    return True


def _is_initializing(names: dict[str, Any]) -> bool:
    return bool(getattr(names.get("__spec__"), "_initializing", False))


# Python 3.14 can keep the filters of warnings in the context: those are the test run's.
_WARNINGS_BY_CONTEXT: Final = bool(getattr(sys.flags, "context_aware_warnings", False))


def _warnings_variable() -> list[ContextVar[Any]]:
    return [each for each in copy_context() if each.name == "warnings_context"]


# -- what is of the whole process, or of a connection ----------------------------------------


class Shared:
    """Puts back, after a block, what tasks in it have changed beyond their own context.

    That is the environment, the working directory, and attributes that are not Django's own on
    the database connections. Of the latter, tasks don't see those of the calling code; the session
    in the database is theirs too.

    Private API (``os.environ._data``: all of it at once), checked on Python 3.10 to 3.15.
    """

    def __enter__(self) -> None:
        from django.db import connections

        self._environment = dict(_environ._data)
        self._folder = _working_directory()
        self._connections = [
            (vars(each), made_with, _taken_out(vars(each), made_with))
            for each in connections.all(initialized_only=True)
            if (made_with := _made_with(each)) is not None
        ]

    def __exit__(self, *_: object) -> None:
        for attributes, made_with, hidden in self._connections:
            _taken_out(attributes, made_with)
            attributes.update(hidden)
        if self._folder is not None and _working_directory() != self._folder:
            os.chdir(self._folder)
        if _environ._data != self._environment:
            _put_environment_back(self._environment)


_environ: Any = os.environ


def _put_environment_back(before: dict[Any, Any]) -> None:
    for key in list(_environ._data):
        if key not in before:
            del os.environ[_environ.decodekey(key)]
    for key, value in before.items():
        if _environ._data.get(key) != value:
            os.environ[_environ.decodekey(key)] = _environ.decodevalue(value)


def _working_directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it may be gone
        return None


def _taken_out(attributes: dict[str, Any], made_with: frozenset[str]) -> dict[str, Any]:
    if made_with.issuperset(attributes):
        return {}
    names = [name for name in attributes if name not in made_with]
    return {name: attributes.pop(name) for name in names}


_made: dict[type, frozenset[str] | None] = {}


def _made_with(connection: Any) -> frozenset[str] | None:
    """The attributes that a connection of this kind has of itself, those set later included.

    ``None`` where that can't be found out: then nothing is known to be the project's.
    """
    kind = type(connection)
    if kind not in _made:
        try:
            new = kind(dict(connection.settings_dict), connection.alias)
        except Exception:  # noqa: BLE001 - a backend of the project's may take what it likes
            _made[kind] = None
        else:
            _made[kind] = frozenset(dir(new)).union(*map(_names_in_methods, kind.__mro__))
    return _made[kind]


def _names_in_methods(kind: type) -> set[str]:
    """The names of attributes that the methods of a class use."""
    functions = [getattr(each, "func", each) for each in vars(kind).values()]
    wrapped = map(inspect.unwrap, filter(callable, functions))
    codes = [each.__code__ for each in wrapped if inspect.isfunction(each)]
    return {name for code in codes for name in code.co_names}
