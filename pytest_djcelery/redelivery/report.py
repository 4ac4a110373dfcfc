"""The section at the end of a run: which tasks are not safe to run twice, and which tests show it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pytest_djcelery.recording import second_runs

if TYPE_CHECKING:
    import pytest

    from pytest_djcelery.messages.journal import RanTwice

#: What a test has shown, as it travels with its report: each task, and its effects.
Shown = list[tuple[str, list[str]]]

_MOST_EFFECTS: Final = 3  # of one task, unless -v is given
_MOST_TESTS: Final = 2
TITLE: Final = "celery: tasks that are not safe to run twice"


def packed(events: Iterable[RanTwice]) -> Shown:
    """What a test has shown, as plain values."""
    return [(event.message.task, list(event.effects)) for event in events]


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

    def write(self, terminal: pytest.TerminalReporter, *, verbose: bool) -> None:
        """Write the section.

        Args:
            terminal: Where to.
            verbose: Whether to list all effects and all tests.
        """
        terminal.section(TITLE)
        for line in self.lines(verbose=verbose):
            terminal.write_line(line)

    def lines(self, *, verbose: bool) -> Iterator[str]:
        """The lines of the section: for each task what its second runs did, and in which tests."""
        unsafe = {name: task for name, task in sorted(self._tasks.items()) if task.effects}
        width = max(map(len, unsafe), default=0)
        for name, task in unsafe.items():
            effects = _first(list(task.effects), len(task.effects) if verbose else _MOST_EFFECTS)
            tests = _first(list(task.tests), len(task.tests) if verbose else _MOST_TESTS)
            for number, line in enumerate([*effects, *(f"in {test}" for test in tests)]):
                yield f"{name if not number else '':{width}}  {line}"
        safe = len(self._tasks) - len(unsafe)
        tests = len(self._tests)
        yield (
            f"{_count(self._runs, 'message')} of {_count(len(self._tasks), 'task')} "
            f"{'was' if self._runs == 1 else 'were'} run twice, in {_count(tests, 'test')}: "
            f"{len(unsafe) or 'no'} {'task is' if len(unsafe) == 1 else 'tasks are'} not safe, "
            f"{safe} made no difference."
        )
        if unsafe and not verbose and self._is_cut(unsafe.values()):
            yield "-v lists everything."
        if unsafe:
            yield "Rows, mails and messages are compared; files, caches and calls over the network are not."
