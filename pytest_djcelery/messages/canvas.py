"""``celery_outbox.canvas``: how what was started compares with chains, groups and chords.

`canvas_form` has the one form that both sides are brought to, `canvas_sent` rebuilds what was
sent from its messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from celery.canvas import Signature

from pytest_djcelery.messages.canvas_form import Line, Parallel, Step, line_of
from pytest_djcelery.messages.canvas_sent import rebuilt
from pytest_djcelery.messages.listing import Listing, Matcher
from pytest_djcelery.messages.option_rules import told_by_message, told_by_signature
from pytest_djcelery.messages.sent_task import SentTask
from pytest_djcelery.messages.signatures import Difference, Expected, check_signature
from pytest_djcelery.messages.wire import equal, shown


def same_step(mine: Mapping[str, Any], theirs: Mapping[str, Any], *, serializer: str) -> bool:
    """Whether a signature inside a message (a link, say) is the one expected."""
    found = _differing(line_of(mine), line_of(theirs), "", serializer, after_result=True)
    return next(found, None) is None


def _differing(
    mine: Line, theirs: Line, path: str, serializer: str, *, after_result: bool
) -> Iterator[Difference]:
    from pytest_djcelery.messages.descriptions import describe_line

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
    from pytest_djcelery.messages.descriptions import describe_line

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
        from pytest_djcelery.messages.descriptions import describe_line

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


def canvas_of(messages: Iterable[SentTask]) -> list[CanvasEntry]:
    """Each chain, group, chord or single task that was started, in publish order."""
    return [CanvasEntry(each.line, each.messages) for each in rebuilt(messages)]


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
