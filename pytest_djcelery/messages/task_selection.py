"""Selects the messages of one task, of Celery or of `django.tasks`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from celery import current_app
from celery.canvas import Signature
from kombu import Queue

from pytest_djcelery.errors import BadOptionError
from pytest_djcelery.messages.arguments import SomeArguments
from pytest_djcelery.messages.django_tasks import WrittenCall, function_of, is_django_task
from pytest_djcelery.messages.matching import ExpectedDjangoCall, expectation
from pytest_djcelery.messages.wire import called_with, shown

if TYPE_CHECKING:
    from typing import TypeAlias

    from celery.app.task import Task

    from pytest_djcelery.messages.django_tasks import DjangoTask
    from pytest_djcelery.messages.matching import Expectation
    from pytest_djcelery.messages.sent_task import SentTask

    AnyTask: TypeAlias = Task[Any, Any] | Signature | DjangoTask | str


class TaskSelection:
    """The messages of one task, or those of them whose call includes some arguments.

    Args:
        task: The task, or the name of one of Celery's.
        arguments: What the call has to include, by the names of the task's parameters.

    Raises:
        BadOptionError: ``task`` is not a task, or has no parameter of such a name.
    """

    def __init__(self, task: Any, arguments: Mapping[str, object]) -> None:
        self._task = task
        self.django_task = task if is_django_task(task) else None
        self._matches: Callable[[SentTask], bool]
        if self.django_task is not None:
            matcher = ExpectedDjangoCall(WrittenCall(task=task, kwargs={}))
            self._name, self._matches = str(task.module_path), matcher.matches
            self.text = repr(matcher.written)
        else:
            self._name = name = _name_of(task)
            self._matches = lambda message: message.task == name
            self.text = repr(name)
        self._some: SomeArguments | None = None
        if arguments:
            self._some = SomeArguments(self._name, self._function(), arguments)
            named = ", ".join(f"{key}={shown(value)}" for key, value in arguments.items())
            self.text = f"{self.text}, {named}"

    def __contains__(self, message: SentTask) -> bool:
        return self._matches(message) and (self._some is None or self._some.are_in(message))

    def called(self, call: Any) -> Expectation:
        """What a ``mock.call(…)`` means for this task."""
        args, kwargs = called_with(call)
        if self.django_task is not None:
            written = WrittenCall(task=self.django_task, args=args, kwargs=kwargs)
            return ExpectedDjangoCall(written)
        app = current_app if isinstance(self._task, str) else self._task.app
        return expectation(app.signature(self._name, args=args, kwargs=kwargs))

    def _function(self) -> Callable[..., object] | None:
        """The function of the task; ``None`` if the task isn't registered in this process."""
        if self.django_task is not None:
            return function_of(self.django_task)
        task = self._task
        if isinstance(task, (str, Signature)):
            app = task.app if isinstance(task, Signature) else current_app
            task = app.tasks.get(self._name)
        return getattr(task, "run", None)


def _name_of(task: Any) -> str:
    name = task if isinstance(task, str) else getattr(task, "name", None)
    if not isinstance(name, str) or isinstance(task, Queue):
        raise BadOptionError(
            f"of() takes a task or the name of one, got {shown(task)} ({type(task).__name__})"
        )
    return name
