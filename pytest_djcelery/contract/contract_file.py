"""Reads and writes ``celery-contract.json``, the same to the byte whatever the order of tests."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from pytest_djcelery.contract.records import (
    KINDS,
    Contract,
    Parameters,
    Shape,
    TaskParameter,
    TaskRecord,
)
from pytest_djcelery.errors import ContractFileError

FORMAT: Final = 1
_REMEDY = "Take it from version control again, or write it anew with --djcelery-contract=rewrite."


def read(path: str, shown: str) -> Contract:
    """Read a contract.

    Args:
        path: The file.
        shown: Its path, for a text.

    Raises:
        ContractFileError: It is missing, damaged, of a newer format, or retires without a reason.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError:
        msg = (
            f"There is no contract at {shown}.\nWrite the first one with "
            "--djcelery-contract=update on the code of the release that is deployed, and commit it."
        )
        raise ContractFileError(msg) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ContractFileError(f"{shown} can't be read: {error}.\n{_REMEDY}") from None
    try:
        written = json.loads(text)
    except ValueError as error:
        raise ContractFileError(f"{shown} is damaged: {error}.\n{_REMEDY}") from None
    return _contract(written, shown)


def _contract(written: Any, shown: str) -> Contract:
    version = written.get("format") if isinstance(written, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        msg = (
            f'{shown} is damaged: expected an object with "format": {FORMAT}, '
            f"found {_short(version if isinstance(written, dict) else written)}.\n{_REMEDY}"
        )
        raise ContractFileError(msg)
    if version > FORMAT:
        msg = (
            f"{shown} has format {version}, and this release of pytest-djcelery reads up to "
            f"{FORMAT}.\nUpgrade pytest-djcelery to the release that wrote it."
        )
        raise ContractFileError(msg)
    retired = _retired(written.get("retired", {}), shown)
    try:
        return Contract(
            tasks={name: _task(task) for name, task in written["tasks"].items()},
            queues=tuple(sorted(map(_text_of, written["queues"]))),
            retired=retired,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise ContractFileError(f"{shown} is damaged: {problem}.\n{_REMEDY}") from None


def _retired(written: Any, shown: str) -> Mapping[str, str]:
    if not isinstance(written, dict):
        msg = (
            f'{shown}: "retired" is {_short(written)}; expected an object such as '
            '{"shop.tasks.ship": "the reason"}.'
        )
        raise ContractFileError(msg)
    for key, reason in written.items():
        if not isinstance(reason, str) or not reason.strip():
            msg = (
                f'{shown}: "retired" has {key!r} with {_short(reason)} as its reason.\n'
                "Write why no message of the old release can break any more, for those who read "
                "it later."
            )
            raise ContractFileError(msg)
    return written


def _task(written: Mapping[str, Any]) -> TaskRecord:
    parameters = written["parameters"]
    function = written.get("function")
    return TaskRecord(
        parameters=None if parameters is None else tuple(map(_parameter, parameters)),
        queue=None if written["queue"] is None else _text_of(written["queue"]),
        serializer=_text_of(written["serializer"]),
        function=None if function is None else _text_of(function),
        has_self=bool(written.get("self", False)),
        is_django=bool(written.get("django", False)),
        sent={_shape(shape): shape["from"] for shape in written["sent"]},
    )


def _parameter(written: Mapping[str, Any]) -> TaskParameter:
    kind = written.get("kind", "positional or keyword")
    schema = written.get("schema")
    return TaskParameter(
        name=_text_of(written["name"]),
        kind=KINDS[KINDS.index(kind)],
        has_default=bool(written.get("default", False)),
        schema=None if schema is None else dict(schema),
    )


def _shape(written: Mapping[str, Any]) -> Shape:
    return Shape(
        args=tuple(map(_positional, written["args"])),
        kwargs=tuple(sorted((name, _text_of(kind)) for name, kind in written["kwargs"].items())),
        way="error link" if written.get("as") == "error link" else "call",
        serializer=written.get("serializer"),
    )


def _positional(written: str) -> tuple[str, str]:
    name, colon, kind = written.partition(": ")
    return (name, kind) if colon else ("", written)


def _text_of(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, found {_short(value)}")
    return value


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004 - characters


# Writing ------------------------------------------------------------------------------------


def write(path: str, contract: Contract) -> bool:
    """Write a contract, as a whole or not at all; whether that changed the file."""
    text = text_of(contract)
    with suppress(OSError, UnicodeDecodeError), open(path, encoding="utf-8", newline="") as file:
        if file.read() == text:
            return False
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    descriptor, beside = tempfile.mkstemp(prefix=".celery-contract-", dir=folder)
    try:
        with open(descriptor, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        mode = os.stat(path).st_mode if os.path.exists(path) else 0o666 & ~_umask()
        os.chmod(beside, mode)
        os.replace(beside, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(beside)
        raise
    return True


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def text_of(contract: Contract) -> str:
    """The text of the file."""
    written: dict[str, Any] = {"format": FORMAT, "queues": sorted(contract.queues)}
    if contract.retired:
        written["retired"] = dict(sorted(contract.retired.items()))
    written["tasks"] = {name: _task_written(task) for name, task in sorted(contract.tasks.items())}
    return _json(written, "") + "\n"


def _task_written(task: TaskRecord) -> dict[str, Any]:
    written: dict[str, Any] = {} if task.function is None else {"function": task.function}
    sent = [_shape_written(shape, task.sent[shape]) for shape in sorted(task.sent, key=_order)]
    return {
        **({"django": True} if task.is_django else {}),
        **written,
        "parameters": _parameters_written(task.parameters),
        "queue": task.queue,
        **({"self": True} if task.has_self else {}),
        "sent": sent,
        "serializer": task.serializer,
    }


def _order(shape: Shape) -> tuple[Any, ...]:
    return shape.args, shape.kwargs, shape.way, shape.serializer or ""


class _Line(dict[str, Any]):
    """An object that is written on one line, so that a change of it is one line of a diff."""


def _parameters_written(parameters: Parameters | None) -> list[Any] | None:
    return None if parameters is None else [_parameter_written(each) for each in parameters]


def _parameter_written(parameter: TaskParameter) -> dict[str, Any]:
    written = _Line(name=parameter.name, kind=parameter.kind, default=parameter.has_default)
    if parameter.schema is None:
        return written
    return {**written, "schema": _sorted(parameter.schema)}


def _shape_written(shape: Shape, place: str | None) -> _Line:
    written = _Line(
        args=[f"{name}: {kind}" if name else kind for name, kind in shape.args],
        kwargs=dict(shape.kwargs),
    )
    if shape.way != "call":
        written["as"] = shape.way
    if shape.serializer is not None:
        written["serializer"] = shape.serializer
    written["from"] = place
    return written


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _sorted(value[name]) for name in sorted(value)}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_sorted(item) for item in value]
    return value


def _json(value: Any, indent: str) -> str:
    deeper = f"{indent}  "
    if value and type(value) is dict:
        lines = [f"{json.dumps(name)}: {_json(value[name], deeper)}" for name in value]
        return f"{{\n{deeper}" + f",\n{deeper}".join(lines) + f"\n{indent}}}"
    if value and type(value) is list:
        lines = [_json(item, deeper) for item in value]
        return f"[\n{deeper}" + f",\n{deeper}".join(lines) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False)
