"""``celery_outbox.canvas``: how what was started compares with chains, groups and chords.

`canvas_form` has the one form that both sides are brought to, `canvas_sent` rebuilds what was
sent from its messages, and `rehearsal` finds out which messages a canvas makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from celery.canvas import Signature

from pytest_djcelery.messages import unittest_failures
from pytest_djcelery.messages.canvas_form import Line, Parallel, Step, as_signature, is_canvas
from pytest_djcelery.messages.canvas_sent import line_of, sent_canvases, written_canvas
from pytest_djcelery.messages.listing import Listing, Matcher
from pytest_djcelery.messages.option_rules import Told, told_by_message, told_by_signature
from pytest_djcelery.messages.rehearsal import Given, frozen, overridden
from pytest_djcelery.messages.sent_task import SentTask
from pytest_djcelery.messages.signatures import Difference, Expected, check_signature
from pytest_djcelery.messages.wire import equal, shown


def same_step(mine: Mapping[str, Any], theirs: Mapping[str, Any], *, serializer: str) -> bool:
    """Whether a signature inside a message (a link, say) is the one expected."""
    wanted, sent = as_signature(mine), as_signature(theirs)
    given = Given(wanted)
    if is_canvas(wanted) and "task_id" in sent.options:
        wanted = frozen(wanted)
    found = _differing(line_of(wanted, given), line_of(sent), "", serializer, after_result=True)
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
    expected = Expected(mine.source, after_result=after_result)
    if isinstance(theirs.source, SentTask):
        found = expected.differing(told_by_message(theirs.source))
    else:
        told = told_by_signature(theirs.source, serializer)
        hidden = overridden(theirs.source)
        found = chain(
            _differing_kinds(mine.source, told) if after_result else (),
            expected.differing(told),
            expected.differing_options(
                overridden(mine.source),
                replace(told, option=lambda name: hidden.get(name, told.option(name))),
            ),
        )
    for each in found:
        yield replace(each, property=f"{path}: {each.property}" if path else each.property)


def _differing_kinds(mine: Signature, theirs: Told) -> Iterator[Difference]:
    if bool(mine.immutable) is not theirs.immutable:
        kinds = {True: "immutable, .si(...)", False: "takes the result before it, .s(...)"}
        yield Difference(
            property="kind",
            expected=kinds[bool(mine.immutable)],
            actual=kinds[theirs.immutable],
        )


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
    for number, (left, right) in enumerate(zip(mine.members, theirs.members, strict=True)):
        here = f"{path}, member {number + 1}".removeprefix(", ")
        yield from _differing(left, right, here, serializer, after_result=after_result)
    here = f"{path}, body".removeprefix(", ")
    yield from _differing(mine.body, theirs.body, here, serializer, after_result=True)


class _Written:
    """What a test wrote, to be compared with many canvases."""

    def __init__(self, written: object) -> None:
        check_signature(written)
        self.written = written
        self._line: Line = ()
        self._unsendable: str | None = None
        if not isinstance(written, Signature):
            return
        try:
            self._line = written_canvas(written, Given(written))
        except Exception as error:  # noqa: BLE001 - whatever Celery says of it
            self._unsendable = f"{type(error).__name__}: {error}"

    def matches(self, entry: CanvasEntry) -> bool:
        return next(self._differing(entry), None) is None

    def differences(self, entry: CanvasEntry) -> list[Difference]:
        return list(self._differing(entry))

    def _differing(self, entry: CanvasEntry) -> Iterator[Difference]:
        from pytest_djcelery.messages.descriptions import describe_call

        if not isinstance(self.written, Signature):
            if not equal(self.written, entry):
                yield Difference(
                    property="canvas", expected=shown(self.written), actual=repr(entry)
                )
        elif self._unsendable or not self._line:
            why = (
                f"publishing it raises {self._unsendable}" if self._unsendable else "sends nothing"
            )
            yield Difference(
                property="canvas",
                expected=f"{describe_call(self.written)} ({why})",
                actual=repr(entry),
            )
        else:
            serializer = entry.messages[0].serializer
            yield from _differing(self._line, entry.line, "", serializer, after_result=False)


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
        unittest_failures.compared()
        if isinstance(other, CanvasEntry):
            return self.messages == other.messages
        if isinstance(other, Signature):
            return _Written(other).matches(self)
        return NotImplemented

    def differing(self, written: object) -> Iterator[Difference]:
        """Every property in which this is not what ``written`` says."""
        yield from _Written(written).differences(self)


def canvas_of(messages: Iterable[SentTask]) -> list[CanvasEntry]:
    """Each chain, group, chord or single task that was started, in publish order."""
    return [CanvasEntry(each.line, each.messages) for each in sent_canvases(messages)]


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
