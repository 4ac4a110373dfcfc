"""Texts for assertions that fail: expected, what happened, the candidates, the remedy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from operator import ne
from typing import TYPE_CHECKING, Any

from pytest_djcelery.reporting.descriptions import LONGEST_LIST, describe_call, describe_item

if TYPE_CHECKING:
    from pytest_djcelery.messages import SentTask
    from pytest_djcelery.views.listing import Listing, Matcher
    from pytest_djcelery.views.outbox import Outbox

NEAREST = 3  # misses that a text compares in full
# Items that are compared in search of the nearest; a text need not be worth a minute.
_CANDIDATES = 300


def compare(op: str, left: object, right: object) -> list[str] | None:
    """Explain a failed comparison of an outbox, or its canvas, with signatures.

    Returns the lines for ``pytest_assertrepr_compare``, the first of them a summary; ``None``
    when neither side is ours or there is nothing to explain.
    """
    from pytest_djcelery.views.listing import Listing

    if op in ("in", "not in") and isinstance(right, Listing):
        explain = _explain_in if op == "in" else _explain_not_in
        return list(explain(right, right.matcher(left)))
    if op not in ("==", "!="):
        return None
    if not isinstance(left, Listing):
        if not isinstance(right, Listing):
            return None
        left, right = right, left
    written = right.items() if isinstance(right, Listing) else right
    if not isinstance(written, (list, tuple)):
        return None
    matchers = [left.matcher(each) for each in written]
    if op == "==":
        return list(_explain_equal(left, matchers))
    return [f"{left.description} != {_bracketed(matchers)}", "", "They are equal.", *_sent(left)]


# -- explanations ----------------------------------------------------------------------------


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
    yield from _fixes(_remedies(listing, [matcher]))


def _explain_not_in(listing: Listing[Any], matcher: Matcher[Any]) -> Iterator[str]:
    yield f"{describe_call(matcher.written)} not in {listing.description}"
    yield ""
    yield f"Expected no message like: {describe_call(matcher.written)}"
    yield "Sent:"
    yield from _capped(
        f"[{position}] {describe_item(item)}"
        for position, item in enumerate(listing.items())
        if matcher.matches(item)
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
        example = f"assert add.s(1) in {listing.description}"
        yield from _fixes([f"If the order doesn't matter, ask for each: {example}."])
        return
    yield f"Expected {len(matchers)}, sent {len(items)}."
    near_by: set[int] = set()
    if missing:
        yield "Not sent:"
    for index in missing[:LONGEST_LIST]:
        matcher = matchers[index]
        near = _nearest(matcher, [(at, items[at]) for at in extra]) or _nearest(
            matcher, list(enumerate(items))
        )
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
    remedies = _remedies(listing, [matchers[index] for index in missing])
    if not missing:
        remedies.append(
            "Add what is meant to be sent to the list; or compare a part of it: "
            "celery_outbox.of(task), or with celery_outbox.record() as sent: ..."
        )
    yield from _fixes(remedies)


def explain_one(
    outbox: Outbox, matcher: Matcher[SentTask], found: Sequence[SentTask]
) -> Iterator[str]:
    """Why there is not exactly one match."""
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
    yield from _fixes(
        [f"Tell them apart with .set(queue=...), or count them: {outbox.description}.count(...)."]
    )


def explain_wait(outbox: Outbox, matcher: Matcher[SentTask], seconds: float) -> Iterator[str]:
    """Why waiting was in vain."""
    call = describe_call(matcher.written)
    yield f"{outbox.description}.wait_for({call}): not sent within {seconds:g} seconds"
    yield from _explain_missing(outbox, matcher)
    situation = outbox.situation()
    if situation:
        yield f"Meanwhile: {situation}"


def _assigned(
    matchers: Sequence[Matcher[Any]], items: Sequence[Any]
) -> tuple[list[int], list[int], list[tuple[int, int]]]:
    """Which expectation each item meets: (missing, extra, pairs of positions)."""
    from pytest_djcelery.matching.wire import is_wildcard

    wild = {at for at, matcher in enumerate(matchers) if is_wildcard(matcher.written)}
    pairs = [
        (at, at)
        for at, (matcher, item) in enumerate(zip(matchers, items))  # noqa: B905 - what both have
        if at not in wild and matcher.matches(item)
    ]
    met = {at for at, _ in pairs}
    missing = [index for index in range(len(matchers)) if index not in met]
    extra = [at for at in range(len(items)) if at not in met]
    # A wildcard takes any item, so it chooses last; its own position first.
    for index in sorted(missing, key=wild.__contains__)[:_CANDIDATES]:
        likely = sorted(extra[:_CANDIDATES], key=partial(ne, index))
        at = next((at for at in likely if matchers[index].matches(items[at])), None)
        if at is not None:
            pairs.append((index, at))
            missing.remove(index)
            extra.remove(at)
    return missing, extra, sorted(pairs)


def _nearest(matcher: Matcher[Any], items: Sequence[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """The items that come close, the closest first: those of the task, or of a like name."""
    name = _task_name(matcher.written)
    if name is None:
        return []
    tasks = {_task_name(item) for _, item in items} - {None}
    likely = {name} & tasks or {
        task
        for task in tasks
        if task is not None
        and (
            task.rpartition(".")[2] == name.rpartition(".")[2]
            or get_close_matches(name, [task], 1, 0.8)
        )
    }
    candidates = [pair for pair in items if _task_name(pair[1]) in likely][:_CANDIDATES]
    return sorted(candidates, key=lambda pair: len(matcher.differences(pair[1])))[:NEAREST]


def _task_name(call: object) -> str | None:
    """The task of a message or signature; of a canvas, that of its first step."""
    from pytest_djcelery.matching.canvas import CanvasEntry
    from pytest_djcelery.matching.canvas_form import first_task
    from pytest_djcelery.messages import SentTask

    if isinstance(call, SentTask):
        return call.task
    if isinstance(call, CanvasEntry):
        return call.messages[0].task
    return first_task(call) if isinstance(call, Mapping) else None


def _nearest_lines(
    matcher: Matcher[Any], near: Sequence[tuple[int, Any]], indent: str
) -> Iterator[str]:
    if near:
        yield f"{indent}Nearest {'miss' if len(near) == 1 else 'misses'}:"
    for position, item in near:
        yield f"{indent}  [{position}] {describe_item(item)}"
        for found in matcher.differences(item):
            what = f"{found.property}: expected {found.expected}, sent {found.actual}"
            yield f"{indent}        {what}"


# -- remedies --------------------------------------------------------------------------------


def _remedies(listing: Listing[Any], missing: Sequence[Matcher[Any]]) -> list[str]:
    """What to do about expected messages that were not sent; most telling first."""
    from pytest_djcelery.matching.signatures import Expected

    found: list[str] = []
    for matcher in missing[:LONGEST_LIST]:
        if isinstance(matcher, Expected):
            found += _remedies_of_call(matcher, listing)
        found += listing.remedies(matcher)
    if missing and not len(listing):
        found += listing.circumstances()
        if not found:
            found.append(
                "Check that the code that sends it runs, and that nothing stands in its place: "
                "a mock of delay() or apply_async() sends nothing."
            )
    return list(dict.fromkeys(found))


def _remedies_of_call(expected: Any, listing: Listing[Any]) -> Iterator[str]:
    call = describe_call(expected.written)
    if not expected.registered:
        name = expected.written["task"]
        like = get_close_matches(name, expected.known, 3, 0.6)
        guess = f" Did you mean {' or '.join(like)}?" if like else ""
        yield f"No task is registered as {name!r}: check the name, or import its module.{guess}"
    elif expected.misfit:
        yield f"{call} can't be sent at all: {expected.misfit}."
    serializer = next((item.serializer for item in listing if hasattr(item, "serializer")), "json")
    for name, value in expected.unsendable(serializer):
        yield (
            f"{name} of {call} is of type {type(value).__name__}, which {serializer} can't carry: "
            "expect what the task is given in its place, such as a primary key."
        )


def _fixes(remedies: Sequence[str]) -> Iterator[str]:
    if len(remedies) == 1:
        yield f"To fix: {remedies[0]}"
    elif remedies:
        yield "To fix:"
        for remedy in remedies:
            yield f"  - {remedy}"


def _sent(listing: Listing[Any]) -> Iterator[str]:
    items = listing.items()
    yield "Sent:" if items else "Nothing was sent."
    yield from _capped(f"[{at}] {describe_item(item)}" for at, item in enumerate(items))


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
