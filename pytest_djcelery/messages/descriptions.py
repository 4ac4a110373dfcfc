"""Messages, signatures and listings as a person writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pytest_djcelery.messages.task_code import code

if TYPE_CHECKING:
    from pytest_djcelery.messages.canvas import CanvasEntry
    from pytest_djcelery.messages.canvas_form import Line
    from pytest_djcelery.messages.listing import Listing
    from pytest_djcelery.messages.sent_task import SentTask

LONGEST_LIST = 10  # entries of a listing that a text shows


def describe_call(call: object) -> str:
    """A message, or a signature, as a person writes it.

    Such as ``demoapp.tasks.send_email.s(1).set(queue='mail')`` or ``chain(a.s(1), b.s())``.
    """
    from celery.canvas import Signature

    from pytest_djcelery.messages.canvas_form import CANVAS_NAMES
    from pytest_djcelery.messages.sent_task import SentTask
    from pytest_djcelery.messages.wire import is_wildcard, shown

    if isinstance(call, SentTask):
        return f"{_code(call.task)}.s({_arguments(call.args, call.kwargs)})"
    if isinstance(call, type) or is_wildcard(call) or not isinstance(call, (Signature, Mapping)):
        return shown(call)
    if "task" not in call:
        return shown(dict(call))
    kwargs = call.get("kwargs") or {}
    kind = call.get("subtask_type") or str(call["task"]).removeprefix("celery.")
    if kind not in CANVAS_NAMES:
        method = "si" if call.get("immutable") else "s"
        text = f"{_code(call['task'])}.{method}({_arguments(call.get('args') or (), kwargs)})"
    elif kind == "chord":
        header = ", ".join(describe_call(each) for each in _members(kwargs.get("header")))
        text = f"chord([{header}], {describe_call(kwargs.get('body'))})"
    elif kind == "chunks":
        task = describe_call(kwargs["task"]).removesuffix(".s()")
        text = f"{task}.chunks({shown(kwargs['it'])}, {kwargs['n']})"
    else:
        text = f"{kind}({', '.join(describe_call(each) for each in _members(kwargs['tasks']))})"
    return text + _described_options(call.get("options") or {})


def _code(name: str) -> str:
    from celery import current_app

    return code(name, current_app.tasks)


def describe_line(line: Line) -> str:
    """Steps that run one after the other."""
    from pytest_djcelery.messages.canvas_form import Parallel

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


def describe_listing(listing: Listing[Any]) -> str:
    """A short listing for ``repr``."""
    items = list(listing.items())
    more = f", … {len(items) - LONGEST_LIST} more" if len(items) > LONGEST_LIST else ""
    calls = ", ".join(_call_of(item) for item in items[:LONGEST_LIST])
    return f"<{listing.description}: [{calls}{more}]>"


def _arguments(args: Iterable[object], kwargs: Mapping[str, object]) -> str:
    from pytest_djcelery.messages.wire import shown

    def text(value: object) -> str:
        is_signature = isinstance(value, Mapping) and {"task", "subtask_type"} <= value.keys()
        return describe_call(value) if is_signature else shown(value)

    return ", ".join([*map(text, args), *(f"{key}={text(value)}" for key, value in kwargs.items())])


def _members(tasks: Any) -> list[Any]:
    return list(tasks["kwargs"]["tasks"] if isinstance(tasks, Mapping) else tasks or ())


def _described_options(options: Mapping[str, Any]) -> str:
    from pytest_djcelery.messages.option_rules import BOOKKEEPING, option_text

    given = [
        f"{name}={option_text(name, value)}"
        for name, value in options.items()
        if name not in BOOKKEEPING
        and not (name in ("link", "link_error") and not value)
        # What freezing and publishing gave to a signature inside a message.
        and not (name in ("task_id", "add_to_parent") and "reply_to" in options)
    ]
    return f".set({', '.join(given)})" if given else ""


def _call_of(item: SentTask | CanvasEntry) -> str:
    from pytest_djcelery.messages.sent_task import SentTask

    return describe_call(item) if isinstance(item, SentTask) else repr(item)


def describe_item(item: SentTask | CanvasEntry) -> str:
    """A message, with what it stands for in a listing: where it was sent, and when."""
    from pytest_djcelery.messages.sent_task import SentTask

    message = item if isinstance(item, SentTask) else item.messages[0]
    when = {
        "on_commit": "by an on_commit hook",
        "atomic": "inside an open transaction",
        "autocommit": "outside any transaction",
    }[message.transaction]
    where = f"{message.location}, " if message.location else ""
    return f"{_call_of(item)}  ({where}{when})"


def task_name(call: object) -> str | None:
    """The task of a message or signature; of a canvas, that of its first step."""
    from pytest_djcelery.messages.canvas import CanvasEntry
    from pytest_djcelery.messages.canvas_form import first_task
    from pytest_djcelery.messages.sent_task import SentTask

    if isinstance(call, SentTask):
        return call.task
    if isinstance(call, CanvasEntry):
        return call.messages[0].task
    return first_task(call) if isinstance(call, Mapping) else None
