"""Writes calls, messages, signatures and canvases as text, as a person would."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Protocol, TypeAlias

from celery import current_app
from celery.canvas import Signature

from pytest_djcelery.messages.django_tasks import (
    WrittenCall,
    django_task_at,
    own_call,
)
from pytest_djcelery.messages.option_rules import (
    BOOKKEEPING,
    SIGNATURES,
    ActualCall,
    entity_name,
)
from pytest_djcelery.messages.signature_types import CANVAS_NAMES, first_task, signatures_of
from pytest_djcelery.messages.task_code import code
from pytest_djcelery.messages.task_message import DjangoCall, Line, Message, Parallel, TaskMessage
from pytest_djcelery.messages.wire import Leaf, is_wildcard, shown

LONGEST_LIST = 10  # entries of a listing that a text shows
_KEYS_OF_SIGNATURE = frozenset({"task", "subtask_type"})


class StartedCanvas(Protocol):
    """A canvas that was started, by these messages."""

    messages: tuple[TaskMessage, ...]


Item: TypeAlias = TaskMessage | StartedCanvas  # of a listing


def call_text(task: str, args: Iterable[object], kwargs: Mapping[str, object]) -> str:
    """The call of a task's function: ``shop.tasks.ship(7, express=True)``."""
    return f"{task}({arguments_text(args, kwargs)})"


def message_text(message: Message) -> str:
    """The call of the function that a message runs: that of a Django task, not of its bridge."""
    return call_text(*own_call(message))


def enqueue_text(call: DjangoCall, *, partial: bool = False) -> str:
    """The code that enqueues a Django task: ``welcome.enqueue('ada')``, or a partial of it."""
    task = django_task_at(call.path)
    options = {} if task is None or call.run_after is None else {"run_after": call.run_after}
    if task is not None:
        changed = {name: getattr(call, name) for name in ("priority", "queue_name", "backend")}
        options |= {name: value for name, value in changed.items() if value != getattr(task, name)}
    named = ", ".join(f"{name}={_option_text(name, value)}" for name, value in options.items())
    method = f"{call.path.rpartition('.')[2]}{f'.using({named})' if named else ''}.enqueue"
    arguments = arguments_text(call.args, call.kwargs)
    if partial:
        return f"partial({', '.join(filter(None, (method, arguments)))})"
    return f"{method}({arguments})"


def arguments_text(args: Iterable[object], kwargs: Mapping[str, object]) -> str:
    """The text between the parentheses of a call."""
    return ", ".join(
        [
            *map(_argument_text, args),
            *(f"{name}={_argument_text(value)}" for name, value in kwargs.items()),
        ]
    )


def _argument_text(value: Any) -> str:
    # By its type: asking one of Django's lazy objects for its class would evaluate it.
    if issubclass(type(value), Mapping) and value.keys() >= _KEYS_OF_SIGNATURE:
        return describe_call(value)
    return shown(value)


def describe_call(call: object) -> str:
    """A message, or a signature, as a person writes it.

    Such as ``demoapp.tasks.send_email.s(1).set(queue='mail')`` or ``chain(a.s(1), b.s())``.
    """
    if isinstance(call, TaskMessage):
        if call.django_call is not None:
            module = call.django_call.path.rpartition(".")[0]
            return f"{module}.{enqueue_text(call.django_call)}"
        return f"{_code(call.task)}.s({arguments_text(call.args, call.kwargs)})"
    if isinstance(call, type) or is_wildcard(call) or not isinstance(call, (Signature, Mapping)):
        return shown(call)
    if "task" not in call:
        return shown(dict(call))
    kwargs = call.get("kwargs") or {}
    kind = call.get("subtask_type") or str(call["task"]).removeprefix("celery.")
    if kind not in CANVAS_NAMES:
        method = "si" if call.get("immutable") else "s"
        text = f"{_code(call['task'])}.{method}({arguments_text(call.get('args') or (), kwargs)})"
    elif kind == "chord":
        header = ", ".join(map(describe_call, _members(kwargs.get("header"))))
        text = f"chord([{header}], {describe_call(kwargs.get('body'))})"
    elif kind == "chunks":
        task = describe_call(kwargs["task"]).removesuffix(".s()")
        text = f"{task}.chunks({shown(kwargs['it'])}, {kwargs['n']})"
    else:
        text = f"{kind}({', '.join(map(describe_call, _members(kwargs['tasks'])))})"
    return text + _described_options(call.get("options") or {})


def _code(name: str) -> str:
    return code(name, current_app.tasks)


def describe_line(line: Line) -> str:
    """Steps that run one after the other."""

    def described(item: Any) -> str:
        if not isinstance(item, Parallel):
            return describe_call(item.source)
        members = ", ".join(describe_line(member) for member in item.members)
        return (
            f"chord([{members}], {describe_line(item.body)})" if item.body else f"group({members})"
        )

    if len(line) == 1:
        return described(line[0])
    return f"chain({', '.join(map(described, line))})"


def _members(tasks: Any) -> list[Any]:
    return list(tasks["kwargs"]["tasks"] if isinstance(tasks, Mapping) else tasks or ())


def _described_options(options: Mapping[str, Any]) -> str:
    given = [
        f"{name}={_option_text(name, value)}"
        for name, value in options.items()
        if name not in BOOKKEEPING
        and not (name in ("link", "link_error") and not value)
        # Freezing and publishing add these to a signature inside a message.
        and not (name in ("task_id", "add_to_parent") and "reply_to" in options)
    ]
    return f".set({', '.join(given)})" if given else ""


def describe_difference(
    found: Leaf, options: Mapping[str, Any], actual: ActualCall
) -> tuple[str, str]:
    """The two values of an option that differ: as the test wrote it, and as it was sent."""
    if found.path not in options:  # a header, by its name
        return shown(found.expected), shown(found.actual)
    return (
        _option_text(found.path, found.expected),
        _sent_text(found.path, found.actual, options, actual),
    )


def _option_text(name: str, value: object) -> str:
    if is_wildcard(value):
        return shown(value)
    if name in SIGNATURES:
        if isinstance(value, (list, tuple)):
            items: Iterable[Any] = signatures_of(name, value)
            return f"[{', '.join(describe_call(item) for item in items)}]"
        return describe_call(value) if isinstance(value, Signature) else shown(value)
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    return shown(entity_name(value))


def _sent_text(name: str, found: object, options: Mapping[str, Any], actual: ActualCall) -> str:
    if name == "countdown" and isinstance(found, float):
        return f"{round(found, 3 if actual.exact_times else 1):g}"
    in_seconds = isinstance(options.get(name), (int, float))
    if name == "expires" and in_seconds and isinstance(found, datetime) and actual.sent_at:
        return f"{round((found - actual.sent_at).total_seconds(), 1):g}"
    if name in ("routing_key", "exchange") and actual.option("exchange") == "":
        # amqp.send_task_message: without both, Celery only uses the queue.
        return (
            f"{_option_text(name, found)} (Celery publishes straight to the queue unless both "
            "exchange and routing_key are set)"
        )
    return _option_text(name, found)


def describe_entry(item: Item) -> str:
    """A message or a canvas, as ``repr`` of a listing shows it."""
    return describe_call(item) if isinstance(item, TaskMessage) else repr(item)


def describe_item(item: Item) -> str:
    """A message or a canvas, with the place and the situation in which it was sent."""
    message = message_of(item)
    when = {
        "on_commit": "by an on_commit hook",
        "atomic": "inside an open transaction",
        "autocommit": "outside any transaction",
    }[message.transaction]
    where = f"{message.location}, " if message.location else ""
    return f"{describe_entry(item)}  ({where}{when})"


def message_of(item: Item) -> TaskMessage:
    """The message itself; for a canvas, the first message that was sent for it."""
    return item if isinstance(item, TaskMessage) else item.messages[0]


def task_name(call: object) -> str | None:
    """The task of a message or signature; for a canvas, the task of its first step."""
    if isinstance(call, Mapping):
        return first_task(call)
    if isinstance(call, TaskMessage) or hasattr(call, "messages"):
        item: Any = call
        return own_call(message_of(item)).name
    if isinstance(call, WrittenCall):
        return call.path
    return None
