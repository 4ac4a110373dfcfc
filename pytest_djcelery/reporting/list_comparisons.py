"""Explains why a list of messages differs from what a test expects."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_djcelery.messages.descriptions import LONGEST_LIST, describe_call, describe_item
from pytest_djcelery.messages.wire import is_wildcard
from pytest_djcelery.reporting import remedies
from pytest_djcelery.reporting.explanations import Explanation
from pytest_djcelery.reporting.near_misses import (
    CANDIDATES,
    capped,
    gist_of_missing,
    nearest,
    nearest_lines,
)

if TYPE_CHECKING:
    from pytest_djcelery.messages.listing import Listing, Matcher


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
