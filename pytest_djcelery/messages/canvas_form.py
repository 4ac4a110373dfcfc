"""The common form of all canvases: what runs one after the other, and what runs side by side.

What a test wrote and what was sent are compared in this form. The same code (`canvas_sent`)
converts both to it, from what is published for them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from celery.canvas import Signature

    from pytest_djcelery.messages.task_message import TaskMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One task: a message, or a signature that is inside a message or that a test wrote."""

    source: TaskMessage | Signature


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

    source: TaskMessage | Signature
    later: tuple[Signature, ...]  # the rest of its chain, in the order in which it will run
    group_id: str | None
    chord: Signature | None


def followed_by(line: Line, more: Line) -> Line:
    """One line after another; all that follows a chord belongs to its body."""
    if line and more and isinstance(line[-1], Parallel) and line[-1].body:
        last = line[-1]
        return (*line[:-1], replace(last, body=followed_by(last.body, more)))
    return line + more
