"""Which row of a transaction a message names: the surest sign that it must not overtake it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_djcelery.transactions.rows import Rows

_ENDINGS = ("_id", "_ids", "_pk", "_pks")


def row_named(message: Any, rows: Rows) -> str | None:
    """The row that the transaction wrote and that a message most likely names, in words.

    Keys are small numbers, and two models can have the same: what an argument is called decides.
    """
    found = [
        (name, each) for name, value in _arguments(message) for each in _models(name, value, rows)
    ]
    if not found:
        return None
    argument, _ = next((each for each in found if _fits(*each)), found[0])
    models = [model for name, model in found if name == argument]
    models = (
        [each for each in models if _kind(each) == _plain(argument)]
        or [each for each in models if _fits(argument, each)]
        or models
    )
    shown = f"argument {argument!r}" if isinstance(argument, str) else f"argument {argument}"
    return f"{' or '.join(dict.fromkeys(models))}, whose primary key is {shown}"


def _arguments(message: Any) -> Iterator[tuple[int | str, Any]]:
    yield from enumerate(message.args, 1)
    yield from message.kwargs.items()


def _models(name: int | str, value: Any, rows: Rows) -> list[str]:
    models = [model for each in _flat(value) for model in rows.named_by(each)]
    if any(_fits(name, each) for each in models) or not _is_a_model(name):
        return models
    return []  # it is the key of a row of another model


def _flat(value: Any) -> Iterable[Any]:
    # By their types: to ask a lazy object for its class would have it made.
    if issubclass(type(value), dict):
        return value.values()  # type: ignore[no-any-return]  # mypy takes no type from issubclass
    return value if issubclass(type(value), list | tuple | set | frozenset) else (value,)


def _fits(name: int | str, model: str) -> bool:
    """Whether an argument is called as a model (``app.Model``) is: ``order_id`` fits an Order."""
    called, kind = _plain(name), _kind(model)
    return bool(called) and (called in kind or kind in called)


def _kind(model: str) -> str:
    return model.rpartition(".")[2].lower()


def _is_a_model(name: int | str) -> bool:
    """Whether an argument is called as one of the project's models."""
    apps = sys.modules["django.apps"].apps
    return _plain(name) in {model.__name__.lower() for model in apps.get_models()}


def _plain(name: int | str) -> str:
    if isinstance(name, int):
        return ""
    for ending in _ENDINGS:
        name = name.removesuffix(ending)
    return name.replace("_", "").lower()
