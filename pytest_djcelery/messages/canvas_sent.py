"""Chains, groups and chords, rebuilt from the messages that started them.

Celery publishes a chain as its first task, with the rest inside the message; a group as its
members, which share an id; a chord as its header's members, each with the body inside.

Only messages that start something count. What a task sent while it ran (``parent_id`` is set:
the later steps, links, follow-ups) and retries are messages of the outbox, but no canvas.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery.canvas import Signature, _chain, _chord, group

from pytest_djcelery.messages.canvas_form import (
    Line,
    Parallel,
    Step,
    as_signature,
    followed_by,
    line_of,
)
from pytest_djcelery.messages.option_rules import signatures_of

if TYPE_CHECKING:
    from pytest_djcelery.messages.sent_task import SentTask


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A canvas, or a part of one while it is put together, and the group that it belongs to."""

    position: int
    line: Line
    messages: tuple[SentTask, ...]
    group_id: str | None
    chord: Signature | None


def rebuilt(messages: Iterable[SentTask]) -> list[Unit]:
    """Each chain, group, chord or single task that was started, in publish order."""
    done: list[Unit] = []
    waiting: dict[str, list[Unit]] = defaultdict(list)
    depths: dict[str, int] = {}
    for position, message in enumerate(messages):
        if not _starts_something(message):
            continue
        unit = _unit(position, message)
        if unit.group_id is None:
            done.append(unit)
            continue
        waiting[unit.group_id].append(unit)
        path = _groups_around(unit.group_id, unit.chord)
        for depth, group_id in enumerate(reversed(path)):
            depths[group_id] = max(depth, depths.get(group_id, 0))
    # Innermost first, so that a chord inside a group is whole when the group is put together.
    for group_id in sorted(depths, key=lambda each: -depths[each]):
        unit = _together(group_id, waiting.pop(group_id))
        (done if unit.group_id is None else waiting[unit.group_id]).append(unit)
    return sorted(done, key=lambda each: each.position)


def _starts_something(message: SentTask) -> bool:
    # ``chord_unlock`` is Celery's own: it polls for backends that can't count.
    return (
        message.parent_id is None and not message.retries and message.task != "celery.chord_unlock"
    )


def _unit(position: int, message: SentTask) -> Unit:
    line: Line = (Step(source=message),)
    for later in message.chain:
        line = followed_by(line, line_of(later))
    # Of a chain inside a group, it is the last step that knows the group.
    group_id, chord = (
        _membership(message.chain[-1]) if message.chain else (message.group_id, message.chord)
    )
    return Unit(position=position, line=line, messages=(message,), group_id=group_id, chord=chord)


def _together(group_id: str, units: Sequence[Unit]) -> Unit:
    units = sorted(units, key=lambda each: each.position)
    chord = next((unit.chord for unit in units if unit.chord is not None), None)
    parallel = Parallel(
        members=tuple(unit.line for unit in units),
        body=line_of(chord) if chord is not None else (),
        group_id=group_id,
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
    if isinstance(signature, _chord) and signature.kwargs.get("body"):
        return _membership(signature.kwargs["body"])
    if isinstance(signature, _chain) and signature.kwargs["tasks"]:
        return _membership(signature.kwargs["tasks"][-1])
    if isinstance(signature, group):
        return None, None
    body = options.get("chord")
    return options.get("group_id"), as_signature(body) if body else None
