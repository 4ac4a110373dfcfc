"""Texts for failed assertions: what was expected, what happened, the candidates, the remedy."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from celery.canvas import Signature

from pytest_djcelery.messages.descriptions import (
    LONGEST_LIST,
    describe_call,
    describe_item,
)
from pytest_djcelery.messages.listing import Count, Listing, Messages, Unordered
from pytest_djcelery.messages.matching import expectation
from pytest_djcelery.messages.outcomes import History, Outcome
from pytest_djcelery.messages.sent_task import SentTask
from pytest_djcelery.messages.wire import is_wildcard
from pytest_djcelery.reporting import outcome_comparisons, remedies
from pytest_djcelery.reporting.explanations import (
    CANDIDATES,
    Explanation,
    capped,
    difference_lines,
    gist_of_missing,
    nearest,
    nearest_lines,
)

if TYPE_CHECKING:
    from pytest_djcelery.messages.listing import Matcher


_MIRRORED = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "in": lambda left, right: left in right,
    "not in": lambda left, right: left not in right,
}


def holds(op: str, left: object, right: object) -> bool:
    """Whether a comparison with an object of this plugin is true; others aren't evaluated.

    For ``assert outbox == [] and other`` pytest asks for each part to be explained, even the true
    one.
    """
    compare = _OPERATORS.get(op)
    return compare is not None and (_ours(left) or _ours(right)) and bool(compare(left, right))


def _ours(side: object) -> bool:
    one = (SentTask, Outcome)
    return isinstance(side, (*one, History, Count, Listing)) or (
        isinstance(side, list | tuple) and any(isinstance(item, one) for item in side)
    )


def explain(op: str, left: object, right: object) -> list[str] | None:
    """Explain a failed comparison of messages or outcomes.

    Returns:
        The lines for ``pytest_assertrepr_compare``, the first of them a summary; ``None`` if
        neither side is ours or there is nothing to explain.
    """
    return compare(op, left, right) or outcome_comparisons.compare(op, left, right)


def compare(op: str, left: object, right: object) -> list[str] | None:
    """Explain a failed comparison of an outbox, its canvas or a message with signatures."""
    if isinstance(left, Count) and isinstance(right, int) and op in _MIRRORED:
        return _explain_count(op, left, right)
    if isinstance(right, Count) and isinstance(left, int) and op in _MIRRORED:
        return _explain_count(_MIRRORED[op], right, left)
    if op in ("in", "not in") and isinstance(right, Listing):
        explain = _explain_in if op == "in" else _explain_not_in
        return explain(right, right.matcher(left))
    if op not in ("==", "!="):
        return None
    if lines := _explain_message(op, left, right) or _explain_message(op, right, left):
        return lines
    return _compare_lists(op, left, right)


def _compare_lists(op: str, left: object, right: object) -> list[str] | None:
    left, right = _listed(left, right), _listed(right, left)
    if isinstance(left, Unordered):
        left, right = right, left
    if isinstance(left, Listing) and isinstance(right, Unordered):
        matchers = [left.matcher(written) for written in right.signatures]
        if op == "==":
            return explain_equal(left, matchers, in_order=False)
        return _explain_unequal(left, matchers)
    if not isinstance(left, Listing):
        if not isinstance(right, Listing):
            return None
        left, right = right, left
    written = right.items() if isinstance(right, Listing) else right
    if not isinstance(written, (list, tuple)):
        return None
    matchers = [left.matcher(expected) for expected in written]
    if op == "==":
        return explain_equal(left, matchers)
    return _explain_unequal(left, matchers)


def _listed(value: object, other: object) -> object:
    """Messages in a plain list (``celery_inline.pending``), where signatures are expected."""
    if not value or not isinstance(value, (list, tuple)) or not isinstance(other, (list, tuple)):
        return value
    ours = all(isinstance(message, SentTask) for message in value)
    theirs = all(isinstance(expected, Signature) for expected in other)
    return Messages(value) if ours and theirs else value


# -- explanations ----------------------------------------------------------------------------


def _explain_message(op: str, message: object, written: object) -> list[str] | None:
    if not isinstance(message, SentTask) or not isinstance(written, Signature):
        return None
    matcher = expectation(written)
    summary = f"{describe_call(message)} {op} {describe_call(written)}"
    sent = f"Sent:     {describe_item(message)}"
    if op == "!=":
        fix = remedies.of_present([message])
        return [summary, "", "They are equal.", sent, *remedies.fixes([fix])]
    found = [f"  {line}" for line in difference_lines(matcher.differences(message))]
    missing = [(matcher, [(0, message)])]
    return Explanation(
        summary=summary,
        verdict=[f"Expected: {describe_call(written)}"],
        differences=found,
        body=[sent, *found],
        fixes=[*remedies.fixes(remedies.of_missing(Messages([message]), missing))],
    ).lines()


def _explain_in(listing: Listing[Any], matcher: Matcher[Any]) -> list[str]:
    missing = _missing(listing, matcher)
    missing.summary = f"{describe_call(matcher.written)} in {listing.description}"
    return missing.lines()


def _missing(listing: Listing[Any], matcher: Matcher[Any]) -> Explanation:
    """Why nothing in a listing matches; the summary is yet to be written."""
    items = list(enumerate(listing.items()))
    near = nearest(matcher, items)
    body = [*nearest_lines(matcher, near, "")]
    shown = {position for position, _ in near}
    rest = [pair for pair in items if pair[0] not in shown]
    if not items:
        body.append(f"{listing.description} is empty.")
    elif rest:
        body.append("Also sent:" if near else "Sent:")
        body += capped(f"[{position}] {describe_item(item)}" for position, item in rest)
    return Explanation(
        summary="",
        verdict=[f"Expected: {describe_call(matcher.written)}"],
        differences=[*gist_of_missing(matcher, near)] or body,
        body=body,
        fixes=[*remedies.fixes(remedies.of_missing(listing, [(matcher, near)]))],
    )


def _explain_not_in(listing: Listing[Any], matcher: Matcher[Any]) -> list[str]:
    found = [pair for pair in enumerate(listing.items()) if matcher.matches(pair[1])]
    sent = [*capped(f"[{position}] {describe_item(item)}" for position, item in found)]
    return Explanation(
        summary=f"{describe_call(matcher.written)} not in {listing.description}",
        verdict=[f"Expected no message like: {describe_call(matcher.written)}"],
        differences=sent,
        body=["Sent:", *sent],
        fixes=[*remedies.fixes([remedies.of_present([item for _, item in found])])],
    ).lines()


def _explain_count(op: str, count: Count, other: int) -> list[str]:
    listing, matcher = count.listing, count.matcher
    call = f"{listing.description}.count({describe_call(matcher.written)})"
    summary = f"{call} {op} {other}: {_number(count)} match{'es' if count == 1 else ''}"
    items = list(enumerate(listing.items()))
    found = [pair for pair in items if matcher.matches(pair[1])]
    if not found:
        missing = _missing(listing, matcher)
        missing.summary = summary
        return missing.lines()
    body = [*capped(f"[{position}] {describe_item(item)}" for position, item in found)]
    if op in ("<", "<=", "!=") or (op == "==" and count > other):
        fixes = [remedies.of_present([item for _, item in found])]
    else:
        near = nearest(matcher, [pair for pair in items if not matcher.matches(pair[1])])
        body += nearest_lines(matcher, near, "")
        fixes = remedies.of_missing(listing, [(matcher, near or found)])
    return Explanation(
        summary=summary,
        verdict=[f"Expected {f'{op} '.removeprefix('== ')}{other}. Sent:"],
        differences=body,
        body=body,
        fixes=[*remedies.fixes(fixes)],
    ).lines()


def _explain_unequal(listing: Listing[Any], matchers: Sequence[Matcher[Any]]) -> list[str]:
    items = listing.items()
    sent = [*capped(f"[{at}] {describe_item(item)}" for at, item in enumerate(items))]
    fixes = [remedies.of_present(items)] if items else remedies.of_nothing(listing)
    return Explanation(
        summary=f"{listing.description} != {bracketed(matchers)}",
        verdict=["They are equal."],
        differences=sent,
        body=["Sent:" if items else "Nothing was sent.", *sent],
        fixes=[*remedies.fixes(fixes)],
    ).lines()


def explain_one(
    outbox: Listing[SentTask], matcher: Matcher[SentTask], found: Sequence[SentTask]
) -> Iterator[str]:
    """Explain why there isn't exactly one match."""
    yield f"{outbox.description}.one({describe_call(matcher.written)}): {_number(len(found))} match"
    if not found:
        yield from _in_full(_missing(outbox, matcher))
        return
    yield "Expected exactly one. Sent:"
    items = outbox.items()
    ids = {id(message) for message in found}
    yield from capped(
        f"[{at}] {describe_item(item)}" for at, item in enumerate(items) if id(item) in ids
    )
    yield from remedies.fixes([remedies.of_several(outbox, found)])


def explain_wait(
    outbox: Listing[SentTask], matcher: Matcher[SentTask], seconds: float, situation: str
) -> Iterator[str]:
    """Explain why a message did not come in time.

    Args:
        outbox: Where it was waited for.
        matcher: What was waited for.
        seconds: How long.
        situation: What else was going on.
    """
    call = describe_call(matcher.written)
    yield f"{outbox.description}.wait_for({call}): not sent within {seconds:g} seconds"
    yield from _in_full(_missing(outbox, matcher))
    if situation:
        yield f"Meanwhile: {situation}"


def _in_full(explanation: Explanation) -> list[str]:
    """The lines below the summary of an error, of which pytest leaves out nothing."""
    return [*explanation.verdict, *explanation.body, *explanation.fixes]


def _number(count: int) -> str:
    return "1 message" if count == 1 else f"{count} messages"


# Why a list of messages differs from what a test expects ----------------------------------

_FEW = 60  # characters of a list in a summary, where the whole would not be shown


def explain_equal(
    listing: Listing[Any], matchers: Sequence[Matcher[Any]], *, in_order: bool = True
) -> list[str]:
    """Explain why messages are not those that are expected, in order or in any order."""
    items = list(listing.items())
    missing, extra, pairs = _assigned(matchers, items)
    summary, short = (
        f"{listing.description} == {written if in_order else f'unordered({written})'}"
        for written in (bracketed(matchers), bracketed(matchers, _FEW))
    )
    if not missing and not extra:
        explained = _explained_order(listing, matchers, dict(pairs))
        explained.summary, explained.short = summary, short
        return explained.lines()
    unmet = [
        (index, nearest_to(index, matchers[index], items, extra))
        for index in missing[:LONGEST_LIST]
    ]
    more = missing[len(unmet) :]
    otherwise = [pair for pair in unmet if [*gist_of_missing(matchers[pair[0]], pair[1])]]
    absent = [pair for pair in unmet if pair not in otherwise]
    near_by = {at for _, near in unmet for at, _ in near}
    unexpected = [at for at in extra if at not in near_by][len(more) :] if missing else extra
    fixes = remedies.of_missing(listing, [(matchers[index], near) for index, near in unmet])
    if unexpected and len(items) > len(matchers):
        fixes.append(remedies.of_unexpected(listing, matchers, [items[at] for at in unexpected]))
    return Explanation(
        summary=summary,
        short=short,
        verdict=[_verdict(len(pairs), len(matchers), len(items))],
        differences=[
            *_gist(matchers, unmet),
            *(f"  [{at}] {describe_call(matchers[at].written)}" for at in more),
            *(f"  [{at}] not expected: {describe_call(items[at])}" for at in unexpected),
        ],
        body=[
            *_unmet_lines("Sent otherwise:", matchers, otherwise),
            *_unmet_lines("Not sent:", matchers, absent),
            *([f"  … and {len(more)} more"] if more else []),
            *_listed_lines("Sent, but not expected:", items, unexpected),
            *_listed_lines("As expected:", items, [at for _, at in pairs]),
        ],
        fixes=[*remedies.fixes(fixes)],
    ).lines()


def _explained_order(
    listing: Listing[Any], matchers: Sequence[Matcher[Any]], sent_as: Mapping[int, int]
) -> Explanation:
    moved = [
        f"[{index}] {describe_call(matcher.written)}  sent as [{sent_as[index]}]"
        for index, matcher in enumerate(matchers)
    ]
    return Explanation(
        summary="",
        verdict=["Expected the same messages in another order:"],
        differences=[f"  {line}" for index, line in enumerate(moved) if sent_as[index] != index],
        body=[
            *capped(moved),
            *_listed_lines("Sent:", list(listing.items()), range(len(listing))),
        ],
        fixes=[*remedies.fixes([remedies.of_order(listing, matchers)])],
    )


def _verdict(met: int, wanted: int, sent: int) -> str:
    if not wanted:
        return f"Expected nothing, {sent} sent."
    number = "" if sent == wanted else f"; {sent or 'nothing'} sent"
    return f"{met} of {wanted} as expected{number}."


def nearest_to(
    index: int, matcher: Matcher[Any], items: Sequence[Any], extra: Sequence[int]
) -> list[tuple[int, Any]]:
    """What was sent in place of an expected message; nothing if it was only sent less often."""
    near = nearest(matcher, [(at, items[at]) for at in extra], index)
    return near or nearest(matcher, list(enumerate(items)), index)


def _gist(
    matchers: Sequence[Matcher[Any]], unmet: Sequence[tuple[int, remedies.Near]]
) -> Iterator[str]:
    for index, near in unmet:
        found = [*gist_of_missing(matchers[index], near)]
        yield from (f"  [{index}] {line.lstrip()}" for line in found)
        if not found:
            yield f"  [{index}] {describe_call(matchers[index].written)}: not sent"


def _unmet_lines(
    title: str, matchers: Sequence[Matcher[Any]], unmet: Sequence[tuple[int, remedies.Near]]
) -> Iterator[str]:
    if unmet:
        yield title
    for index, near in unmet:
        yield f"  [{index}] {describe_call(matchers[index].written)}"
        yield from nearest_lines(matchers[index], near, "      ")


def _listed_lines(title: str, items: Sequence[Any], positions: Sequence[int]) -> Iterator[str]:
    if positions:
        yield title
        yield from capped(f"[{at}] {describe_item(items[at])}" for at in positions)


def _assigned(
    matchers: Sequence[Matcher[Any]], items: Sequence[Any]
) -> tuple[list[int], list[int], list[tuple[int, int]]]:
    """Assign items to the expectations they meet: (missing, extra, pairs of positions)."""
    wild = {at for at, matcher in enumerate(matchers) if is_wildcard(matcher.written)}
    pairs = [
        (at, at)
        for at, (matcher, item) in enumerate(zip(matchers, items, strict=False))
        if at not in wild and matcher.matches(item)
    ]
    met = {at for at, _ in pairs}
    missing = [index for index in range(len(matchers)) if index not in met]
    extra = [at for at in range(len(items)) if at not in met]
    # A wildcard takes any item, so it chooses last, and its own position first.
    for index in sorted(missing, key=wild.__contains__)[:CANDIDATES]:
        likely = sorted(extra[:CANDIDATES], key=partial(operator.ne, index))
        at = next((at for at in likely if matchers[index].matches(items[at])), None)
        if at is not None:
            pairs.append((index, at))
            missing.remove(index)
            extra.remove(at)
    return missing, extra, sorted(pairs)


def bracketed(matchers: Sequence[Matcher[Any]], limit: int | None = None) -> str:
    """A list as a test would write it, as far as it fits into ``limit`` characters."""
    calls = [describe_call(matcher.written) for matcher in matchers[:LONGEST_LIST]]
    while limit is not None and len(calls) > 1 and sum(map(len, calls)) > limit:
        calls.pop()
    if len(matchers) > len(calls):
        calls.append(f"… {len(matchers) - len(calls)} more")
    return f"[{', '.join(calls)}]"
