"""The section at the end of a run: which tasks are not safe to run twice, and in which tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pytest_djcelery.recording.second_runs import task_of

if TYPE_CHECKING:
    import pytest

    from pytest_djcelery.messages.events import RanTwice

#: What a test has shown, as it travels with its report: each task, and its effects.
Shown = list[tuple[str, list[str]]]

_MOST_EFFECTS: Final = 3  # of one task, unless -v is given
_MOST_TESTS: Final = 2
TITLE: Final = "celery: tasks that are not safe to run twice"


def packed(events: Iterable[RanTwice]) -> Shown:
    """What a test has shown, as plain values."""
    return [(task_of(event.message), list(event.effects)) for event in events]


@dataclass(slots=True)
class _Task:
    """What second runs of a task have done: each effect, and the tests, once and in order."""

    effects: dict[str, None] = field(default_factory=dict)
    tests: dict[str, None] = field(default_factory=dict)


class Report:
    """What all tests have shown."""

    def __init__(self) -> None:
        self._tasks: dict[str, _Task] = {}
        self._tests: set[str] = set()
        self._runs = 0

    def add(self, test: str, shown: Shown) -> None:
        """Add what one test has shown.

        Args:
            test: Its node id.
            shown: As `packed`.
        """
        self._tests.add(test)
        for name, effects in shown:
            self._runs += 1
            task = self._tasks.setdefault(name, _Task())
            if effects:
                task.effects.update(dict.fromkeys(effects))
                task.tests[test] = None

    def write(self, terminal: pytest.TerminalReporter) -> None:
        """Write the section: with -v all effects and all tests."""
        terminal.section(TITLE)
        for line in self.lines(verbose=terminal.verbosity > 0):
            terminal.write_line(line)

    def lines(self, *, verbose: bool) -> Iterator[str]:
        """The lines of the section: for each task what its second runs did, and in which tests."""
        unsafe = {name: task for name, task in sorted(self._tasks.items()) if task.effects}
        width = max(map(len, unsafe), default=0)
        for name, task in unsafe.items():
            lines = [
                *_first(task.effects, None if verbose else _MOST_EFFECTS, "effect"),
                *_first(
                    [f"in {test}" for test in task.tests], None if verbose else _MOST_TESTS, "test"
                ),
            ]
            for number, line in enumerate(lines):
                yield f"{'' if number else name:{width}}  {line}"
        messages, tasks = _count(self._runs, "message"), _count(len(self._tasks), "task")
        verb = "was" if self._runs == 1 else "were"
        found = "none made a difference"
        if unsafe:
            found = f"{_count(len(unsafe), 'task')} {'is' if len(unsafe) == 1 else 'are'} not safe"
        tests = _count(len(self._tests), "test")
        yield f"{messages} of {tasks} {verb} run twice, in {tests}: {found}."
        yield "Rows, messages and mails were compared, not files, caches or calls over the network."


def _first(lines: Iterable[str], most: int | None, noun: str) -> list[str]:
    """The first lines, and how many more there are."""
    found = list(lines)
    more = 0 if most is None else len(found[most:])
    return [*found[:most], f"and {more} more {noun}{'s' * (more > 1)} (-v)"] if more else found


def _count(number: int, noun: str) -> str:
    return f"1 {noun}" if number == 1 else f"{number} {noun}s"
