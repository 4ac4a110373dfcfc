"""What this code publishes and runs, as a worker knows it that starts with it."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
import warnings
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from pytest_djcelery import locations
from pytest_djcelery.contract.model_schemas import schemas_of
from pytest_djcelery.contract.records import Contract, TaskParameter, TaskRecord
from pytest_djcelery.errors import AppNotFoundError, DjceleryError
from pytest_djcelery.messages.arguments import signature_of
from pytest_djcelery.messages.django_tasks import django_task_at, function_of
from pytest_djcelery.project import consumed_queues
from pytest_djcelery.project.derived import queues_restored
from pytest_djcelery.project.registry import is_of_test

if TYPE_CHECKING:
    from celery import Celery

#: Celery's own tasks, and those of Django's own apps: no team renames them.
_LEFT_OUT: Final = ("celery", "django")


@dataclass(frozen=True, slots=True, kw_only=True)
class BeatEntry:
    """An entry of the periodic schedule."""

    name: str
    task: str
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any]

    @property
    def place(self) -> str:
        """Who sends its messages."""
        return f"the beat entry {self.name!r}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundElsewhere:
    """Where the function of a task that is gone is now: its code, and the task that it makes."""

    code: str
    task: str


class Release:
    """The tasks, queues and schedule of this code.

    Args:
        app: The project's app, once a worker's modules are imported.
        suite: The files of the tests.
        include: Patterns of the names of tasks that are part of the contract in any case.
    """

    def __init__(self, app: Celery, suite: Container[str], include: Collection[str]) -> None:
        self.app = app
        tasks: dict[str, Any] = dict(app.tasks)
        # What is known now: tests that run later register theirs.
        self._tasks = {name: task for name, task in tasks.items() if not _of_suite(task, suite)}
        self.names = frozenset(
            name for name, task in self._tasks.items() if _is_part(name, task, include)
        )
        self._records: dict[str, TaskRecord] = {}

    def knows(self, name: str) -> bool:
        """Whether a worker would run a task of this name, of Celery's or of Django's."""
        return name in self._tasks or self.has_django_task(name)

    def has_django_task(self, name: str) -> bool:
        """Whether a task of `django.tasks` has this path."""
        return name not in self._tasks and _django_task(name) is not None

    def record(self, name: str) -> TaskRecord:
        """What is published about a task that is known."""
        if name not in self._records and name not in self._tasks:
            self._records[name] = _django_record(_django_task(name))
        if name not in self._records:
            with queues_restored(self.app):
                self._records[name] = _record(self.app, name, self._tasks[name])
        return self._records[name]

    def found_elsewhere(
        self, name: str, old: TaskRecord, recorded: Container[str]
    ) -> FoundElsewhere | None:
        """The task that has taken the place of one that is gone, if that can be seen.

        Args:
            name: The name of the one that is gone.
            old: What is recorded of it.
            recorded: The names of all tasks that are recorded.
        """
        module, _, function = (old.function or name).rpartition(".")
        new = [each for each in sorted(self.names) if each not in recorded]
        found = {each: self.record(each).function or each for each in new}
        same_code = [each for each in new if found[each] == f"{module}.{function}"]
        same_name = [each for each in new if found[each].rpartition(".")[2] == function]
        same_place = [
            each
            for each in new
            if found[each].rpartition(".")[0] == module
            and self.record(each).parameters == old.parameters
        ]
        for likely in (same_code, same_name, same_place):
            if len(likely) == 1:
                return FoundElsewhere(code=found[likely[0]], task=likely[0])
        return None

    def contract(self) -> Contract:
        """Everything that is published, without a message."""
        return Contract(
            tasks={name: self.record(name) for name in sorted(self.names)}, queues=self.queues
        )

    @cached_property
    def queues(self) -> tuple[str, ...]:
        """The names of the queues that the app declares."""
        return consumed_queues.declared_names(self.app)

    @cached_property
    def accepted(self) -> frozenset[str]:
        """The content types that a worker accepts."""
        from kombu.serialization import prepare_accept_content

        return frozenset(prepare_accept_content(self.app.conf.accept_content) or ())

    @property
    def keeps_schedule_in_database(self) -> bool:
        """Whether django-celery-beat is installed in the project."""
        registry = sys.modules.get("django.apps")
        return (
            registry is not None
            and registry.apps.apps_ready
            and registry.apps.is_installed("django_celery_beat")
        )

    def beat_entries(self) -> Iterator[BeatEntry]:
        """The entries of the settings."""
        for name, entry in dict(self.app.conf.beat_schedule or {}).items():
            fields = entry if isinstance(entry, Mapping) else vars(entry)
            if isinstance(fields.get("task"), str):
                yield BeatEntry(
                    name=str(name),
                    task=fields["task"],
                    args=tuple(fields.get("args") or ()),
                    kwargs=dict(fields.get("kwargs") or {}),
                )


def content_type_of(serializer: str) -> str:
    """The content type of a serializer; its own name if kombu does not know it."""
    from kombu.serialization import registry

    return str(registry.name_to_type.get(serializer, serializer))


def begin_release(app: Celery, suite: Container[str], include: Collection[str]) -> Release:
    """Import what a worker imports, and see what is there.

    Raises:
        AppNotFoundError: Another app has tasks too, and nothing says which is meant.
        DjceleryError: A module of tasks can't be imported.
    """
    try:
        with warnings.catch_warnings():
            # Where the suite makes them errors, they end no worker.
            warnings.simplefilter("default")
            app.loader.import_default_modules()
            app.finalize()
    except Exception as error:
        msg = (
            "--djcelery-contract imports what a worker imports, and that failed: "
            f"{type(error).__name__}: {error}"
        )
        raise DjceleryError(msg) from error
    return Release(app, suite, include)


def check_one_app(app: Celery, suite: Container[str]) -> None:
    """Check that no other app of the project has its own tasks.

    Private API (``celery._state._get_active_apps``, ``Celery._tasks`` and ``_pending``), checked
    on Celery 5.4 to 5.7.

    Raises:
        AppNotFoundError: One has, so a contract of this app alone would leave them out.
    """
    from celery import _state

    known = set(app.tasks)
    for other in _state._get_active_apps():
        if other is app or not _has_tasks(other, known, suite):
            continue
        msg = (
            f"There are two Celery apps with tasks, {_named(app)} and {_named(other)}, and a "
            "contract is that of one app.\nName the one with djcelery_app (ini) or "
            "--djcelery-app; for the other, run again with a file of its own: "
            "-o djcelery_contract_file=…"
        )
        raise AppNotFoundError(msg)


def _has_tasks(app: Any, known: Container[str], suite: Container[str]) -> bool:
    if not app.finalized and not any(_is_projects(pending, suite) for pending in app._pending):
        return False  # finalizing it would make it part of the process
    return any(
        name not in known and _is_part(name, task, ()) and not _of_suite(task, suite)
        for name, task in dict(app.tasks).items()
    )


def _is_projects(pending: Any, suite: Container[str]) -> bool:
    """Whether a task that is not made yet is of the project, by the function it is made of."""
    arguments = object.__getattribute__(pending, "_Proxy__args") or ()
    code = getattr(arguments[0], "__code__", None) if arguments else None
    return code is not None and code.co_filename not in suite


def _named(app: Any) -> str:
    from celery.app.utils import appstr

    return str(appstr(app))


def _is_part(name: str, task: Any, include: Collection[str]) -> bool:
    if any(fnmatchcase(name, pattern) for pattern in include):
        return True
    module = str(getattr(task, "__module__", ""))
    tops = name.partition(".")[0], module.partition(".")[0]
    return not any(top in _LEFT_OUT for top in tops)


def _of_suite(task: Any, suite: Container[str]) -> bool:
    if is_of_test(task):
        return True
    path = _file_of(task)
    return path is not None and (path in suite or locations.in_suite(path))


def _file_of(task: Any) -> str | None:
    code = getattr(inspect.unwrap(task.run), "__code__", None)
    if code is not None:
        return str(code.co_filename)
    return getattr(sys.modules.get(type(task).__module__), "__file__", None)


def _record(app: Celery, name: str, task: Any) -> TaskRecord:
    options = {
        key: value
        for key in ("queue", "exchange", "routing_key")
        if (value := getattr(task, key, None)) is not None
    }
    routed: Mapping[str, Any] = options
    # A router of the project may want the arguments of a call.
    with suppress(Exception):
        routed = app.amqp.router.route(dict(options), name, (), {}, task)
    function = _function(task)
    return TaskRecord(
        parameters=_parameters(task),
        queue=_queue(app, routed),
        serializer=str(
            routed.get("serializer") or task.serializer or app.conf.task_serializer or "json"
        ),
        function=None if function == name else function,
        has_self=not _is_plain_function(task),
    )


def _django_task(path: str) -> Any:
    """The task of `django.tasks` at a path, which is imported as the worker of a bridge does."""
    if "django.tasks.base" not in sys.modules or "." not in path:
        return None
    with suppress(ImportError):
        importlib.import_module(path.rpartition(".")[0])
    return django_task_at(path)


def _django_record(task: Any) -> TaskRecord:
    """What is published about a task of `django.tasks`; its queue is an affair of its backend."""
    signature = inspect.signature(function_of(task))
    parameters = [TaskParameter.of(each, None) for each in signature.parameters.values()]
    return TaskRecord(parameters=tuple(parameters), queue=None, serializer="json", is_django=True)


def _queue(app: Celery, routed: Mapping[str, Any]) -> str | None:
    queue = routed.get("queue")
    if queue is None:
        if routed.get("exchange") is not None:
            return None  # it depends on the bindings
        queue = app.conf.task_default_queue
    return str(getattr(queue, "alias", None) or getattr(queue, "name", queue))


def _function(task: Any) -> str:
    run = inspect.unwrap(task.run)
    run = getattr(run, "__func__", run)
    if not _is_decorated(task):
        return f"{type(task).__module__}.{type(task).__qualname__}"
    return f"{run.__module__}.{run.__qualname__}"


def _is_decorated(task: Any) -> bool:
    """Whether a task was made of a function; private: ``_decorated``, Celery 5.4 to 5.7."""
    return bool(getattr(type(task), "_decorated", False))


def _is_plain_function(task: Any) -> bool:
    is_method = inspect.ismethod(task.run) or inspect.ismethod(inspect.unwrap(task.run))
    return _is_decorated(task) and not is_method


def _parameters(task: Any) -> tuple[TaskParameter, ...] | None:
    try:
        found = signature_of(task.run)
    except (TypeError, ValueError):
        return None
    schemas = schemas_of(task)
    return tuple(
        TaskParameter.of(parameter, schemas.get(parameter.name))
        for parameter in found.parameters.values()
    )


def entries_of_database() -> list[BeatEntry]:
    """The entries of django-celery-beat, as the migrations have left them."""
    from django_celery_beat.models import PeriodicTask

    rows = PeriodicTask.objects.filter(enabled=True).order_by("name")
    found = []
    for name, task, args, kwargs in rows.values_list("name", "task", "args", "kwargs"):
        with suppress(ValueError):  # beat itself disables such a row
            entry = BeatEntry(
                name=name, task=task, args=json.loads(args), kwargs=json.loads(kwargs)
            )
            found.append(entry)
    return found
