"""Texts for failed assertions: what was expected, what happened, the candidates, the remedy."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any

from celery.canvas import Signature

from pytest_djcelery.messages.descriptions import (
    LONGEST_LIST,
    describe_call,
    describe_item,
    task_name,
)
from pytest_djcelery.messages.listing import Count, Listing, Messages
from pytest_djcelery.messages.matching import expectation
from pytest_djcelery.messages.outcomes import History, Outcome
from pytest_djcelery.messages.sent_task import SentTask
from pytest_djcelery.messages.wire import is_wildcard
from pytest_djcelery.reporting import outcome_comparisons, remedies

if TYPE_CHECKING:
    from pytest_djcelery.messages.listing import Matcher

NEAREST = 3  # near misses that a text compares in full
_MIRRORED = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
# Items that are compared to find the nearest: a text is not worth a minute.
_CANDIDATES = 300


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
        return list(_explain_count(op, left, right))
    if isinstance(right, Count) and isinstance(left, int) and op in _MIRRORED:
        return list(_explain_count(_MIRRORED[op], right, left))
    if op in ("in", "not in") and isinstance(right, Listing):
        explain = _explain_in if op == "in" else _explain_not_in
        return list(explain(right, right.matcher(left)))
    if op not in ("==", "!="):
        return None
    if lines := _explain_message(op, left, right) or _explain_message(op, right, left):
        return lines
    return _compare_lists(op, left, right)


def _compare_lists(op: str, left: object, right: object) -> list[str] | None:
    left, right = _listed(left, right), _listed(right, left)
    if not isinstance(left, Listing):
        if not isinstance(right, Listing):
            return None
        left, right = right, left
    written = right.items() if isinstance(right, Listing) else right
    if not isinstance(written, (list, tuple)):
        return None
    matchers = [left.matcher(expected) for expected in written]
    if op == "==":
        return list(_explain_equal(left, matchers))
    return list(_explain_unequal(left, matchers))


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
    return [
        summary,
        "",
        f"Expected: {describe_call(written)}",
        sent,
        *(f"  {line}" for line in _difference_lines(matcher, message)),
        *remedies.fixes(remedies.of_missing(Messages([message]), [(matcher, [(0, message)])])),
    ]


def _explain_in(listing: Listing[Any], matcher: Matcher[Any]) -> Iterator[str]:
    yield f"{describe_call(matcher.written)} in {listing.description}"
    yield ""
    yield from _explain_missing(listing, matcher)


def _explain_missing(listing: Listing[Any], matcher: Matcher[Any]) -> Iterator[str]:
    yield f"Expected: {describe_call(matcher.written)}"
    items = list(enumerate(listing.items()))
    near = _nearest(matcher, items)
    yield from _nearest_lines(matcher, near, "")
    shown = {position for position, _ in near}
    rest = [pair for pair in items if pair[0] not in shown]
    if not items:
        yield f"{listing.description} is empty."
    elif rest:
        yield "Also sent:" if near else "Sent:"
        yield from _capped(f"[{position}] {describe_item(item)}" for position, item in rest)
    yield from remedies.fixes(remedies.of_missing(listing, [(matcher, near)]))


def _explain_not_in(listing: Listing[Any], matcher: Matcher[Any]) -> Iterator[str]:
    yield f"{describe_call(matcher.written)} not in {listing.description}"
    yield ""
    yield f"Expected no message like: {describe_call(matcher.written)}"
    yield "Sent:"
    found = [pair for pair in enumerate(listing.items()) if matcher.matches(pair[1])]
    yield from _capped(f"[{position}] {describe_item(item)}" for position, item in found)
    yield from remedies.fixes([remedies.of_present([item for _, item in found])])


def _explain_count(op: str, count: Count, other: int) -> Iterator[str]:
    listing, matcher = count.listing, count.matcher
    call = f"{listing.description}.count({describe_call(matcher.written)})"
    yield f"{call} {op} {other}: {_number(count)} match{'es' if count == 1 else ''}"
    yield ""
    items = list(enumerate(listing.items()))
    found = [pair for pair in items if matcher.matches(pair[1])]
    if not found:
        yield from _explain_missing(listing, matcher)
        return
    yield f"Expected {f'{op} '.removeprefix('== ')}{other}. Sent:"
    yield from _capped(f"[{position}] {describe_item(item)}" for position, item in found)
    if op in ("<", "<=", "!=") or (op == "==" and count > other):
        yield from remedies.fixes([remedies.of_present([item for _, item in found])])
        return
    near = _nearest(matcher, [pair for pair in items if not matcher.matches(pair[1])])
    yield from _nearest_lines(matcher, near, "")
    yield from remedies.fixes(remedies.of_missing(listing, [(matcher, near or found)]))


def _explain_unequal(listing: Listing[Any], matchers: Sequence[Matcher[Any]]) -> Iterator[str]:
    items = listing.items()
    yield f"{listing.description} != {_bracketed(matchers)}"
    yield ""
    yield "They are equal."
    yield "Sent:" if items else "Nothing was sent."
    yield from _capped(f"[{at}] {describe_item(item)}" for at, item in enumerate(items))
    yield from remedies.fixes(
        [remedies.of_present(items)] if items else remedies.of_nothing(listing)
    )


def _explain_equal(listing: Listing[Any], matchers: Sequence[Matcher[Any]]) -> Iterator[str]:
    items = list(listing.items())
    missing, extra, pairs = _assigned(matchers, items)
    yield f"{listing.description} == {_bracketed(matchers)}"
    yield ""
    if not missing and not extra:
        yield "Expected the same messages in another order:"
        sent_as = dict(pairs)
        yield from _capped(
            f"[{index}] {describe_call(matcher.written)}  sent as [{sent_as[index]}]"
            for index, matcher in enumerate(matchers)
        )
        yield "Sent:"
        yield from _capped(f"[{at}] {describe_item(item)}" for at, item in enumerate(items))
        yield from remedies.fixes([remedies.of_order(listing, matchers)])
        return
    yield f"Expected {len(matchers)}, sent {len(items)}."
    near_by: set[int] = set()
    unmet: list[tuple[Matcher[Any], remedies.Near]] = []
    if missing:
        yield "Not sent:"
    for index in missing[:LONGEST_LIST]:
        matcher = matchers[index]
        near = _nearest(matcher, [(at, items[at]) for at in extra], index) or _nearest(
            matcher, list(enumerate(items)), index
        )
        unmet.append((matcher, near))
        near_by.update(at for at, _ in near)
        yield f"  [{index}] {describe_call(matcher.written)}"
        yield from _nearest_lines(matcher, near, "      ")
    if len(missing) > LONGEST_LIST:
        yield f"  … and {len(missing) - LONGEST_LIST} more"
    unexpected = [at for at in extra if at not in near_by] if missing else extra
    if unexpected:
        yield "Sent, but not expected:"
        yield from _capped(f"[{at}] {describe_item(items[at])}" for at in unexpected)
    if pairs:
        yield "As expected:"
        yield from _capped(f"[{at}] {describe_item(items[at])}" for _, at in pairs)
    found = remedies.of_missing(listing, unmet)
    if unexpected and len(items) > len(matchers):
        rest = [items[at] for at in unexpected]
        found.append(remedies.of_unexpected(listing, matchers, rest))
    yield from remedies.fixes(found)


def explain_one(
    outbox: Listing[SentTask], matcher: Matcher[SentTask], found: Sequence[SentTask]
) -> Iterator[str]:
    """Explain why there isn't exactly one match."""
    yield f"{outbox.description}.one({describe_call(matcher.written)}): {_number(len(found))} match"
    if not found:
        yield from _explain_missing(outbox, matcher)
        return
    yield "Expected exactly one. Sent:"
    items = outbox.items()
    ids = {id(message) for message in found}
    yield from _capped(
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
    yield from _explain_missing(outbox, matcher)
    if situation:
        yield f"Meanwhile: {situation}"


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
    for index in sorted(missing, key=wild.__contains__)[:_CANDIDATES]:
        likely = sorted(extra[:_CANDIDATES], key=partial(operator.ne, index))
        at = next((at for at in likely if matchers[index].matches(items[at])), None)
        if at is not None:
            pairs.append((index, at))
            missing.remove(index)
            extra.remove(at)
    return missing, extra, sorted(pairs)


def _nearest(
    matcher: Matcher[Any], items: Sequence[tuple[int, Any]], position: int = 0
) -> list[tuple[int, Any]]:
    """The nearest items, the nearest first: those of the same task, or of a similar name.

    Among items with equally many differences, those nearer to ``position`` come first.
    """
    name = task_name(matcher.written)
    if name is None:
        return []
    tasks = {task_name(item) for _, item in items} - {None}
    likely = {name} & tasks or {
        task
        for task in tasks
        if task is not None
        and (
            task.rpartition(".")[2] == name.rpartition(".")[2]
            or (
                not getattr(matcher, "registered", False)
                and get_close_matches(name, [task], 1, 0.8)
            )
        )
    }
    candidates = [pair for pair in items if task_name(pair[1]) in likely][:_CANDIDATES]
    return sorted(
        candidates,
        key=lambda pair: (len(matcher.differences(pair[1])), abs(pair[0] - position)),
    )[:NEAREST]


def _nearest_lines(
    matcher: Matcher[Any], near: Sequence[tuple[int, Any]], indent: str
) -> Iterator[str]:
    misses = [(position, item) for position, item in near if matcher.differences(item)]
    if misses:
        yield f"{indent}Nearest {'miss' if len(misses) == 1 else 'misses'}:"
    for position, item in misses:
        yield f"{indent}  [{position}] {describe_item(item)}"
        yield from (f"{indent}        {line}" for line in _difference_lines(matcher, item))


def _difference_lines(matcher: Matcher[Any], item: Any) -> Iterator[str]:
    for found in matcher.differences(item):
        yield f"{found.property}: expected {found.expected}, sent {found.actual}"


# -- lists ---------------------------------------------------------------------------------


def _capped(lines: Iterable[str]) -> Iterator[str]:
    every = list(lines)
    for line in every[:LONGEST_LIST]:
        yield f"  {line}"
    if len(every) > LONGEST_LIST:
        yield f"  … and {len(every) - LONGEST_LIST} more"


def _bracketed(matchers: Sequence[Matcher[Any]]) -> str:
    calls = [describe_call(matcher.written) for matcher in matchers[:LONGEST_LIST]]
    if len(matchers) > LONGEST_LIST:
        calls.append(f"… {len(matchers) - LONGEST_LIST} more")
    return f"[{', '.join(calls)}]"


def _number(count: int) -> str:
    return "1 message" if count == 1 else f"{count} messages"
