"""The kinds of signatures, what they contain, and what is not a signature at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from celery.app.task import Task
from celery.canvas import Signature, _chain, _chord, chunks, group
from celery.result import ResultBase

from pytest_djcelery.errors import NotASignatureError
from pytest_djcelery.messages.task_code import short_code
from pytest_djcelery.messages.task_message import TaskMessage
from pytest_djcelery.messages.wire import is_wildcard, shown

CANVASES: Final = (_chain, _chord, group, chunks)
CANVAS_NAMES = ("chain", "chord", "chunks", "group")


def kind_of(signature: Signature) -> str:
    """``chain``, ``group``, ``chord``, ``chunks``, or ``task`` for a plain signature."""
    if isinstance(signature, chunks):
        return "chunks"  # Celery has no separate type for it
    return signature.subtask_type or "task"


def is_canvas(signature: Signature) -> bool:
    """Whether publishing it may send more than one message, or one of another task."""
    return isinstance(signature, CANVASES)


def first_task(written: Mapping[str, Any]) -> str | None:
    """The name of the task that is published first."""
    signature = as_signature(written)
    kwargs = signature.kwargs or {}
    if isinstance(signature, chunks):
        return "celery.starmap"
    if not is_canvas(signature):
        return str(signature["task"])
    members = kwargs.get("header" if isinstance(signature, _chord) else "tasks") or ()
    if isinstance(members, Mapping):
        return first_task(members)  # a frozen chord's header is a group
    names = (first_task(member) for member in members)
    found = next((name for name in names if name is not None), None)
    if found is None and isinstance(signature, _chord) and kwargs.get("body"):
        return first_task(kwargs["body"])
    return found


def signatures_of(name: str, value: object) -> list[Any]:
    """The signatures that an option holds, in the order in which they run."""
    if value is None:
        return []
    many = list(value) if isinstance(value, (list, tuple)) else [value]
    # The option ``chain`` is stored back to front; ``SentTask.chain`` is a tuple, in order.
    return many[::-1] if name == "chain" and isinstance(value, list) else many


def as_signature(value: Mapping[str, Any] | Signature) -> Signature:
    """Make a signature of what may be the plain dictionary that a serializer has left of one."""
    if isinstance(value, Signature):
        return value
    if isinstance(value, dict) and "task" in value:
        return Signature.from_dict(value)
    check_signature(value)
    raise NotASignatureError(f"expected a Celery signature, got {shown(value)}")


def with_options(signature: Signature, options: Mapping[str, Any]) -> Signature:
    """A copy with other options."""
    copy = Signature(dict(signature))
    vars(copy).update(vars(signature))
    copy.options = dict(options)
    return copy


def check_signature(written: object) -> None:
    """Refuse what can't be compared with a message.

    Raises:
        NotASignatureError: It is neither a signature, a message nor a wildcard; the text says
            what to write instead.
    """
    if isinstance(written, (Signature, TaskMessage)) or is_wildcard(written):
        return
    raise NotASignatureError(
        f"expected a Celery signature such as add.s(1, 2), got {shown(written)} "
        f"({type(written).__name__}).\n{_remedy(written)}"
    )


_REMEDIES: Final[tuple[tuple[Any, str], ...]] = (
    (
        ResultBase,
        (
            "This is a result: compare with the signature of the task that was sent, or look the "
            "outcome up with celery_results[result]."
        ),
    ),
    (
        str,
        (
            "For a task by name write signature('proj.tasks.add', args=(1, 2)) (from celery), or "
            "celery_outbox.of('proj.tasks.add') for all its messages."
        ),
    ),
    (Mapping, "For a signature that was serialized write celery.signature(the_dictionary)."),
    (
        (list, tuple),
        "Compare a list with the outbox itself: assert celery_outbox == [add.s(1, 2)].",
    ),
)


def _remedy(written: object) -> str:
    if isinstance(written, Task):
        short = short_code(str(written.name), written)
        return f"This is the task itself: call .s(...) with the arguments: {short}.s(...)."
    for kind, remedy in _REMEDIES:
        if isinstance(written, kind):
            return remedy
    if callable(written):
        name = getattr(written, "__name__", "function")
        return (
            f"This is not a task: {name} has no @shared_task or @app.task, or it was unwrapped. "
            f"With one, write {name}.s(...)."
        )
    return "Call .s(...) on the task with the arguments that you expect."
