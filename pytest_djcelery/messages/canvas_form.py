"""The one form of every canvas: what runs one after the other, and what runs side by side.

What a test wrote and what was sent are compared in this form. Both are brought to it by the same
code (`canvas_sent`), out of what is published for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from celery.canvas import Signature, _chain, _chord, chunks, group

from pytest_djcelery.errors import NotASignatureError
from pytest_djcelery.messages.signatures import check_signature
from pytest_djcelery.messages.wire import shown

if TYPE_CHECKING:
    from pytest_djcelery.messages.sent_task import SentTask

CANVAS_NAMES = ("chain", "chord", "chunks", "group")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One task: a message, or a signature that a message carries or a test wrote."""

    source: SentTask | Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallel:
    """A group; with a ``body``, a chord."""

    members: tuple[Line, ...]
    body: Line = ()
    group_id: str | None = None


Line: TypeAlias = tuple[Step | Parallel, ...]  # what runs one after the other


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What is published at once for one task of a canvas."""

    source: SentTask | Signature
    later: tuple[Signature, ...]  # the rest of its chain, in the order in which it will run
    group_id: str | None
    chord: Signature | None


def followed_by(line: Line, more: Line) -> Line:
    """One line after another; all that follows a chord belongs to its body."""
    if line and more and isinstance(line[-1], Parallel) and line[-1].body:
        last = line[-1]
        return (*line[:-1], replace(last, body=followed_by(last.body, more)))
    return line + more


def is_canvas(signature: Signature) -> bool:
    """Whether publishing it may send more than one message, or one of another task."""
    return isinstance(signature, (_chain, _chord, group, chunks))


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


def as_signature(value: Mapping[str, Any] | Signature) -> Signature:
    """A signature that went through a serializer is a plain dictionary."""
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
