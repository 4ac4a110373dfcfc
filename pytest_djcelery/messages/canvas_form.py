"""The one form of every canvas, and how a signature is brought to it.

Chains, groups and chords nest in many ways that run alike. What a test wrote and what was
sent are compared in one form, in which

* a chain inside a chain is part of it, a group of one inside a chain is its member;
* a group that something follows is a chord, and all that follows a chord is its body's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from celery.canvas import Signature, _chain, _chord, chunks, group

from pytest_djcelery.errors import NotASignatureError
from pytest_djcelery.messages.option_rules import BOOKKEEPING, signatures_of
from pytest_djcelery.messages.sent_task import SentTask
from pytest_djcelery.messages.signatures import check_signature
from pytest_djcelery.messages.wire import shown

CANVAS_NAMES = ("chain", "chord", "chunks", "group")
# Of a canvas of its own these say nothing: freezing writes them.
_NOT_OWN = BOOKKEEPING | {"chain"}


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
    flattened: bool = False  # had groups inside, whose order Celery doesn't keep


Line: TypeAlias = tuple[Step | Parallel, ...]  # what runs one after the other


def line_of(written: Mapping[str, Any]) -> Line:
    """The steps of a signature, brought to the one form."""
    signature = as_signature(written)
    options = signature.options or {}
    if isinstance(signature, _chain):
        line = _line_of_chain(signature)
    elif isinstance(signature, _chord):
        line = _line_of_chord(signature)
    elif isinstance(signature, (group, chunks)):
        line = (_parallel(signature.group() if isinstance(signature, chunks) else signature),)
    else:
        line = (Step(source=_with_options(signature, {**options, "chain": None})),)
    for later in signatures_of("chain", options.get("chain")):
        line = followed_by(line, line_of(later))
    return line


def _line_of_chain(signature: Signature) -> Line:
    line: Line = ()
    for task in signature.kwargs["tasks"]:
        steps = line_of(task)
        if len(steps) == 1 and isinstance(steps[0], Parallel) and not steps[0].body:
            if not steps[0].members:
                continue  # nothing to run
            if len(steps[0].members) == 1:  # celery.canvas.maybe_unroll_group
                steps = steps[0].members[0]
        line = followed_by(line, steps)
    options = dict(signature.options or {})
    links, errbacks = options.pop("link", None), options.pop("link_error", None)
    task_id = options.pop("task_id", None)
    line = _at_end(line, {"link": links, "task_id": task_id})
    return _at_start(_everywhere(line, {"link_error": errbacks}), _own(options))


def _line_of_chord(signature: Signature) -> Line:
    header, body = signature.kwargs["header"], signature.kwargs.get("body")
    if not isinstance(header, group):
        header = group(list(header), app=signature.app)
    parallel = replace(_parallel(header), body=line_of(body) if body else ())
    options = dict(signature.options or {})
    at_end = {name: options.pop(name, None) for name in ("link", "link_error", "task_id")}
    delay = {name: options.pop(name) for name in ("countdown", "eta") if name in options}
    own = _own(options)
    return (
        replace(
            parallel,
            members=tuple(_at_start(member, {**own, **delay}) for member in parallel.members),
            body=_at_start(_at_end(parallel.body, at_end), own),
        ),
    )


def _parallel(signature: Signature) -> Parallel:
    members: list[Line] = []
    flattened = False
    for task in signature.kwargs["tasks"]:
        line = line_of(task)
        inner = line[0] if len(line) == 1 else None
        if isinstance(inner, Parallel) and not inner.body:
            members += inner.members
            flattened = True
        elif line:
            members.append(line)
    options = dict(signature.options or {})
    group_id = options.pop("task_id", None)
    return Parallel(
        members=tuple(_at_start(member, _own(options)) for member in members),
        group_id=group_id,
        flattened=flattened,
    )


def _own(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in _NOT_OWN}


def followed_by(line: Line, more: Line) -> Line:
    """One line after another; what follows a group is the body of a chord."""
    if line and isinstance(line[-1], Parallel) and more:
        last = line[-1]
        return (*line[:-1], replace(last, body=followed_by(last.body, more)))
    return line + more


def _at_start(line: Line, options: Mapping[str, Any]) -> Line:
    """Options of a whole canvas go to the tasks that are published at once."""
    if not line or not options:
        return line
    return (_set(line[0], options), *line[1:])


def _at_end(line: Line, options: Mapping[str, Any]) -> Line:
    given = {name: value for name, value in options.items() if value}
    if not line or not given:
        return line
    last = line[-1]
    if isinstance(last, Parallel):
        return (*line[:-1], replace(last, body=_at_end(last.body, given)))
    return (*line[:-1], _set(last, given))


def _everywhere(line: Line, options: Mapping[str, Any]) -> Line:
    given = {name: value for name, value in options.items() if value}
    if not given:
        return line
    return tuple(
        replace(item, body=_everywhere(item.body, given))
        if isinstance(item, Parallel)
        else _set(item, given)
        for item in line
    )


def _set(item: Step | Parallel, options: Mapping[str, Any]) -> Step | Parallel:
    if isinstance(item, Parallel):
        return replace(item, members=tuple(_at_start(line, options) for line in item.members))
    if isinstance(item.source, SentTask):
        return item
    merged = {**item.source.options, **options}
    for name in ("link", "link_error"):
        if name in options:
            before = signatures_of(name, item.source.options.get(name))
            merged[name] = before + signatures_of(name, options[name])
    return Step(source=_with_options(item.source, merged))


def _with_options(signature: Signature, options: Mapping[str, Any]) -> Signature:
    copy = Signature(dict(signature), app=signature._app)
    copy._type = signature._type
    copy.options = {k: v for k, v in options.items() if not (k == "chain" and v is None)}
    return copy


def first_task(written: Mapping[str, Any]) -> str | None:
    """The name of the task that is published first."""
    line = line_of(written)
    while line:
        item = line[0]
        if isinstance(item, Step):
            return str(
                item.source["task"] if isinstance(item.source, Signature) else item.source.task
            )
        line = item.members[0] if item.members else item.body
    return None


def as_signature(value: Mapping[str, Any] | Signature) -> Signature:
    """A signature that went through a serializer is a plain dictionary."""
    if isinstance(value, Signature):
        return value
    if isinstance(value, dict) and "task" in value:
        return Signature.from_dict(value)
    check_signature(value)
    raise NotASignatureError(f"expected a Celery signature, got {shown(value)}")
