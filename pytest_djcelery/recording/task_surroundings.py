"""What a task finds around it that did not come with its message, and what it leaves behind.

In production it runs in another process than the code that publishes it, without that code's
language, time zone, request id or current user. Here both share a thread, so each task is run in
the state of a worker's process that has only imported the project, and what the task sets is
gone afterwards.

A real prefork process does keep what a task has left, but the next task may run in another one,
so no code can rely on it.
"""

from __future__ import annotations

import copy
import decimal
import inspect
import os
import sys
import threading
from collections.abc import Callable, Iterable
from contextvars import Context, ContextVar, copy_context
from types import ModuleType
from typing import Any, Final, TypeVar

from pytest_djcelery.transactions.connections import opened_connections

T = TypeVar("T")

# Packages whose `threading.local` objects are not the project's: this process depends on them.
_INFRASTRUCTURE: Final = frozenset(sys.stdlib_module_names) | {
    "_pytest", "amqp", "asgiref", "billiard", "celery", "charset_normalizer", "click", "coverage",
    "dateutil", "django", "docker", "execnet", "freezegun", "hypothesis", "kombu", "pluggy",
    "prompt_toolkit", "psutil", "psycopg", "pygments", "pytest", "pytest_celery", "pytest_django",
    "pytest_djcelery", "pytest_docker_tools", "redis", "requests", "sqlparse", "time_machine",
    "urllib3", "vine", "xdist",
}  # fmt: skip


class Surroundings:
    """Runs tasks in the state of a worker's process that has only imported the project."""

    def __init__(self) -> None:
        self._context = Context()
        self._decimal: decimal.Context | None = None
        self._locals: list[_Local] = []
        self._searched: set[str] = set()
        self._modules = 0
        self._lock = threading.Lock()

    def remember(self) -> None:
        """Remember the present state as that of a process which has only imported the project."""
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
        """A new context, like the one a worker's process starts with.

        Args:
            carried: Variables that keep their value in the calling code.
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
            call: The function.
            *args: Its positional arguments.
            carried: Context variables that keep their value in the calling code.
            **kwargs: Its keyword arguments.
        """
        __tracebackhide__ = True
        if len(sys.modules) != self._modules:
            self._find_locals(imported=False)
        found = [local.hide() for local in self._locals]
        try:
            return self.context(carried=carried).run(call, *args, **kwargs)
        finally:
            for local, values in zip(self._locals, found, strict=False):
                local.show(values)

    def _find_locals(self, *, imported: bool) -> None:
        """Find the project's own `threading.local` objects in modules not searched before.

        Args:
            imported: Whether their values come from importing the module, so that a worker has
                them too.
        """
        with self._lock:
            self._modules = len(sys.modules)
            for name, module in list(sys.modules.items()):
                if name in self._searched or name.partition(".")[0] in _INFRASTRUCTURE:
                    continue
                names = _names_of(module)
                if not _is_initializing(names):
                    self._searched.add(name)
                known = {id(local.local) for local in self._locals}
                new = [local for local in _locals_of(name, names) if id(local) not in known]
                self._locals += [_Local(local, imported=imported) for local in new]


class _Local:
    """A `threading.local` of the project, which a task finds as it is in a worker's process."""

    def __init__(self, local: threading.local, *, imported: bool) -> None:
        self.local = local
        self._initializes = type(local).__init__ is not threading.local.__init__
        self._values = dict(vars(local)) if imported and not self._initializes else {}

    def hide(self) -> dict[str, Any] | None:
        """Remove what the calling code has put there, and return it."""
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
        """Put that back, in place of what a task has left."""
        values = vars(self.local)
        if values or found:
            values.clear()
            values.update(found or {})


def _names_of(module: ModuleType) -> dict[str, Any]:
    """The names in a module, without loading a lazy one."""
    if not issubclass(type(module), ModuleType):
        return {}
    names: dict[str, Any] = object.__getattribute__(module, "__dict__")
    return names


def _locals_of(name: str, names: dict[str, Any]) -> list[threading.local]:
    """The locals that are attributes of a module, or of a class that it defines.

    No other object is asked for anything, not even for its ``__class__``, which would evaluate a
    lazy one. Tens of thousands of objects are looked at in each run, so nothing is called for
    those that are neither.
    """
    plain = threading.local
    found: list[Any] = []
    for value in list(names.values()):
        kind = type(value)
        if issubclass(kind, plain):
            found.append(value)
        elif issubclass(kind, type) and value.__module__ == name:
            found += [held for held in list(vars(value).values()) if issubclass(type(held), plain)]
    return [local for local in found if _is_plain_local(local)]


def _is_plain_local(value: threading.local) -> bool:
    """Whether it can be emptied: one that takes arguments can't be initialized again."""
    kind: Any = type(value)
    if kind.__init__ is threading.local.__init__:
        return True
    try:  # a new thread passes what only the local itself knows
        inspect.signature(kind.__init__).bind(value)
    except TypeError:
        return False
    return True


def _is_initializing(names: dict[str, Any]) -> bool:
    return bool(getattr(names.get("__spec__"), "_initializing", False))


# Python 3.14 can keep the warning filters in the context: those belong to the test run.
_WARNINGS_BY_CONTEXT: Final = bool(getattr(sys.flags, "context_aware_warnings", False))


def _warnings_variable() -> list[ContextVar[Any]]:
    return [variable for variable in copy_context() if variable.name == "warnings_context"]


# -- what belongs to the whole process, or to a connection -----------------------------------


class SharedStateRestored:
    """Restores, at the end of the ``with``, what tasks in it have changed outside their context.

    That is the environment, the working directory, and the attributes of database connections that
    are not Django's own. Tasks don't see such attributes of the calling code either; the session
    in the database they share with it.

    Private API (``os.environ._data``: all of it at once), checked on Python 3.10 to 3.15.
    """

    def __enter__(self) -> None:
        self._environment = dict(_environ._data)
        self._folder = _working_directory()
        self._connections = [
            (vars(connection), own, _taken_out(vars(connection), own))
            for connection in opened_connections()
            if (own := _own_attributes(connection)) is not None
        ]

    def __exit__(self, *_: object) -> None:
        for attributes, own, hidden in self._connections:
            _taken_out(attributes, own)
            attributes.update(hidden)
        if self._folder is not None and _working_directory() != self._folder:
            os.chdir(self._folder)
        if _environ._data != self._environment:
            _restore_environment(self._environment)


_environ: Any = os.environ


def _restore_environment(before: dict[Any, Any]) -> None:
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


def _taken_out(attributes: dict[str, Any], own: frozenset[str]) -> dict[str, Any]:
    if own.issuperset(attributes):
        return {}
    names = [name for name in attributes if name not in own]
    return {name: attributes.pop(name) for name in names}


_own_by_class: dict[type, frozenset[str] | None] = {}


def _own_attributes(connection: Any) -> frozenset[str] | None:
    """The attributes that a connection of this class sets itself, at once or later.

    ``None`` if that can't be found out: then no attribute is known to be the project's.
    """
    kind = type(connection)
    if kind not in _own_by_class:
        try:
            new = kind(dict(connection.settings_dict), connection.alias)
        except Exception:  # noqa: BLE001 - a project's own backend may take other arguments
            _own_by_class[kind] = None
        else:
            _own_by_class[kind] = frozenset(dir(new)).union(*map(_names_in_methods, kind.__mro__))
    return _own_by_class[kind]


def _names_in_methods(kind: type) -> set[str]:
    """The names of attributes that the methods of a class use."""
    functions = [getattr(value, "func", value) for value in vars(kind).values()]
    unwrapped = map(inspect.unwrap, filter(callable, functions))
    codes = [function.__code__ for function in unwrapped if inspect.isfunction(function)]
    return {name for code in codes for name in code.co_names}
