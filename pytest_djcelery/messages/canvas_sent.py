"""Chains, groups and chords, rebuilt from the messages that start them.

Celery publishes a chain as its first task, with the rest inside the message; a group as its
members, which share an id; a chord as its header's members, each with the body inside. Signatures
inside a message are converted to the same form, according to what a worker will publish for them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from celery.canvas import Signature, _chain, _chord, group

from pytest_djcelery.messages.rehearsal import FREEZING, Given, rehearsed
from pytest_djcelery.messages.sent_task import SentTask
from pytest_djcelery.messages.signature_types import (
    as_signature,
    is_canvas,
    signatures_of,
    with_options,
)
from pytest_djcelery.messages.task_message import (
    Line,
    Parallel,
    Part,
    Step,
    followed_by,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A canvas, or a part of one while it is assembled, and the group that it belongs to."""

    position: int
    line: Line
    messages: tuple[SentTask, ...]
    group_id: str | None
    chord: Signature | None


def sent_canvases(messages: Iterable[SentTask]) -> list[Unit]:
    """Each chain, group, chord or single task that was started, in publish order.

    Only messages that start something count. What a running task sent (``parent_id`` is set: later
    steps, links, follow-ups) and retries are messages in the outbox, but don't start a canvas.
    """
    return _rebuilt([_part_of(message) for message in messages if _starts_something(message)], None)


def written_canvas(written: Signature, given: Given) -> Line:
    """The steps of a canvas that a test wrote; none if publishing it sends nothing.

    Raises:
        Exception: Publishing it raises the same.
    """
    if is_canvas(written):
        return _side_by_side(_rebuilt(rehearsed(written, given=given), given))
    return _line_of_task(written, given)


def line_of(written: Mapping[str, Any], given: Given | None = None) -> Line:
    """The steps of a signature inside a message."""
    signature = as_signature(written)
    if is_canvas(signature):
        parts = rehearsed(signature, after_result=True, given=given)
        return _side_by_side(_rebuilt(parts, given))
    if given is not None:
        signature = _unfrozen(signature, given)
    return _line_of_task(signature, given)


def _line_of_task(signature: Signature, given: Given | None) -> Line:
    options = dict(signature.options or {})
    later = signatures_of("chain", options.pop("chain", None))
    return _followed((Step(source=with_options(signature, options)),), later, given)


def _unfrozen(signature: Signature, given: Given) -> Signature:
    options = {k: v for k, v in signature.options.items() if k not in FREEZING}
    if options.get("task_id") not in given:
        options.pop("task_id", None)
    return with_options(signature, options)


def _followed(line: Line, later: Iterable[Mapping[str, Any]], given: Given | None) -> Line:
    for step in later:
        line = followed_by(line, line_of(step, given))
    return line


def _side_by_side(units: Sequence[Unit]) -> Line:
    if len(units) == 1:
        return units[0].line
    return (Parallel(members=tuple(unit.line for unit in units)),) if units else ()


def _rebuilt(parts: Iterable[Part], given: Given | None) -> list[Unit]:
    done: list[Unit] = []
    waiting: dict[str, list[Unit]] = defaultdict(list)
    depths: dict[str, int] = {}
    for position, part in enumerate(parts):
        unit = _unit(position, part, given)
        if unit.group_id is None:
            done.append(unit)
            continue
        waiting[unit.group_id].append(unit)
        path = _groups_around(unit.group_id, unit.chord)
        for depth, group_id in enumerate(reversed(path)):
            depths[group_id] = max(depth, depths.get(group_id, 0))
    # Innermost first, so that a chord inside a group is complete when the group is assembled.
    for group_id in sorted(depths, key=lambda group_id: -depths[group_id]):
        unit = _together(group_id, waiting.pop(group_id), given)
        (done if unit.group_id is None else waiting[unit.group_id]).append(unit)
    return sorted(done, key=lambda unit: unit.position)


def _starts_something(message: SentTask) -> bool:
    # ``chord_unlock`` is Celery's own task, which polls backends that can't count.
    return (
        message.parent_id is None and not message.retries and message.task != "celery.chord_unlock"
    )


def _part_of(message: SentTask) -> Part:
    return Part(source=message, later=message.chain, group_id=message.group_id, chord=message.chord)


def _unit(position: int, part: Part, given: Given | None) -> Unit:
    # In a chain inside a group, it is the last step that knows the group.
    group_id, chord = _membership(part.later[-1]) if part.later else (part.group_id, part.chord)
    return Unit(
        position=position,
        line=_followed((Step(source=part.source),), part.later, given),
        messages=(part.source,) if isinstance(part.source, SentTask) else (),
        group_id=group_id,
        chord=chord,
    )


def _together(group_id: str, units: Sequence[Unit], given: Given | None) -> Unit:
    units = sorted(units, key=lambda unit: unit.position)
    chord = next((unit.chord for unit in units if unit.chord is not None), None)
    parallel = Parallel(
        members=tuple(unit.line for unit in units),
        body=line_of(chord, given) if chord is not None else (),
        group_id=group_id if given is None or group_id in given else None,
    )
    around, body = _membership(chord) if chord is not None else (None, None)
    return Unit(
        position=units[0].position,
        line=(parallel,),
        messages=tuple(message for unit in units for message in unit.messages),
        # Celery 5.7 writes the header's own id into the body of a chord that is in no group.
        group_id=around if around != group_id else None,
        chord=body,
    )


def _groups_around(group_id: str | None, chord: Signature | None) -> list[str]:
    path: list[str] = []
    while group_id is not None and group_id not in path:
        path.append(group_id)
        group_id, chord = _membership(chord) if chord is not None else (None, None)
    return path


def _membership(written: Mapping[str, Any]) -> tuple[str | None, Signature | None]:
    """The group, and the chord's body, that wait for the end of a signature."""
    signature = as_signature(written)
    options = signature.options or {}
    later = signatures_of("chain", options.get("chain"))
    if later:
        return _membership(later[-1])
    last: Any = None
    if isinstance(signature, _chord):
        last = signature.kwargs.get("body")
    elif isinstance(signature, (_chain, group)):
        # The members know the group: freezing a group as a body overwrites the group's own ids.
        last = next(iter(list(signature.kwargs["tasks"])[-1:]), None)
    found = _membership(last) if last else (None, None)
    if found != (None, None):
        return found
    body = options.get("chord")
    return options.get("group_id"), as_signature(body) if body else None
