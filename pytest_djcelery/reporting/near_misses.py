"""Finds the messages that come nearest to an expected one, and says in what they differ."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from pytest_djcelery.messages.descriptions import LONGEST_LIST, describe_item, task_name
from pytest_djcelery.reporting.explanations import difference_lines

if TYPE_CHECKING:
    from pytest_djcelery.messages.listing import Matcher
    from pytest_djcelery.reporting import remedies


NEAREST = 3  # near misses that a text compares in full
# Items that are compared to find the nearest: a text is not worth a minute.
CANDIDATES = 300


def gist_of_missing(matcher: Matcher[Any], near: remedies.Near) -> Iterator[str]:
    """What differs in the nearest message."""
    for _, item in near[:1]:
        for found in matcher.differences(item):
            yield f"  {found.property}: expected {found.expected}, sent {found.actual}"


def nearest(
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
    candidates = [pair for pair in items if task_name(pair[1]) in likely][:CANDIDATES]
    return sorted(
        candidates,
        key=lambda pair: (len(matcher.differences(pair[1])), abs(pair[0] - position)),
    )[:NEAREST]


def nearest_lines(
    matcher: Matcher[Any], near: Sequence[tuple[int, Any]], indent: str
) -> Iterator[str]:
    """The near misses among these items, with what differs in each."""
    misses = [(position, item) for position, item in near if matcher.differences(item)]
    if misses:
        yield f"{indent}Nearest {'miss' if len(misses) == 1 else 'misses'}:"
    for position, item in misses:
        yield f"{indent}  [{position}] {describe_item(item)}"
        yield from (f"{indent}        {line}" for line in lines_of_differences(matcher, item))


def lines_of_differences(matcher: Matcher[Any], item: Any) -> Iterator[str]:
    """What differs in an item."""
    return difference_lines(matcher.differences(item))


def capped(lines: Iterable[str]) -> Iterator[str]:
    """The first lines, and how many there are more."""
    every = list(lines)
    for line in every[:LONGEST_LIST]:
        yield f"  {line}"
    if len(every) > LONGEST_LIST:
        yield f"  … and {len(every) - LONGEST_LIST} more"
