"""What becomes of a run with a contract, in pytest's terminal and in its JUnit file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from textwrap import wrap
from typing import TYPE_CHECKING, Final, Literal

import pytest

if TYPE_CHECKING:
    from pytest_djcelery.contract.breaks import Break, Half
    from pytest_djcelery.options import Policy


_WIDTH: Final = 96
_MOST_LINES: Final = 5  # of what is recorded against one break
_TITLES: Final[Mapping[Half, str]] = {
    "old messages": "Messages in the queue, of the release before, that break on this code",
    "new messages": "Messages of this code that break on workers of the release before, while "
    "both run",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was found, less what was planned.

    ``accepted`` has the keys of ``retired`` that accept a break, ``stale`` those that accept none.
    """

    old: tuple[Break, ...] = ()
    new: tuple[Break, ...] = ()
    rolling: Policy = "warn"
    accepted: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()

    @classmethod
    def of(cls, found: Iterable[Break], retired: Mapping[str, str], rolling: Policy) -> Verdict:
        """The verdict on some breaks, those that ``retired`` accepts left out."""
        open_breaks: list[Break] = []
        accepting: set[str] = set()
        for each in found:
            keys = each.accepted_by(retired)
            accepting.update(keys)
            if not keys:
                open_breaks.append(each)
        kept = [each for each in open_breaks if each.half == "new messages"]
        return cls(
            old=tuple(each for each in open_breaks if each.half == "old messages"),
            new=() if rolling == "ignore" else tuple(kept),
            rolling=rolling,
            accepted=tuple(sorted(accepting)),
            stale=tuple(sorted(set(retired) - accepting)),
        )

    @property
    def failing(self) -> tuple[Break, ...]:
        """The breaks that fail the run."""
        return (*self.old, *(self.new if self.rolling == "error" else ()))

    def lines(self, shown: str) -> Iterator[str]:
        """The section.

        Args:
            shown: The path of the file, as people know it.
        """
        numbers = iter(range(1, len(self.old) + len(self.new) + 1))
        for half, breaks in (("old messages", self.old), ("new messages", self.new)):
            if not breaks:
                continue
            title = _TITLES[half]  # type: ignore[index]  # the two halves
            yield f"{title}{_policy(half, self.rolling)}:"
            for each in _together(breaks):
                yield from _break_lines(each, next(numbers))
        if not self.old and not self.new:
            yield f"No message of the contract in {shown} would break."
        if self.accepted:
            yield f'Planned, by "retired" in {shown}: {", ".join(self.accepted)}.'
        if self.stale:
            yield (f'"retired" in {shown} accepts nothing in this run by: {", ".join(self.stale)}.')


def _together(breaks: Sequence[Break]) -> Iterator[Break]:
    """The breaks, those that share a reason as one."""
    shared: dict[str, list[Break]] = {}
    for each in breaks:
        if each.shared is None:
            yield each
        else:
            shared.setdefault(each.shared, []).append(each)
    for reason, several in shared.items():
        if len(several) == 1:
            yield several[0]
            continue
        names = tuple(f"recorded: {each.keys[0]}" for each in several)
        yield replace(several[0], what=f"{len(several)} tasks were {reason}", recorded=names)


def _policy(half: str, rolling: Policy) -> str:
    if half == "old messages" or rolling == "error":
        return ""
    return " (a warning: djcelery_contract_rolling = error fails the run)"


def _break_lines(each: Break, number: int) -> Iterator[str]:
    yield from _wrapped(f"{number:>2}. ", each.what)
    recorded: Sequence[str] = each.recorded
    for line in recorded[:_MOST_LINES]:
        yield f"      {line}"
    if len(recorded) > _MOST_LINES:
        yield f"      … and {len(recorded) - _MOST_LINES} more"
    yield from _wrapped("    do: ", each.remedy)
    yield f'    planned? "retired": {{"{each.keys[0]}": "the reason"}}'


def _wrapped(begin: str, text: str) -> Iterator[str]:
    indent = " " * len(begin)
    yield from wrap(
        text, _WIDTH, initial_indent=begin, subsequent_indent=indent, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def counted(count: int, one: str, several: str = "") -> str:
    """A number with the noun that it counts."""
    return f"{count} {one if count == 1 else several or f'{one}s'}"


# Shows a contract in pytest's JUnit file: a failed case for each break --------------------

_PHASES: Final[Sequence[Literal["setup", "call", "teardown"]]] = ("setup", "call", "teardown")


def add_to_junit(config: pytest.Config, breaks: Iterable[Break], summary: str) -> None:
    """Add the breaks to the file that ``--junitxml`` writes, if it writes one.

    pytest has no hook to add a case that is no test. Its writer takes reports by the hooks that it
    implements, and is found among the plugins by its class: `_pytest.junitxml.LogXML`, checked on
    pytest 8.0 to 9.2.
    """
    for plugin in config.pluginmanager.get_plugins():
        if type(plugin).__name__ == "LogXML":
            plugin.add_global_property("celery-contract", summary)
            for each in breaks:
                for report in _reports(each):
                    plugin.pytest_runtest_logreport(report)


def _reports(each: Break) -> Iterator[pytest.TestReport]:
    text = "\n".join([f"{_TITLES[each.half]}:", each.what, *each.recorded, f"do: {each.remedy}"])
    for when in _PHASES:
        fails = when == "call"
        yield pytest.TestReport(
            nodeid=f"celery-contract::{each.half}: {each.keys[0]}",
            location=("celery-contract", None, each.keys[0]),
            keywords={},
            outcome="failed" if fails else "passed",
            longrepr=text if fails else None,
            when=when,
        )
