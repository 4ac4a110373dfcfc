"""What the events of a test show."""

from __future__ import annotations

import ast
import linecache
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from pytest_djcelery.audit import kinds
from pytest_djcelery.audit.findings import Place, Shown, Sighting
from pytest_djcelery.audit.named_rows import row_named
from pytest_djcelery.audit.recorder import Reached, Sent, Taken
from pytest_djcelery.locations import of_traceback
from pytest_djcelery.messages.journal import (
    Ended,
    Event,
    HookDiscarded,
    HookDue,
    HookRegistered,
    HookStarted,
    Looked,
    RaisedElsewhere,
)
from pytest_djcelery.recording.failures import own_traceback, unseen
from pytest_djcelery.transactions.races import Race

if TYPE_CHECKING:
    from pytest_djcelery.locations import Location
    from pytest_djcelery.transactions.openers import Opener

_LONGEST = 200  # characters of a statement
_DELAYS = (".delay", ".apply_async")
_FOREIGN_HOOKS = "hooks of installed packages, which the project can't change"


class Sightings:
    """Reads the events of tests, one after another.

    Args:
        shown: shortens the path of a file.
        counts: whether an atomic block that something has opened is of the code under test.
        suite: the files of the tests.
        unharmed: around each look; keeps what goes wrong in it from the others.
    """

    def __init__(
        self,
        shown: Callable[[str], str],
        counts: Callable[[Opener], bool],
        suite: Container[str],
        unharmed: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._shown = shown
        self._counts = counts
        self._suite = suite
        self._unharmed = unharmed
        self._place = cache(self._made_place)
        self._senders: dict[str, str] = {}  # of messages whose task has not ended: the test
        self._waiting: set[str] = set()  # messages that no worker has taken

    def of(self, test: str, events: Iterable[Event]) -> Shown:
        """What they show.

        Args:
            test: at whose end they were read.
            events: since the end of the test before.
        """
        by_kind: _Events = {}
        for event in events:
            by_kind.setdefault(type(event), []).append(event)
        shown = Shown()
        for look in (self._races, self._hooks, self._mocks, self._outside):
            with self._unharmed():
                for place, facts, sure in look(by_kind):
                    _add(shown.sightings, place, facts, sure=sure)
        with self._unharmed():
            self._failures(test, by_kind, shown)
        with self._unharmed():
            self._never_run(by_kind, shown)
        return shown

    def _made_place(self, kind: kinds.Kind, location: Location | None, subject: str) -> Place:
        return Place(
            kind=kind.name,
            path=self._shown(location.path) if location else "",
            line=location.line if location else 0,
            function=location.function if location else "",
            code=linecache.getline(location.path, location.line).strip() if location else "",
            subject=subject,
        )

    def _races(self, events: _Events) -> Iterator[_Seen]:
        for each in _of(Race, events):
            opener = each.opener
            if not self._counts(opener):
                continue
            row = row_named(each.message, each.rows)
            written = "before it was sent"
            if each.late:
                at = f", at {self._text(each.wrote_at)}" if each.wrote_at else ""
                written = f"after it was sent{at}"
            facts = {
                "opened by": opener.text(self._shown),
                "database": _other(each.using),
                "written": written,
                "row": row,
            }
            place = self._place(kinds.IN_TRANSACTION, each.message.location, each.message.task)
            yield place, facts, row is not None

    def _hooks(self, events: _Events) -> Iterator[_Seen]:
        due = {each.hook for each in _of(HookDue, events)}
        due -= {each.hook for kind in (HookStarted, HookDiscarded) for each in _of(kind, events)}
        for each in _of(HookRegistered, events):
            if each.hook not in due:
                continue
            if each.package is not None:
                place = self._place(kinds.HOOKS, None, _FOREIGN_HOOKS)
                yield place, {each.package: each.function}, False
                continue
            task, dot, method = each.function.rpartition(".")
            facts: dict[str, str | None] = {
                "what": "a function",
                "database": _other(each.using),
            }
            subject = each.function
            if each.through:
                facts |= {"what": f"the {each.through} of a task", "would send": each.task}
                subject = f"{each.task}.{each.through}"
            elif dot + method in _DELAYS:
                facts |= {"what": f"a call of a task's {method}", "would send": task}
            place = self._place(kinds.HOOKS, each.location, subject)
            if method == "<lambda>" and not each.through:  # a name that says nothing
                code = _statement_at(each.location.path, each.location.line) if place.path else ""
                facts |= {"what": "a lambda", "code": code}
            yield place, facts, False

    def _failures(self, test: str, events: _Events, shown: Shown) -> None:
        for each in _of(Sent, events):
            if each.id is not None:
                self._senders.setdefault(each.id, test)  # which a retry is of, too
        reads = [*_of(Looked, events), *_of(RaisedElsewhere, events)]
        for each in unseen(_of(Ended, events), reads, self._suite):
            error = each.value
            location = None
            if isinstance(error, BaseException):
                location = of_traceback(own_traceback(error))
            facts = {
                "raised": type(error).__qualname__,
                "ran": "by eager mode" if each.eager else "by a worker",
            }
            place = self._place(kinds.FAILURES, location, each.task)
            sender = self._senders.get(each.task_id, test)
            sightings = shown.sightings if sender == test else shown.late.setdefault(sender, {})
            _add(sightings, place, facts)
        for each in _of(Ended, events):
            if not each.goes_on:
                self._senders.pop(each.task_id, None)

    def _never_run(self, events: _Events, shown: Shown) -> None:
        sent = {each.id: each for each in _of(Sent, events) if each.way == "broker"}
        taken = {each.task_id for kind in _TAKEN for each in _of(kind, events)}
        shown.taken = sorted(self._waiting & taken)
        self._waiting -= taken
        for task_id, each in sent.items():
            if task_id not in taken:
                self._waiting.add(task_id)
                shown.waiting[task_id] = self._place(kinds.NEVER_RUN, each.location, each.task)

    def _mocks(self, events: _Events) -> Iterator[_Seen]:
        for each in _of(Sent, events):
            if each.way == "mock":
                place = self._place(kinds.MOCKED, each.location, each.task)
                facts = {
                    "mocked": each.mocked,
                    "simulates": each.simulates,
                    "fault": each.fault,
                }
                yield place, facts, each.fault is not None

    def _outside(self, events: _Events) -> Iterator[_Seen]:
        # That a line connects first, and then sends, is one fact.
        for each in dict.fromkeys(_of(Reached, events)):
            yield self._place(kinds.OUTSIDE, each.location, each.url), {"what": each.what}, False

    def _text(self, location: Location) -> str:
        return f"{self._shown(location.path)}:{location.line} in {location.function}"


_Events = dict[type[Event], list[Any]]
_Seen = tuple[Place, Mapping[str, "str | None"], bool]
_TAKEN: Any = (Taken, Ended, Looked)


def _of(kind: type[Event], events: _Events) -> list[Any]:
    return events.get(kind, [])


def _other(database: str) -> str | None:
    """A database that has to be told: most projects have one."""
    return None if database == "default" else database


def _add(
    sightings: dict[Place, Sighting],
    place: Place,
    facts: Mapping[str, str | None],
    *,
    sure: bool = False,
) -> None:
    sightings.setdefault(place, Sighting()).add(facts, sure=sure)


@lru_cache(maxsize=256)
def _statement_at(path: str, line: int) -> str:
    """The innermost statement of a line in one line, or that line alone where it can't be told."""
    own = linecache.getline(path, line).strip()
    found = [each for each in _statements(path) if each.lineno <= line <= (each.end_lineno or 0)]
    if not found or found[-1].lineno == found[-1].end_lineno or hasattr(found[-1], "body"):
        return own
    # Python 3.10 writes a space behind a lambda without arguments.
    written = ast.unparse(found[-1]).replace("lambda :", "lambda:")
    return " ".join(written.split()) if len(written) <= _LONGEST else f"{written[:_LONGEST]}…"


@lru_cache(maxsize=32)
def _statements(path: str) -> list[ast.stmt]:
    """In the order of the text, the outer before those in it."""
    try:
        tree = ast.parse("".join(linecache.getlines(path)))
    except (SyntaxError, ValueError):  # what is there now is not what runs
        return []
    statements = [each for each in ast.walk(tree) if isinstance(each, ast.stmt)]
    return sorted(statements, key=lambda each: (each.lineno, -(each.end_lineno or 0)))
