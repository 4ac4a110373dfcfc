"""``celery_outbox.canvas``: compares what was started with chains, groups and chords.

`canvas_form` has the form to which both sides are converted, `canvas_sent` rebuilds what was sent
from its messages, and `rehearsal` finds out which messages a canvas sends. Celery compares
signatures as dictionaries, but what was sent is never the dictionary that a test writes: freezing
has put ids into it, and the serializer has turned tuples into lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from celery.canvas import Signature

from pytest_djcelery.messages import unittest_failures
from pytest_djcelery.messages.canvas_sent import line_of, sent_canvases, written_canvas
from pytest_djcelery.messages.descriptions import describe_call, describe_line
from pytest_djcelery.messages.listing import Listing, Matcher
from pytest_djcelery.messages.matching import Difference, Expected
from pytest_djcelery.messages.option_rules import (
    ActualCall,
    call_in_message,
    call_in_signature,
)
from pytest_djcelery.messages.rehearsal import Given, frozen, overridden
from pytest_djcelery.messages.signature_types import as_signature, check_signature, is_canvas
from pytest_djcelery.messages.task_message import Line, Parallel, Step, TaskMessage
from pytest_djcelery.messages.wire import equal, shown

if TYPE_CHECKING:
    from celery import Celery

    from pytest_djcelery.messages.sent_task import SentTask


class EmbeddedSignature(Signature):
    """A signature inside a message, which compares by the same rules as the message."""

    serializer: str

    def __eq__(self, other: object) -> bool:
        unittest_failures.compared()
        if not isinstance(other, Signature) or isinstance(other, EmbeddedSignature):
            equal_dicts: bool = super().__eq__(other)  # `NotImplemented` for what is no mapping
            return equal_dicts
        return same_step(other, self, serializer=self.serializer)

    def __ne__(self, other: object) -> bool:
        return not self == other


def embedded_signature(written: Mapping[str, Any], app: Celery, serializer: str) -> Signature:
    """Make a signature inside a message comparable with one that a test writes."""
    signature = app.signature(written)
    kind: Any = type(signature)
    signature.__class__ = _embedded_type(kind)
    signature.serializer = serializer
    return signature


def embedded_signatures(
    written: Iterable[Mapping[str, Any]], app: Celery, serializer: str
) -> Iterable[Signature]:
    """Do so with several signatures."""
    return (embedded_signature(one, app, serializer) for one in written)


@cache
def _embedded_type(kind: type[Signature]) -> type[Signature]:
    """A subclass for a kind of signature, so that a chain, group or chord stays one."""
    return type(kind.__name__, (EmbeddedSignature, kind), {})


def line_differences(mine: Line, theirs: Line, serializer: str) -> Iterator[Difference]:
    """Every property in which what was sent differs from what a test wrote."""
    return _differing(mine, theirs, "", serializer, after_result=False)


def same_step(mine: Mapping[str, Any], theirs: Mapping[str, Any], *, serializer: str) -> bool:
    """Whether a signature inside a message, such as a link, is the one expected."""
    wanted, sent = as_signature(mine), as_signature(theirs)
    given = Given(wanted)
    if is_canvas(wanted) and "task_id" in sent.options:
        wanted = frozen(wanted)
    found = _differing(line_of(wanted, given), line_of(sent), "", serializer, after_result=True)
    return next(found, None) is None


def _differing(
    mine: Line, theirs: Line, path: str, serializer: str, *, after_result: bool
) -> Iterator[Difference]:
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
    if isinstance(theirs.source, TaskMessage):
        found = expected.differing(call_in_message(theirs.source))
    else:
        same_signature = partial(same_step, serializer=serializer)
        call = call_in_signature(theirs.source, serializer, same_signature)
        hidden = overridden(theirs.source)
        found = chain(
            _differing_kinds(mine.source, call) if after_result else (),
            expected.differing(call),
            expected.differing_options(
                overridden(mine.source),
                replace(call, option=lambda name: hidden.get(name, call.option(name))),
            ),
        )
    for difference in found:
        named = f"{path}: {difference.property}" if path else difference.property
        yield replace(difference, property=named)


def _differing_kinds(mine: Signature, theirs: ActualCall) -> Iterator[Difference]:
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
    """What a test wrote, to compare with many canvases."""

    def __init__(self, written: object) -> None:
        check_signature(written)
        self.written = written
        self._line: Line = ()
        self._unsendable: str | None = None
        if not isinstance(written, Signature):
            return
        try:
            self._line = written_canvas(written, Given(written))
        except Exception as error:  # noqa: BLE001 - whatever Celery raises
            self._unsendable = f"{type(error).__name__}: {error}"

    def matches(self, entry: CanvasEntry) -> bool:
        return next(self._differing(entry), None) is None

    def differences(self, entry: CanvasEntry) -> list[Difference]:
        return list(self._differing(entry))

    def _differing(self, entry: CanvasEntry) -> Iterator[Difference]:
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
            yield from line_differences(self._line, entry.line, serializer)


class CanvasEntry:
    """A chain, group, chord or single task that was started.

    Compare it with ``chain(...)``, ``group(...)``, ``chord(...)`` or a plain signature.
    """

    __slots__ = ("line", "messages")

    def __init__(self, line: Line, messages: tuple[SentTask, ...]) -> None:
        self.line = line
        self.messages = messages

    def __repr__(self) -> str:
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
    return [CanvasEntry(canvas.line, canvas.messages) for canvas in sent_canvases(messages)]


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
