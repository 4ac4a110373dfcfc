"""The timeline as a table of text, for a terminal of any width and a failing test's report."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple
from unicodedata import combining, east_asian_width

from pytest_djcelery.trace import wording
from pytest_djcelery.trace.terminal_text import MARK, TITLE

if TYPE_CHECKING:
    import pytest

    from pytest_djcelery.locations import Location
    from pytest_djcelery.trace.story import Story


LIMIT: Final = 40  # rows
_DEEPEST: Final = 8  # steps of indentation
_NARROWEST: Final = 60  # columns of the table
_WIDEST: Final = 160
_LEAST_OUTCOME: Final = 18  # columns
_NOTHING: Final = "No message was published and no task ran."


class Row(NamedTuple):
    """The texts of one row."""

    ms: str
    clock: str
    what: str
    queue: str
    took: str
    outcome: str


_HEADING: Final = Row("ms", "clock", "what", "queue", "took", "outcome")


def table(story: Story, *, limit: int = LIMIT, width: int | None = None) -> str:
    """The steps of a test, one in a row.

    Args:
        story: What happened.
        limit: How many rows there are at most. Those farthest from the row that matters are left
            out.
        width: In columns; by default that of the terminal.
    """
    if not story.steps:
        return _NOTHING
    shown = chosen(story, limit)
    dated = len({clock.date() for clock in _clocks(story, shown)}) > 1
    rows = [row(story, place, dated=dated) for place in shown]
    width = min(max(width or terminal_width(), _NARROWEST), _WIDEST)
    widths = _widths([_HEADING, *rows], width)
    lines = [_line(" ", _HEADING, widths)]
    before = -1
    for place, cells in zip(shown, rows, strict=True):
        if place != before + 1:
            lines.append("  …")
        matters = place == story.matters
        lines.append(_line(MARK if matters else " ", cells, widths))
        if matters:
            lines += _details(story, place, cells, widths, width)
        before = place
    left_out = len(story.steps) - len(shown)
    if before != len(story.steps) - 1:
        lines.append("  …")
    if left_out:
        rows_left = "1 row" if left_out == 1 else f"{left_out:,} rows"
        lines.append(f"  {rows_left} left out, of {len(story.steps):,}.")
    dates = [f"{clock:%Y-%m-%d}" for clock in _clocks(story, shown)]
    if dates:
        days = dates[0] if not dated else f"{min(dates)} to {max(dates)}"
        lines.append(f"  The clock was moved; it is shown in UTC, {days}.")
    return "\n".join(lines)


def chosen(story: Story, limit: int) -> list[int]:
    """The steps to show: the one that matters, what led to it, and those around it."""
    count = len(story.steps)
    if count <= limit:
        return list(range(count))
    focus = count - 1 if story.matters is None else story.matters
    kept = {focus}
    above = story.steps[focus].parent
    while above >= 0 and len(kept) < limit:
        kept.add(above)
        above = story.steps[above].parent
    distance = 1
    while len(kept) < limit:
        for place in (focus - distance, focus + distance):
            if 0 <= place < count and len(kept) < limit:
                kept.add(place)
        distance += 1
    return sorted(kept)


def row(story: Story, place: int, *, dated: bool) -> Row:
    """The texts of a step.

    Args:
        story: What happened.
        place: The place of the step in it.
        dated: Whether the moved clock is shown with its date.
    """
    step = story.steps[place]
    clock = story.moved_clock(step.ended if step.kind == "hook" and step.ended else step.began)
    took = story.took(step)
    message = step.message if step.kind in ("publish", "eager") else None
    return Row(
        ms=f"{story.milliseconds(step.began):.1f}",
        clock="" if clock is None else f"{clock:%m-%d %H:%M:%S}" if dated else f"{clock:%H:%M:%S}",
        what="  " * min(step.depth, _DEEPEST) + story.what(place),
        queue=wording.plain((message.queue if message else None) or ""),
        took="" if took is None else f"{took:.1f}",
        outcome=story.outcome(place),
    )


def _clocks(story: Story, shown: Iterable[int]) -> Iterator[datetime]:
    for place in shown:
        clock = story.moved_clock(story.steps[place].began)
        if clock is not None:
            yield clock


# -- columns -----------------------------------------------------------------------------------


def terminal_width() -> int:
    """The columns of the terminal; 80 where there is none."""
    return shutil.get_terminal_size((80, 24)).columns


def _widths(rows: Sequence[Row], width: int) -> Row:
    """How wide each column is; 0 for one that says nothing."""
    needed = [max(map(columns, cells)) for cells in zip(*rows, strict=True)]
    for place, cells in enumerate(zip(*rows[1:], strict=True)):
        if not any(cells) and _HEADING[place] != "what":
            needed[place] = 0
    sizes = Row(*needed)  # type: ignore[arg-type]  # of numbers, in the same order
    what, outcome = needed[2], needed[5]
    others = sum(size + 2 for place, size in enumerate(needed) if size and place not in (2, 5))
    free = width - 1 - others - 2 * bool(outcome)
    if what + outcome > free:
        outcome = min(outcome, max(free - what, free * 2 // 5, _LEAST_OUTCOME))
        what = max(free - outcome, _LEAST_OUTCOME)
    return sizes._replace(what=what, outcome=outcome)  # type: ignore[arg-type]  # numbers, too


def _line(mark: str, cells: Row, widths: Row) -> str:
    texts: list[str] = []
    room = 0  # columns left of the next one, which a text before it has taken
    for name, text, size in zip(Row._fields, cells, widths, strict=True):
        width = int(size)
        if not width:
            continue
        if name == "what":
            fitted = _fitted(text, width + _free_after(cells, widths))
            room = max(columns(fitted) - width, 0)
        elif room:  # the column is empty in this row
            taken = min(room, width + 2)
            texts[-1] += " " * (width + 2 - taken)
            room -= taken
            continue
        else:
            fitted = _fitted(text, width)
        padding = " " * (width - columns(fitted))
        texts.append(padding + fitted if name in ("ms", "took") else fitted + padding)
    return (mark + "  ".join(texts)).rstrip()


def _free_after(cells: Row, widths: Row) -> int:
    """How many columns are free to the right of what happened, in a row with empty cells."""
    free = 0
    for text, size in zip(cells[3:], widths[3:], strict=True):
        if text:
            break
        free += int(size) + 2 if size else 0
    return free


def _details(story: Story, place: int, cells: Row, widths: Row, width: int) -> Iterator[str]:
    """What did not fit into the row that matters, and where its message came from."""
    step = story.steps[place]
    indent = " " * (1 + sum(int(size) + 2 for size in widths[:2] if size))
    indent += " " * (len(cells.what) - len(cells.what.lstrip()) + 2)
    texts = []
    if columns(cells.what) > int(widths.what) + _free_after(cells, widths):
        texts.append(cells.what.strip())
    if (why := story.why(place)) or columns(cells.outcome) > int(widths.outcome):
        texts.append(why or cells.outcome)
    message = step.message
    known = (None, *_lines_above(story, place))
    if message is not None and not message.retries and message.location not in known:
        texts.append(f"{wording.call(message)} was sent at {wording.place(message.location)}.")
    for text in texts:
        yield from (indent + line for line in _wrapped(text, max(width - len(indent), 20)))


def _wrapped(text: str, width: int) -> Iterator[str]:
    """The text in lines of at most so many columns."""
    line = ""
    for word in text.split(" "):
        longer = f"{line} {word}" if line else word
        if columns(longer) <= width:
            line = longer
            continue
        if line:
            yield line
        line = word
        while columns(line) > width:
            head = _fitted(line, width).removesuffix("…")
            yield head
            line = line[len(head) :]
    if line:
        yield line


def _lines_above(story: Story, place: int) -> Iterator[Location | None]:
    while place >= 0:
        yield story.steps[place].line
        place = story.steps[place].parent


def columns(text: str) -> int:
    """How many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    wide = sum(east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(combining(character) != 0 for character in text)


def _fitted(text: str, size: int) -> str:
    if columns(text) <= size:
        return text
    while text and columns(text) > size - 1:
        text = text[:-1]
    return f"{text.rstrip()}…"


# The table in the report of a failing test ------------------------------------------------


def add(config: pytest.Config, report: pytest.TestReport, story: Story) -> None:
    """Add the table to the report of a test that has failed, before other sections of ours."""
    first = next(
        (place for place, (name, _) in enumerate(report.sections) if name.startswith("celery:")),
        len(report.sections),
    )
    report.sections.insert(first, (TITLE, table(story, width=_width(config))))


def _width(config: pytest.Config) -> int | None:
    """The width of pytest's own lines; ``None`` where it prints nothing, as in xdist's workers."""
    if config.pluginmanager.get_plugin("terminalreporter") is None:
        return None
    return config.get_terminal_writer().fullwidth
