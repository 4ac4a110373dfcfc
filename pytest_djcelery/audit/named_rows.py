"""Finds the row of a transaction that a message names: the surest sign of a race."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_djcelery.transactions.writes import Rows

_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_ENDINGS = ("_id", "_ids", "_pk", "_pks")


def row_named(message: Any, rows: Rows) -> str | None:
    """The row that the transaction wrote and that a message most likely names, in words.

    Keys are small numbers, and two models can have equal ones: the name of the argument decides,
    or else the name of the task.
    """
    found = [
        (argument, model)
        for argument in _arguments(message)
        for model in _models(argument.parameter, argument.value, rows)
    ]
    if not found:
        return None
    fitting = (argument for argument, model in found if _fits(argument.parameter, model))
    chosen = next(fitting, found[0][0])
    models = [model for argument, model in found if argument is chosen]
    models = (
        [model for model in models if _kind(model) == _plain(chosen.parameter)]
        or [model for model in models if _fits(chosen.parameter, model)]
        or [model for model in models if _kind(model) in _plain(message.task.rpartition(".")[2])]
        or models
    )
    return f"{' or '.join(dict.fromkeys(models))}, whose primary key is argument {chosen.shown}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Argument:
    shown: str  # as the call has it: its number, or its name
    parameter: str  # the parameter; ``""`` where it is not known
    value: Any


def _arguments(message: Any) -> Iterator[_Argument]:
    parameters = _parameters(message.task)
    for number, value in enumerate(message.args):
        parameter = parameters[number] if number < len(parameters) else ""
        yield _Argument(shown=str(number + 1), parameter=parameter, value=value)
    for name, value in message.kwargs.items():
        yield _Argument(shown=repr(name), parameter=str(name), value=value)


def _parameters(name: str) -> list[str]:
    """The names of a task's positional parameters, if its app knows it by now.

    ``_tasks`` is private: ``tasks`` would finalize the app. Checked on Celery 5.4 to 5.7.
    """
    app = sys.modules["celery._state"].get_current_app()
    task = dict.get(app._tasks, name) if app.finalized else None
    if task is None:
        return []
    try:
        found = signature(task.run).parameters.values()
    except (TypeError, ValueError):  # it has no signature
        return []
    return [parameter.name for parameter in found if parameter.kind in _POSITIONAL]


def _models(name: str, value: Any, rows: Rows) -> list[str]:
    models = [model for part in _flat(value) for model in rows.named_by(part)]
    if any(_fits(name, model) for model in models) or not _is_a_model(name):
        return models
    return []  # it is the key of another model's row


def _flat(value: Any) -> Iterable[Any]:
    # By their types: asking a lazy object for its class would evaluate it.
    if issubclass(type(value), dict):
        return value.values()  # type: ignore[no-any-return]  # mypy takes no type from issubclass
    return value if issubclass(type(value), list | tuple | set | frozenset) else (value,)


def _fits(name: str, model: str) -> bool:
    """Whether an argument is named after a model (``app.Model``): ``order_id`` fits an Order."""
    parameter, kind = _plain(name), _kind(model)
    return bool(parameter) and (parameter in kind or kind in parameter)


def _kind(model: str) -> str:
    return model.rpartition(".")[2].lower()


def _is_a_model(name: str) -> bool:
    """Whether an argument is named after one of the project's models."""
    apps = sys.modules["django.apps"].apps
    return _plain(name) in {model.__name__.lower() for model in apps.get_models()}


def _plain(name: str) -> str:
    if f"_{name}" in _ENDINGS:  # ``id`` names no model
        return ""
    for ending in _ENDINGS:
        name = name.removesuffix(ending)
    return name.replace("_", "").lower()
