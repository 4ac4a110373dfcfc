"""The layout of a failed comparison: whole where pytest shows it whole, else the gist first.

Without ``-vv``, and outside CI, pytest shows eight lines of an explanation (ten, if there are no
more) and 640 characters. A comparison of many messages is longer, and what differs and what to do
about it must be among those.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final

from pytest_djcelery.messages.descriptions import LONGEST_LIST, describe_item, task_name

if TYPE_CHECKING:
    import pytest

    from pytest_djcelery.messages.listing import Matcher
    from pytest_djcelery.messages.matching import Difference
    from pytest_djcelery.reporting import remedies


_LINES: Final = 8
_TOLERATED: Final = 2  # lines more, if that is all
_CHARACTERS: Final = 640
_SUMMARY: Final = 120
_DIFFERENCE: Final = 90
_LONG: Final = 40  # characters of a value whose difference has to be looked for
_ALIKE: Final = 4


@dataclass(slots=True, kw_only=True)
class Explanation:
    """A failed comparison, in parts."""

    summary: str
    short: str = ""  # a shorter summary
    verdict: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)  # the gist of the body
    body: list[str] = field(default_factory=list)
    fixes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """All lines, the first of them the summary."""
        whole = [self.summary, "", *self.verdict, *self.body, *self.fixes]
        return (
            whole if _is_shown_whole(whole) else [*self._gist(), "", *self.verdict[1:], *self.body]
        )

    def _gist(self) -> list[str]:
        head = [_shortened(self.short or self.summary, _SUMMARY), "", *self.verdict[:1]]
        room = _LINES - len(head) - len(self.fixes[:2])
        found = [_shortened(line, _DIFFERENCE) for line in self.differences]
        if len(found) > room:
            found[room - 1 :] = [f"  … and {len(found) - room + 1} more"]
        return [*head, *found, *self.fixes]


def _is_shown_whole(lines: Sequence[str]) -> bool:
    return len(lines) <= _LINES + _TOLERATED and sum(map(len, lines)) <= _CHARACTERS


def _shortened(line: str, limit: int) -> str:
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def difference_lines(differences: Sequence[Difference]) -> Iterator[str]:
    """Each property that differs; two long values below each other, marked where they part."""
    for found in differences:
        expected, sent = found.expected, found.actual
        pairs = zip(expected, sent, strict=False)  # one may be longer
        alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        if min(len(expected), len(sent)) < _LONG or alike < _ALIKE:
            yield f"{found.property}: expected {expected}, sent {sent}"
        else:
            yield f"{found.property}:"
            yield f"  expected {expected}"
            yield f"  sent     {sent}"
            yield f"           {' ' * alike}^"


# -- colours ---------------------------------------------------------------------------------

_IN_ONE_LINE: Final = re.compile(r"(?P<before>.*: expected )(?P<expected>.+?)(?P<between>, sent )")
_BELOW: Final = re.compile(r" +(?P<which>expected|sent    ) \S")


def coloured(config: pytest.Config, lines: Sequence[str]) -> list[str]:
    """The lines in the colours of pytest's own diffs, if the terminal has any.

    What was expected is red, and what was sent is green, like ``-`` and ``+``.
    """
    if not config.pluginmanager.has_plugin("terminalreporter"):
        return list(lines)
    writer = config.get_terminal_writer()
    if not (writer.hasmarkup and getattr(writer, "code_highlight", True)):
        return list(lines)
    return [lines[0], *(_coloured(line, writer.markup) for line in lines[1:])]


def _coloured(line: str, markup: Callable[..., Any]) -> str:
    if found := _IN_ONE_LINE.match(line):
        expected = markup(found["expected"], red=True)
        sent = markup(line[found.end() :], green=True)
        return f"{found['before']}{expected}{found['between']}{sent}"
    if found := _BELOW.match(line):
        colour = "red" if found["which"] == "expected" else "green"
        start = found.end() - 1
        return f"{line[:start]}{markup(line[start:], **{colour: True})}"
    return line


# The messages that come nearest to an expected one, and in what they differ ---------------

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
        yield from (
            f"{indent}        {line}" for line in difference_lines(matcher.differences(item))
        )


def capped(lines: Iterable[str]) -> Iterator[str]:
    """The first lines, and how many there are more."""
    every = list(lines)
    for line in every[:LONGEST_LIST]:
        yield f"  {line}"
    if len(every) > LONGEST_LIST:
        yield f"  … and {len(every) - LONGEST_LIST} more"
