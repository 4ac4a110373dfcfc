"""The models of tasks that validate their arguments (``pydantic=True``), as JSON schemas.

A message of the old release fits the old schema; whether it fits the new one is answered by
comparing the two: each value that the one allows, the other has to allow.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

_OF_A_READER: Final = frozenset({"title", "description", "examples", "default", "deprecated"})
# A larger upper limit allows more, as does a smaller lower one.
_UPPER: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_LOWER: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_EQUAL: Final = ("pattern", "format", "multipleOf", "uniqueItems", "const")
_NUMBERS: Final = {"integer": "number"}  # each of the first is one of the second
_DEEPEST: Final = 30  # models may contain themselves


def schemas_of(task: Any) -> dict[str, Mapping[str, Any]]:
    """The schema of each parameter that a task validates by a model, by name."""
    function = _validated_function(task)
    if function is None:
        return {}
    hints: Mapping[str, Any] = getattr(function, "__annotations__", {})
    with suppress(NameError, AttributeError, TypeError):  # as Celery does
        hints = typing.get_type_hints(function)
    found = {}
    for name, annotation in hints.items():
        model = _model(annotation)
        if model is not None and name != "return":
            found[name] = _without_prose(model.model_json_schema())
    return found


def _validated_function(task: Any) -> Any:
    """The function whose arguments Celery validates.

    Nothing marks such a task. Celery's wrapper (``celery.app.base.pydantic_wrapper``) is known by
    where its code is; checked on Celery 5.4 to 5.7.
    """
    from celery.app import base

    run = task.run
    while run is not None:
        code = getattr(run, "__code__", None)
        if code is not None and code.co_filename == base.__file__:
            return run.__wrapped__
        run = getattr(run, "__wrapped__", None)
    return None


def _model(annotation: Any) -> Any:
    """The model that an annotation names, also as an optional one."""
    kinds = [kind for kind in typing.get_args(annotation) if kind is not type(None)]
    if len(kinds) == 1 and len(typing.get_args(annotation)) > 1:
        annotation = kinds[0]
    is_class = isinstance(annotation, type)
    return annotation if is_class and hasattr(annotation, "model_json_schema") else None


def _without_prose(schema: Any, *, names: bool = False) -> Any:
    """A schema without what only people read.

    Args:
        schema: A part of a schema.
        names: Whether its keys are the names of properties or of models.
    """
    if isinstance(schema, Mapping):
        return {
            key: _without_prose(value, names=key in ("properties", "$defs") and not names)
            for key, value in schema.items()
            if names or key not in _OF_A_READER
        }
    if isinstance(schema, list):
        return [_without_prose(item) for item in schema]
    return schema


class Comparison:
    """Compares what is sent, by the schema of the sender, with what is taken.

    Args:
        sent: The schema of the release that sends.
        taken: The schema of the release that runs it.
    """

    def __init__(self, sent: Mapping[str, Any], taken: Mapping[str, Any]) -> None:
        self._sent = sent
        self._taken = taken

    def refusals(self) -> list[str]:
        """What the second refuses of what the first allows, in words."""
        return list(dict.fromkeys(self._between(self._sent, self._taken, "", 0)))

    def _between(self, sent: Any, taken: Any, path: str, depth: int) -> Iterator[str]:
        sent, taken = _resolved(sent, self._sent), _resolved(taken, self._taken)
        if depth > _DEEPEST or not taken or taken is True:
            return
        alternatives = _alternatives(sent)
        if len(alternatives) > 1:
            for alternative in alternatives:
                yield from self._between(alternative, taken, path, depth + 1)
            return
        choices = _alternatives(taken)
        if len(choices) > 1:
            found = [[*self._between(sent, choice, path, depth + 1)] for choice in choices]
            if all(found):
                yield min(found, key=len)[0]
            return
        yield from self._of_type(sent, taken, path)
        yield from _of_limits(sent, taken, path)
        yield from self._of_properties(sent, taken, path, depth)
        if "items" in taken:
            yield from self._between(sent.get("items", {}), taken["items"], f"{path}[]", depth + 1)
        values = taken.get("additionalProperties")
        if isinstance(values, Mapping) and isinstance(sent.get("additionalProperties"), Mapping):
            yield from self._between(sent["additionalProperties"], values, f"{path}.*", depth + 1)

    def _of_type(self, sent: Any, taken: Any, path: str) -> Iterator[str]:
        before, now = sent.get("type"), taken.get("type")
        if now is not None and before != now and _NUMBERS.get(str(before)) != now:
            yield f"{_shown(path)} was {before or 'anything'}, and has to be {now}"
        elif "enum" in taken:
            allowed = sent.get("enum", [sent["const"]] if "const" in sent else None)
            if allowed is None:
                yield f"{_shown(path)} has to be one of a few values"
            elif refused := [value for value in allowed if value not in taken["enum"]]:
                yield f"{_shown(path)} may not be {' or '.join(map(repr, refused))} any more"

    def _of_properties(self, sent: Any, taken: Any, path: str, depth: int) -> Iterator[str]:
        before, now = sent.get("properties", {}), taken.get("properties", {})
        required = sent.get("required", ())
        for name in taken.get("required", ()):
            if name not in before:
                yield f"{_shown(f'{path}.{name}')} is required, and was not there"
            elif name not in required:
                yield f"{_shown(f'{path}.{name}')} is required, and could be left out"
        for name, schema in before.items():
            if name in now:
                yield from self._between(schema, now[name], f"{path}.{name}", depth + 1)
            elif taken.get("additionalProperties") is False:
                yield f"{_shown(f'{path}.{name}')} is not allowed any more"


def _of_limits(sent: Any, taken: Any, path: str) -> Iterator[str]:
    for name in (*_UPPER, *_LOWER, *_EQUAL):
        before, now = sent.get(name), taken.get(name)
        if now is None or now == before:
            continue
        looser = before is not None and (
            (name in _UPPER and now > before) or (name in _LOWER and now < before)
        )
        if not looser:
            yield f"{_shown(path)} has a tighter {name}: {now}"


def _alternatives(schema: Any) -> list[Any]:
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return list(schema[key])
    return [schema]


def _resolved(schema: Any, root: Mapping[str, Any]) -> Any:
    """What a schema refers to."""
    for _ in range(_DEEPEST):
        if not isinstance(schema, Mapping) or "$ref" not in schema:
            break
        schema = root.get("$defs", {}).get(str(schema["$ref"]).rpartition("/")[2], {})
    return {} if schema is True else schema


def _shown(path: str) -> str:
    return path.lstrip(".") or "the value"
