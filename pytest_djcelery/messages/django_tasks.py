"""Tasks of `django.tasks` (Django 6.0), and what a message says of the one it was sent for.

A backend may send one Celery task for all of them, or has a Celery task for each; what its
messages contain is its own affair. So a message is linked with the call of ``enqueue()`` in which
it was published, not recognized by its content.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from datetime import datetime
    from types import FrameType

    from pytest_djcelery.messages.task_message import DjangoCall, Message


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenCall:
    """What a test expects of a Django task; ``args`` is ``None`` where any call will do."""

    task: Any
    args: tuple[Any, ...] | None = None
    kwargs: Mapping[str, Any]

    @property
    def path(self) -> str:
        """The ``module_path`` of the task."""
        return str(self.task.module_path)

    @property
    def options(self) -> dict[str, Any]:
        """What ``using()`` has set."""
        time = {} if self.task.run_after is None else {"run_after": self.task.run_after}
        return {**time, **changed_by_using(self.task)}

    def __repr__(self) -> str:
        using = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        text = f"{self.path}{f'.using({using})' if using else ''}"
        if self.args is None:
            return text
        named = (f"{name}={value!r}" for name, value in self.kwargs.items())
        return f"{text}.enqueue({', '.join([*map(repr, self.args), *named])})"


class DjangoTask(Protocol):
    """A task of `django.tasks`, as far as a type checker needs it: Django 4.2 has none."""

    @property
    def module_path(self) -> str: ...

    @property
    def func(self) -> Callable[..., Any]: ...


class DjangoResult(Protocol):
    """What ``enqueue()`` of a Django task returns, as far as a type checker needs it."""

    @property
    def task(self) -> DjangoTask: ...

    @property
    def id(self) -> str: ...

    @property
    def enqueued_at(self) -> datetime | None: ...


class OwnCall(NamedTuple):
    """What a message calls, by the name and with the arguments that a person knows it by."""

    name: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]


def own_call(message: Message) -> OwnCall:
    """The call that a message makes; if it was sent for a Django task, that task's call."""
    call = django_call_of(message)
    if call is not None:
        return OwnCall(call.path, call.args, call.kwargs)
    return OwnCall(message.task, message.args, message.kwargs)


def own_function(message: Message) -> Callable[..., Any] | None:
    """The function of the Django task that a message was sent for, without its context.

    ``None`` if it was sent for none, or the function is not where it was.
    """
    call = django_call_of(message)
    task = None if call is None else django_task_at(call.path)
    return None if task is None else function_of(task)


def django_call_of(message: object) -> DjangoCall | None:
    """The Django task's call that a message was sent for; ``None`` if it was sent for none."""
    call: DjangoCall | None = getattr(message, "django_call", None)
    return call


def is_django_task(value: object) -> bool:
    """Whether a value is a task of `django.tasks`."""
    module = sys.modules.get("django.tasks.base")
    return module is not None and isinstance(value, module.Task)


def is_django_result(value: object) -> bool:
    """Whether a value is what ``enqueue()`` of a Django task returns."""
    module = sys.modules.get("django.tasks.base")
    return module is not None and isinstance(value, module.TaskResult)


def function_of(task: Any) -> Callable[..., Any]:
    """The function of a Django task; without the context, which its backend passes to it."""
    function: Callable[..., Any] = task.func
    return partial(function, None) if task.takes_context else function


def django_task_at(path: str) -> Any:
    """The Django task with a ``module_path``; ``None`` if there is none."""
    parts = path.split(".")
    for length in range(len(parts) - 1, 0, -1):
        module = sys.modules.get(".".join(parts[:length]))
        if module is not None:
            found: Any = module
            for name in parts[length:]:
                found = getattr(found, name, None)
            return found if is_django_task(found) else None
    return None


def changed_by_using(task: Any) -> dict[str, Any]:
    """What ``using()`` has changed of a Django task, apart from the time."""
    plain = django_task_at(task.module_path)
    if plain is None:
        return {}
    return {
        name: value
        for name in ("priority", "queue_name", "backend")
        if (value := getattr(task, name)) != getattr(plain, name)
    }


# -- the call of enqueue() that is running ----------------------------------------------------


@dataclass(slots=True, kw_only=True, eq=False)
class Enqueueing:
    """A call of ``enqueue()`` that has not returned, or a hook that it registered."""

    call: DjangoCall
    function: Callable[..., Any]
    hooks: list[int] = field(default_factory=list)  # that it has registered

    def runs_its_task(self) -> bool:
        """Whether the task's own function runs now, as in a backend that calls it at once."""
        code = getattr(inspect.unwrap(self.function), "__code__", None)
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if frame.f_code is code:
                return True
            frame = frame.f_back
        return False


_ENQUEUEING: ContextVar[Enqueueing | None] = ContextVar("djcelery_enqueueing", default=None)


def enqueueing() -> Enqueueing | None:
    """The call of ``enqueue()`` in which this code runs, unless its task itself runs."""
    running = _ENQUEUEING.get()
    return None if running is None or running.runs_its_task() else running


@contextmanager
def enqueued_by(running: Enqueueing | None) -> Iterator[None]:
    """Within the ``with``, what is published belongs to this call of ``enqueue()``, or to none."""
    token = _ENQUEUEING.set(running)
    try:
        yield
    finally:
        _ENQUEUEING.reset(token)
