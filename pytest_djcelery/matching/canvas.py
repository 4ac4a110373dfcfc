"""Chains, groups and chords, rebuilt from the messages that started them.

Celery publishes a chain as its first task, with the rest inside the message; a group as its
members, which share an id; a chord as its header's members, each with the body inside. Both
what a test wrote and what was sent are brought to one form, in which

* a chain inside a chain is part of it, a group of one inside a chain is its member;
* a group that something follows is a chord, and all that follows a chord is its body's.

Only messages that start something count. What a task sent while it ran (``parent_id`` is set:
the later steps, links, follow-ups) and retries are messages of the outbox, but no canvas.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from celery.canvas import Signature, _chain, _chord, chunks, group

from pytest_djcelery.errors import NotASignatureError
from pytest_djcelery.matching.option_rules import (
    BOOKKEEPING,
    signatures_of,
    told_by_message,
    told_by_signature,
)
from pytest_djcelery.matching.signatures import Difference, Expected, check_signature
from pytest_djcelery.matching.wire import equal, shown
from pytest_djcelery.messages import SentTask
from pytest_djcelery.views.listing import Listing, Matcher

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


# -- what was written ------------------------------------------------------------------------


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
        line = _followed_by(line, line_of(later))
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
        line = _followed_by(line, steps)
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


def _followed_by(line: Line, more: Line) -> Line:
    if line and isinstance(line[-1], Parallel) and more:
        last = line[-1]
        return (*line[:-1], replace(last, body=_followed_by(last.body, more)))
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


# -- what was sent ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unit:
    """A part of a canvas under reconstruction, and the group that it belongs to."""

    position: int
    line: Line
    messages: tuple[SentTask, ...]
    group_id: str | None
    chord: Signature | None


def canvas_of(messages: Iterable[SentTask]) -> list[CanvasEntry]:
    """Each chain, group, chord or single task that was started, in publish order."""
    done: list[_Unit] = []
    waiting: dict[str, list[_Unit]] = defaultdict(list)
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
    done.sort(key=lambda each: each.position)
    return [CanvasEntry(unit.line, unit.messages) for unit in done]


def _starts_something(message: SentTask) -> bool:
    # ``chord_unlock`` is Celery's own: it polls for backends that can't count.
    return (
        message.parent_id is None and not message.retries and message.task != "celery.chord_unlock"
    )


def _unit(position: int, message: SentTask) -> _Unit:
    line: Line = (Step(source=message),)
    for later in message.chain:
        line = _followed_by(line, line_of(later))
    # Of a chain inside a group, it is the last step that knows the group.
    group_id, chord = (
        _membership(message.chain[-1]) if message.chain else (message.group_id, message.chord)
    )
    return _Unit(position=position, line=line, messages=(message,), group_id=group_id, chord=chord)


def _together(group_id: str, units: Sequence[_Unit]) -> _Unit:
    units = sorted(units, key=lambda each: each.position)
    chord = next((unit.chord for unit in units if unit.chord is not None), None)
    parallel = Parallel(
        members=tuple(unit.line for unit in units),
        body=line_of(chord) if chord is not None else (),
        group_id=group_id,
    )
    around, body = _membership(chord) if chord is not None else (None, None)
    return _Unit(
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


# -- the comparison --------------------------------------------------------------------------


def same_step(mine: Mapping[str, Any], theirs: Mapping[str, Any], *, serializer: str) -> bool:
    """Whether a signature inside a message (a link, say) is the one expected."""
    found = _differing(line_of(mine), line_of(theirs), "", serializer, after_result=True)
    return next(found, None) is None


def _differing(
    mine: Line, theirs: Line, path: str, serializer: str, *, after_result: bool
) -> Iterator[Difference]:
    from pytest_djcelery.reporting.comparisons import describe_line

    if len(mine) != len(theirs):
        yield Difference(
            property=path or "steps", expected=describe_line(mine), actual=describe_line(theirs)
        )
        return
    for number, (left, right) in enumerate(zip(mine, theirs, strict=True)):
        here = f"{path}, step {number + 1}" if len(mine) > 1 else path
        here = here.removeprefix(", ")
        later = after_result or number > 0
        if isinstance(left, Step) and isinstance(right, Step):
            yield from _differing_steps(left, right, here, serializer, after_result=later)
        elif isinstance(left, Parallel) and isinstance(right, Parallel):
            yield from _differing_groups(left, right, here, serializer, after_result=later)
        else:
            yield Difference(
                property=here or "kind",
                expected=describe_line((left,)),
                actual=describe_line((right,)),
            )


def _differing_steps(
    mine: Step, theirs: Step, path: str, serializer: str, *, after_result: bool
) -> Iterator[Difference]:
    if not isinstance(mine.source, Signature):
        return
    if isinstance(theirs.source, SentTask):
        told = told_by_message(theirs.source)
    else:
        told = told_by_signature(theirs.source, serializer)
        if after_result and bool(mine.source.immutable) is not told.immutable:
            kinds = {True: "immutable, .si(...)", False: "takes the result before it, .s(...)"}
            yield Difference(
                property=f"{path}: kind" if path else "kind",
                expected=kinds[bool(mine.source.immutable)],
                actual=kinds[told.immutable],
            )
    for found in Expected(mine.source, after_result=after_result).differing(told):
        yield replace(found, property=f"{path}: {found.property}" if path else found.property)


def _differing_groups(
    mine: Parallel, theirs: Parallel, path: str, serializer: str, *, after_result: bool
) -> Iterator[Difference]:
    from pytest_djcelery.reporting.comparisons import describe_line

    if bool(mine.body) is not bool(theirs.body) or len(mine.members) != len(theirs.members):
        yield Difference(
            property=path or "kind",
            expected=describe_line((mine,)),
            actual=describe_line((theirs,)),
        )
        return
    if mine.group_id is not None and mine.group_id != theirs.group_id:
        yield Difference(
            property=f"{path}, id".removeprefix(", "),
            expected=mine.group_id,
            actual=str(theirs.group_id),
        )
    members = _paired(mine, theirs, serializer, after_result=after_result)
    for number, (left, right) in enumerate(members):
        here = f"{path}, member {number + 1}".removeprefix(", ")
        yield from _differing(left, right, here, serializer, after_result=after_result)
    here = f"{path}, body".removeprefix(", ")
    yield from _differing(mine.body, theirs.body, here, serializer, after_result=True)


def _paired(
    mine: Parallel, theirs: Parallel, serializer: str, *, after_result: bool
) -> list[tuple[Line, Line]]:
    if not mine.flattened:
        return list(zip(mine.members, theirs.members, strict=True))
    left, pairs = list(theirs.members), []
    for member in mine.members:
        fits = (
            line
            for line in left
            if not any(_differing(member, line, "", serializer, after_result=after_result))
        )
        partner = next(fits, left[0])
        left.remove(partner)
        pairs.append((member, partner))
    return pairs


class CanvasEntry:
    """A chain, group, chord or single task that was started.

    Compare it with ``chain(...)``, ``group(...)``, ``chord(...)`` or a plain signature.
    """

    __slots__ = ("line", "messages")
    __hash__ = None  # type: ignore[assignment]  # equals signatures, which are unhashable

    def __init__(self, line: Line, messages: tuple[SentTask, ...]) -> None:
        self.line = line
        self.messages = messages

    def __repr__(self) -> str:
        from pytest_djcelery.reporting.comparisons import describe_line

        return describe_line(self.line)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, CanvasEntry):
            return self.messages == other.messages
        if isinstance(other, Signature):
            return next(self.differing(other), None) is None
        return NotImplemented

    def differing(self, written: object) -> Iterator[Difference]:
        """Every property in which this is not what ``written`` says."""
        check_signature(written)
        if isinstance(written, Signature):
            serializer = self.messages[0].serializer
            yield from _differing(line_of(written), self.line, "", serializer, after_result=False)
        elif not equal(written, self):
            yield Difference(property="canvas", expected=shown(written), actual=repr(self))


class _Written:
    """A matcher of canvas entries."""

    def __init__(self, written: object) -> None:
        check_signature(written)
        self.written = written

    def matches(self, entry: CanvasEntry) -> bool:
        return next(entry.differing(self.written), None) is None

    def differences(self, entry: CanvasEntry) -> list[Difference]:
        return list(entry.differing(self.written))


class Canvas(Listing[CanvasEntry]):
    """Every canvas that was started, in publish order; compares with a list of signatures."""

    def __init__(
        self,
        messages: Iterable[SentTask],
        description: str,
        circumstances: Callable[[], list[str]] = list,
    ) -> None:
        self._entries = canvas_of(messages)
        self._circumstances = circumstances
        self.description = description

    def items(self) -> Sequence[CanvasEntry]:
        return self._entries

    def matcher(self, written: object) -> Matcher[CanvasEntry]:
        return _Written(written)

    def circumstances(self) -> list[str]:
        return self._circumstances()
