"""Finds out what the events of a test show, and which written row a message names."""

from __future__ import annotations

import ast
import linecache
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache, lru_cache
from inspect import Parameter, signature
from math import ceil
from typing import TYPE_CHECKING, Any

from pytest_djcelery.audit import findings
from pytest_djcelery.audit.findings import Place, Shown, Sighting
from pytest_djcelery.audit.recorder import Reached, Sent, Taken
from pytest_djcelery.locations import of_traceback
from pytest_djcelery.messages.events import (
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
from pytest_djcelery.transactions.sent_in_transaction import Race

if TYPE_CHECKING:
    from pytest_djcelery.locations import Location
    from pytest_djcelery.transactions.openers import Opener
    from pytest_djcelery.transactions.writes import Rows


_LONGEST = 200  # characters of a statement
_HOUR = 3600  # seconds
_DELAYS = (".delay", ".apply_async")
_FOREIGN_HOOKS = "hooks of installed packages, which the project can't change"


class Sightings:
    """Reads the events of tests, one test after another.

    Args:
        shown: Shortens the path of a file.
        counts: Whether an atomic block with this opener belongs to the code under test.
        suite: The files of the tests.
        errors_contained: Entered around each look, so that an error in one doesn't stop the others.
    """

    def __init__(
        self,
        shown: Callable[[str], str],
        counts: Callable[[Opener], bool],
        suite: Container[str],
        errors_contained: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._shown = shown
        self._counts = counts
        self._suite = suite
        self._errors_contained = errors_contained
        self._place = cache(self._made_place)
        self._senders: dict[str, str] = {}  # by id of a task that has not ended: its test
        self._waiting: set[str] = set()  # ids of messages that no worker has taken

    def of(self, test: str, events: Iterable[Event]) -> Shown:
        """Find out what the events of a test show.

        Args:
            test: The test at whose end they were read.
            events: The events since the end of the previous test.
        """
        by_kind: _Events = {}
        for event in events:
            by_kind.setdefault(type(event), []).append(event)
        shown = Shown()
        for look in (self._races, self._beyond, self._hooks, self._mocks, self._outside):
            with self._errors_contained():
                for place, facts, sure in look(by_kind):
                    _add(shown.sightings, place, facts, sure=sure)
        with self._errors_contained():
            self._failures(test, by_kind, shown)
        with self._errors_contained():
            self._never_run(by_kind, shown)
        return shown

    def _made_place(self, kind: findings.Kind, location: Location | None, subject: str) -> Place:
        return Place(
            kind=kind.name,
            path=self._shown(location.path) if location else "",
            line=location.line if location else 0,
            function=location.function if location else "",
            code=linecache.getline(location.path, location.line).strip() if location else "",
            subject=subject,
        )

    def _races(self, events: _Events) -> Iterator[_Seen]:
        for race in _of(Race, events):
            opener = race.opener
            if not self._counts(opener):
                continue
            row = row_named(race.message, race.rows)
            written = "before it was sent"
            if race.late:
                at = f", at {self._text(race.wrote_at)}" if race.wrote_at else ""
                written = f"after it was sent{at}"
            facts = {
                "opened by": opener.text(self._shown),
                "database": _other(race.using),
                "written": written,
                "row": row,
            }
            place = self._place(findings.IN_TRANSACTION, race.message.location, race.message.task)
            yield place, facts, row is not None

    def _beyond(self, events: _Events) -> Iterator[_Seen]:
        for sent in _of(Sent, events):
            if sent.beyond is not None:
                wait, limit = sent.beyond
                facts = {
                    "ETA": f"after {duration(wait)}",
                    "limit": f"visibility_timeout of {duration(limit)}",
                    "set at least": str(ceil(wait / _HOUR + 1) * _HOUR),
                }
                yield self._place(findings.BEYOND, sent.location, sent.task), facts, False

    def _hooks(self, events: _Events) -> Iterator[_Seen]:
        due = {event.hook for event in _of(HookDue, events)}
        due -= {event.hook for kind in (HookStarted, HookDiscarded) for event in _of(kind, events)}
        for hook in _of(HookRegistered, events):
            if hook.hook not in due:
                continue
            if hook.package is not None:
                place = self._place(findings.HOOKS, None, _FOREIGN_HOOKS)
                yield place, {hook.package: hook.function}, False
                continue
            task, dot, method = hook.function.rpartition(".")
            facts: dict[str, str | None] = {
                "what": "a function",
                "database": _other(hook.using),
            }
            subject = hook.function
            if hook.through:
                facts |= {"what": f"the {hook.through} of a task", "would send": hook.task}
                subject = f"{hook.task}.{hook.through}"
            elif dot + method in _DELAYS:
                facts |= {"what": f"a call of a task's {method}", "would send": task}
            place = self._place(findings.HOOKS, hook.location, subject)
            if method == "<lambda>" and not hook.through:  # the name says nothing
                code = _statement_at(hook.location.path, hook.location.line) if place.path else ""
                facts |= {"what": "a lambda", "code": code}
            yield place, facts, False

    def _failures(self, test: str, events: _Events, shown: Shown) -> None:
        for sent in _of(Sent, events):
            if sent.id is not None:
                self._senders.setdefault(sent.id, test)  # a retry belongs to the first sender
        reads = [*_of(Looked, events), *_of(RaisedElsewhere, events)]
        for ended in unseen(_of(Ended, events), reads, self._suite):
            error = ended.value
            location = None
            if isinstance(error, BaseException):
                location = of_traceback(own_traceback(error))
            facts = {
                "raised": type(error).__qualname__,
                "ran": "by eager mode" if ended.eager else "by a worker",
            }
            place = self._place(findings.FAILURES, location, ended.task)
            sender = self._senders.get(ended.task_id, test)
            sightings = shown.sightings if sender == test else shown.late.setdefault(sender, {})
            _add(sightings, place, facts)
        for ended in _of(Ended, events):
            if not ended.goes_on:
                self._senders.pop(ended.task_id, None)

    def _never_run(self, events: _Events, shown: Shown) -> None:
        sent = {message.id: message for message in _of(Sent, events) if message.way == "broker"}
        taken = {event.task_id for kind in _TAKEN for event in _of(kind, events)}
        shown.taken = sorted(self._waiting & taken)
        self._waiting -= taken
        for task_id, message in sent.items():
            if task_id not in taken:
                self._waiting.add(task_id)
                shown.waiting[task_id] = self._place(
                    findings.NEVER_RUN, message.location, message.task
                )

    def _mocks(self, events: _Events) -> Iterator[_Seen]:
        for sent in _of(Sent, events):
            if sent.way == "mock":
                place = self._place(findings.MOCKED, sent.location, sent.task)
                facts = {
                    "mocked": sent.mocked,
                    "simulates": sent.simulates,
                    "fault": sent.fault,
                }
                yield place, facts, sent.fault is not None

    def _outside(self, events: _Events) -> Iterator[_Seen]:
        # A line that connects first and then sends is a single fact.
        for reached in dict.fromkeys(_of(Reached, events)):
            yield (
                self._place(findings.OUTSIDE, reached.location, reached.url),
                {"what": reached.what},
                False,
            )

    def _text(self, location: Location) -> str:
        return f"{self._shown(location.path)}:{location.line} in {location.function}"


_Events = dict[type[Event], list[Any]]
_Seen = tuple[Place, Mapping[str, "str | None"], bool]
_TAKEN: Any = (Taken, Ended, Looked)


def duration(seconds: float) -> str:
    """A time span as a person says it: ``2 hours``."""
    for unit, length in (("day", 24 * _HOUR), ("hour", _HOUR), ("minute", 60)):
        if seconds >= length:
            number = round(seconds / length, 1)
            return f"{number:g} {unit}{'' if number == 1 else 's'}"
    return f"{seconds:g} seconds"


def _of(kind: type[Event], events: _Events) -> list[Any]:
    return events.get(kind, [])


def _other(database: str) -> str | None:
    """The name of a database, unless it is the default: most projects have only one."""
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
    """The innermost statement at a line, in one line; only that line, if its end is unknown."""
    own = linecache.getline(path, line).strip()
    found = [
        statement
        for statement in _statements(path)
        if statement.lineno <= line <= (statement.end_lineno or 0)
    ]
    if not found or found[-1].lineno == found[-1].end_lineno or hasattr(found[-1], "body"):
        return own
    # Python 3.10 writes a space after a lambda without arguments.
    written = ast.unparse(found[-1]).replace("lambda :", "lambda:")
    return " ".join(written.split()) if len(written) <= _LONGEST else f"{written[:_LONGEST]}…"


@lru_cache(maxsize=32)
def _statements(path: str) -> list[ast.stmt]:
    """All statements in the order of the text, an outer one before those inside it."""
    try:
        tree = ast.parse("".join(linecache.getlines(path)))
    except (SyntaxError, ValueError):  # the file has changed since it was imported
        return []
    statements = [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]
    return sorted(statements, key=lambda node: (node.lineno, -(node.end_lineno or 0)))


# The row of a transaction that a message names: the surest sign of a race -----------------

_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_ENDINGS = ("_id", "_ids", "_pk", "_pks")


def row_named(message: Any, rows: Rows) -> str | None:
    """The row that the transaction wrote and that a message most likely names, in words.

    Keys are small numbers, and two models can have equal ones: the name of the argument decides,
    or else the name of the task.
    """
    found = [
        (argument, model)
        for argument in _arguments(message)
        for model in _models(argument.parameter, argument.value, rows)
    ]
    if not found:
        return None
    fitting = (argument for argument, model in found if _fits(argument.parameter, model))
    chosen = next(fitting, found[0][0])
    models = [model for argument, model in found if argument is chosen]
    models = (
        [model for model in models if _kind(model) == _plain(chosen.parameter)]
        or [model for model in models if _fits(chosen.parameter, model)]
        or [model for model in models if _kind(model) in _plain(message.task.rpartition(".")[2])]
        or models
    )
    return f"{' or '.join(dict.fromkeys(models))}, whose primary key is argument {chosen.shown}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Argument:
    shown: str  # as the call has it: its number, or its name
    parameter: str  # the parameter; ``""`` where it is not known
    value: Any


def _arguments(message: Any) -> Iterator[_Argument]:
    parameters = _parameters(message.task)
    for number, value in enumerate(message.args):
        parameter = parameters[number] if number < len(parameters) else ""
        yield _Argument(shown=str(number + 1), parameter=parameter, value=value)
    for name, value in message.kwargs.items():
        yield _Argument(shown=repr(name), parameter=str(name), value=value)


def _parameters(name: str) -> list[str]:
    """The names of a task's positional parameters, if its app knows it by now.

    ``_tasks`` is private: ``tasks`` would finalize the app. Checked on Celery 5.4 to 5.7.
    """
    app = sys.modules["celery._state"].get_current_app()
    task = dict.get(app._tasks, name) if app.finalized else None
    if task is None:
        return []
    try:
        found = signature(task.run).parameters.values()
    except (TypeError, ValueError):  # it has no signature
        return []
    return [parameter.name for parameter in found if parameter.kind in _POSITIONAL]


def _models(name: str, value: Any, rows: Rows) -> list[str]:
    models = [model for part in _flat(value) for model in rows.named_by(part)]
    if any(_fits(name, model) for model in models) or not _is_a_model(name):
        return models
    return []  # it is the key of another model's row


def _flat(value: Any) -> Iterable[Any]:
    # By their types: asking a lazy object for its class would evaluate it.
    if issubclass(type(value), dict):
        return value.values()  # type: ignore[no-any-return]  # mypy takes no type from issubclass
    return value if issubclass(type(value), list | tuple | set | frozenset) else (value,)


def _fits(name: str, model: str) -> bool:
    """Whether an argument is named after a model (``app.Model``): ``order_id`` fits an Order."""
    parameter, kind = _plain(name), _kind(model)
    return bool(parameter) and (parameter in kind or kind in parameter)


def _kind(model: str) -> str:
    return model.rpartition(".")[2].lower()


def _is_a_model(name: str) -> bool:
    """Whether an argument is named after one of the project's models."""
    apps = sys.modules["django.apps"].apps
    return _plain(name) in {model.__name__.lower() for model in apps.get_models()}


def _plain(name: str) -> str:
    if f"_{name}" in _ENDINGS:  # ``id`` names no model
        return ""
    for ending in _ENDINGS:
        name = name.removesuffix(ending)
    return name.replace("_", "").lower()
