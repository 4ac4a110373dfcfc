"""In what a canvas differs from what was sent, and when a signature inside a message equals one.

Celery compares signatures as dictionaries, and what has been sent is never the dictionary that
a test writes: freezing has put ids into it, and the serializer has made lists of tuples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache, partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from celery.canvas import Signature

from pytest_djcelery.messages import unittest_failures
from pytest_djcelery.messages.canvas_form import Line, Parallel, Step
from pytest_djcelery.messages.canvas_sent import line_of
from pytest_djcelery.messages.descriptions import describe_line
from pytest_djcelery.messages.option_rules import (
    ActualCall,
    call_in_message,
    call_in_signature,
)
from pytest_djcelery.messages.rehearsal import Given, frozen, overridden
from pytest_djcelery.messages.signature_types import as_signature, is_canvas
from pytest_djcelery.messages.signatures import Difference, Expected
from pytest_djcelery.messages.task_message import TaskMessage

if TYPE_CHECKING:
    from celery import Celery


class EmbeddedSignature(Signature):
    """A signature inside a message: it equals one by the rules by which the message does."""

    serializer: str

    def __eq__(self, other: object) -> bool:
        unittest_failures.compared()
        if not isinstance(other, Signature) or isinstance(other, EmbeddedSignature):
            return bool(super().__eq__(other))
        return same_step(other, self, serializer=self.serializer)

    def __ne__(self, other: object) -> bool:
        return not self == other


def embedded_signature(written: Mapping[str, Any], app: Celery, serializer: str) -> Signature:
    """What stands in a message, as a signature that a test can compare with its own."""
    signature = app.signature(written)
    kind: Any = type(signature)
    signature.__class__ = _embedded_type(kind)
    signature.serializer = serializer
    return signature


def embedded_signatures(
    written: Iterable[Mapping[str, Any]], app: Celery, serializer: str
) -> Iterable[Signature]:
    """Several of them."""
    return (embedded_signature(one, app, serializer) for one in written)


@cache
def _embedded_type(kind: type[Signature]) -> type[Signature]:
    """A chain, group or chord stays one."""
    return type(kind.__name__, (EmbeddedSignature, kind), {})


def line_differences(mine: Line, theirs: Line, serializer: str) -> Iterator[Difference]:
    """Every property in which what was sent differs from what a test wrote."""
    return _differing(mine, theirs, "", serializer, after_result=False)


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
