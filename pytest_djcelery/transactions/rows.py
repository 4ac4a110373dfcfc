"""The primary keys of the rows that a transaction has written."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from uuid import UUID

#: Types of primary keys. Other values are left alone: to ask one for its text, or for its class,
#: could run code of the project's, and queries.
_PLAIN = (int, str, Decimal, UUID)


class Rows:
    """Knows rows by their primary keys, as keys or as the text that a message has of them."""

    def __init__(self) -> None:
        self._models: dict[str, dict[str, None]] = {}  # whose rows have this key

    def add(self, model: Any, key: Any) -> None:
        """Note a row that was written."""
        for text in _texts(key):
            self._models.setdefault(text, {}).update(dict.fromkeys(_labels(model)))

    def named_by(self, value: Any) -> list[str]:
        """The models of the rows that a value of a message names, or is."""
        if not _is_row(value):
            return [model for key in _texts(value)[:1] for model in self._models.get(key, ())]
        model = value._meta.label
        return [model for key in _texts(value.pk)[:1] if model in self._models.get(key, ())]


def _labels(model: Any) -> Iterator[str]:
    """A model, and those whose row the same key names: of a proxy, and of what it inherits."""
    while True:
        yield model._meta.label
        if model._meta.proxy:
            model = model._meta.concrete_model
        elif getattr(model._meta.pk.remote_field, "parent_link", False):
            model = model._meta.pk.remote_field.model
        else:
            return


def _texts(key: Any) -> list[str]:
    if type(key) not in _PLAIN:
        return []
    return [str(key), key.hex] if type(key) is UUID else [str(key)]


def _is_row(value: Any) -> bool:
    models = sys.modules.get("django.db.models")
    return models is not None and issubclass(type(value), models.Model)
