"""Races: messages that a worker may run before the transaction they were sent in commits."""

from __future__ import annotations

import ast
import linecache
import re
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pytest_djcelery import locations
from pytest_djcelery.errors import SentInTransactionError, SentInTransactionWarning
from pytest_djcelery.messages.events import Ended, Event, RaceRaised
from pytest_djcelery.messages.task_code import short_code
from pytest_djcelery.messages.wire import shown

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, TracebackType

    from pytest_djcelery.locations import Location
    from pytest_djcelery.messages.events import Note
    from pytest_djcelery.messages.journal import Journal
    from pytest_djcelery.messages.sent_task import SentTask
    from pytest_djcelery.messages.task_message import Message, TaskMessage
    from pytest_djcelery.options import Policy
    from pytest_djcelery.transactions.blocks import OpenTransaction
    from pytest_djcelery.transactions.openers import Opener
    from pytest_djcelery.transactions.writes import Rows

_TASKS: Final = "celery.app."  # where Celery turns an error into a task's failure or a retry
_NAMED: Final = re.compile("SentInTransaction|Djcelery(?:Error|Warning)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Race(Event):
    """A message was published inside a transaction that writes: a worker may overtake the commit.

    ``opener`` opened the transaction, on the database ``using``; ``rows`` are those it has written.
    ``late`` means that it first wrote after the message was sent, at ``wrote_at``.
    """

    message: Message
    using: str
    opener: Opener
    rows: Rows
    late: bool = False
    wrote_at: Location | None = None


class RaceDetector:
    """Finds the messages that were sent inside a transaction that writes.

    While a transaction hasn't written there is no race; the messages sent in it are remembered
    until it does.

    Args:
        report: Called with the races of one transaction, all at once.
    """

    def __init__(self, report: Callable[[list[Race]], None]) -> None:
        self._report = report

    def sent(self, message: Message, transactions: list[OpenTransaction]) -> None:
        """Check a message that is about to be published inside these transactions."""
        __tracebackhide__ = True
        if not transactions:
            return
        writing = next((transaction for transaction in transactions if transaction.wrote), None)
        if writing is not None:
            self._report([_race(message, writing)])
        else:
            for transaction in transactions:
                transaction.sent_before_write.append(message)

    def wrote(self, transaction: OpenTransaction) -> None:
        """Check the messages that were sent in a transaction before this, its first write."""
        __tracebackhide__ = True
        if transaction.sent_before_write:
            self._report_late(transaction, locations.of_caller())

    def ended(self, transaction: OpenTransaction) -> None:
        """Note that a transaction is over, before its writes are committed or rolled back."""

    def _report_late(self, transaction: OpenTransaction, wrote_at: Location | None) -> None:
        __tracebackhide__ = True
        late = list(transaction.sent_before_write)
        for other in (transaction, *transaction.thread.transactions):
            other.sent_before_write = [
                message for message in other.sent_before_write if message not in late
            ]
        self._report(
            [_race(message, transaction, late=True, wrote_at=wrote_at) for message in late]
        )


def _race(message: Message, transaction: OpenTransaction, **facts: Any) -> Race:
    return Race(
        message=message,
        using=transaction.using,
        opener=transaction.opener,
        rows=transaction.rows,
        **facts,
    )


class DeferredRaceDetector(RaceDetector):
    """Reports a write that followed a message only when the transaction ends.

    Until then a savepoint may be rolled back, and with it the write.
    """

    def wrote(self, transaction: OpenTransaction) -> None:
        """Note the place of the first write; after a rollback of it, the next one is the first."""
        transaction.wrote_at = locations.of_caller()

    def ended(self, transaction: OpenTransaction) -> None:
        """Check the messages that were sent in it before it wrote."""
        if transaction.wrote and transaction.sent_before_write:
            self._report_late(transaction, transaction.wrote_at)


class RacePolicy:
    """Turns races into a warning or an error, in a test that uses the plugin."""

    def __init__(
        self,
        journal: Journal,
        policy: Callable[[], Policy],
        warn: Callable[[str, Location | None], None],
    ) -> None:
        self._journal = journal
        self._policy = policy
        self._warn = warn

    def __call__(self, found: list[Race]) -> None:
        """Warn or raise.

        Raises:
            SentInTransactionError: The policy is ``"error"``.
        """
        __tracebackhide__ = True
        policy = self._policy()
        if policy == "ignore":
            return
        for race in found:
            self._journal.append(race)
        try:
            self._report(found, policy)
        except (SentInTransactionError, SentInTransactionWarning) as error:
            # The code under test may catch it.
            self._journal.append(RaceRaised(error=error, tests=locations.tests_running()))
            raise

    def _report(self, found: list[Race], policy: Policy) -> None:
        __tracebackhide__ = True
        texts = [sent_in_transaction(race) for race in found]
        if policy == "error":
            raise SentInTransactionError("\n\n".join(texts))
        for race, text in zip(found, texts, strict=True):
            self._warn(text, race.message.location)


def warn(text: str, location: Location | None) -> None:
    """Warn of a message, at the line that sent it."""
    __tracebackhide__ = True  # where warnings are errors
    # Without a registry, so that no filter takes a second message for a repetition of the first.
    warnings.warn_explicit(
        SentInTransactionWarning(text),
        None,
        filename=location.path if location else "<unknown>",
        lineno=location.line if location else 1,
    )


def sent_in_transaction(race: Race) -> str:
    """The text of ``SentInTransactionWarning`` and ``SentInTransactionError``."""
    from pytest_djcelery.messages.descriptions import message_text  # loads Celery

    message: Any = race.message
    using, nowhere = race.using, "no line of the project"
    written = "before it was sent"
    if race.late:
        written = f"after it was sent, at {race.wrote_at or nowhere}"
    lines = (
        f"{message_text(message)} was sent inside an open ",
        f"transaction of the database {using!r}, which also writes.\n",
        f"  sent at:   {message.location or nowhere}\n",
        f"  opened by: {race.opener}\n",
        f"  written:   {written}\n",
        "A worker may run the task before the commit, and so not see what was written; it will ",
        "run it even if the transaction is rolled back.\n",
        _remedy(message, using),
    )
    return "".join(lines)


def _remedy(message: TaskMessage, using: str) -> str:
    from celery import current_app
    from django.db import DEFAULT_DB_ALIAS

    from pytest_djcelery.messages.descriptions import arguments_text, enqueue_text

    if message.django_call is not None:
        database = "" if using == DEFAULT_DB_ALIAS else f", using={using!r}"
        hook = enqueue_text(message.django_call, partial=True)
        return f"Send it after the commit: transaction.on_commit({hook}{database})"
    task = current_app.tasks.get(message.task)
    name, arguments = short_code(message.task, task), arguments_text(message.args, message.kwargs)
    method = "apply_async" if _sent_with_options(message) else "delay"
    if method == "apply_async":
        arguments = f"args={shown(tuple(message.args))}, …" if message.args else "…"
    call = f"{name}.{method}({arguments})"
    if message.chain or message.group_id or message.chord is not None:
        call = "<the chain, group or chord>.delay()"
    elif task is None:
        call = f"app.send_task({message.task!r}, …)"
    if message.transaction == "on_commit" or using != DEFAULT_DB_ALIAS:
        why = (
            "The on_commit hook that sent it waited for another database."
            if message.transaction == "on_commit"
            else f"delay_on_commit waits for the database {DEFAULT_DB_ALIAS!r} only."
        )
        return (
            f"{why} Send it after the commit: "
            f"transaction.on_commit(lambda: {call}, using={using!r})"
        )
    if call.startswith(("<", "app.send_task")):
        return f"Send it after the commit: transaction.on_commit(lambda: {call})"
    if not hasattr(task, "delay_on_commit"):
        return (
            f"Send it after the commit: transaction.on_commit(lambda: {call}). "
            f"{name} has no delay_on_commit, because its class {_base_of(task)} does not inherit "
            "from celery.contrib.django.task.DjangoTask."
        )
    return f"Send it after the commit: {name}.{method}_on_commit({arguments})"


def _base_of(task: Any) -> str:
    # ``@app.task`` makes a class for each task; its base is the one that the project chose.
    cls = type(task)
    base = cls.__mro__[1] if vars(cls).get("_decorated") else cls
    return f"{base.__module__}.{base.__qualname__}"


def _sent_with_options(message: TaskMessage) -> bool:
    place = message.location
    if place and "apply_async" in linecache.getline(place.path, place.line):
        return True
    options = (message.eta, message.expires, message.priority, message.links, message.link_errors)
    return any(option not in (None, ()) for option in options)


def swallowed_races(journal: Journal, since: int = 0) -> list[RaceRaised]:
    """The errors that reached neither the test nor a task's result, in order.

    Args:
        journal: The journal in which the races are recorded.
        since: The position in the journal from which errors count.
    """
    raised = {id(event.error): event for event in journal.events(RaceRaised, since)}
    return [event for event in raised.values() if not _surfaced(event)]


def swallowed_text(swallowed: list[RaceRaised]) -> str:
    """The text of the failure at the end of the test."""
    return "\n".join(_lines(swallowed))


class ReportedRaces:
    """A journal of another process, where only that process can see what becomes of an error.

    As a task ends, the errors that its code has caught are reported with the place.

    Args:
        report: Called with each event for the journal of the test.
    """

    def __init__(self, report: Callable[[Event], None]) -> None:
        self._report = report
        self._of_thread = threading.local()

    def append(self, event: Event) -> None:
        """Report an event; an error on a message inside a transaction only where it is caught."""
        raised: dict[int, RaceRaised] = vars(self._of_thread).setdefault("raised", {})
        if isinstance(event, RaceRaised):
            raised[id(event.error)] = event
            return
        if isinstance(event, Ended):
            for caught in [event for event in raised.values() if not _surfaced(event)]:
                place = _place(caught.error.__traceback__)
                error = caught.error.with_traceback(None)
                self._report(RaceRaised(error=error, tests=frozenset(), caught_at=place))
            raised.clear()
        self._report(event)

    def note(self, note: Note) -> None:
        """Do nothing: blocks are known by numbers of this process."""

    def wake(self) -> None:
        """Nobody waits here."""

    def sent(self, task_id: str) -> list[SentTask]:
        """No messages: the journal of the test has them."""
        return []


def _lines(swallowed: list[RaceRaised]) -> Iterator[str]:
    for event in swallowed:
        error = event.error
        name = type(error).__name__
        yield f"{name} was raised, but the code under test caught it, so the test did not see it."
        yield f"  caught at: {event.caught_at or _place(error.__traceback__)}"
        yield str(error)
        yield ""
    yield "To let such messages pass: @pytest.mark.celery_sent_in_transaction('ignore'), or"
    yield "djcelery_sent_in_transaction = ignore for the whole run."


def _surfaced(event: RaceRaised) -> bool:
    """Whether an error was caught by the test, for a task's result, or by its own name.

    A traceback grows with each frame that the error leaves: the outermost frame caught it.
    """
    traceback = event.error.__traceback__
    if traceback is None:
        return False
    frame = traceback.tb_frame
    return (
        frame.f_code in event.tests
        or locations.in_runner(frame)
        or _module(frame).startswith(_TASKS)
        or _caught_by_name(frame.f_code.co_filename, traceback.tb_lineno)
    )


def _caught_by_name(path: str, line: int) -> bool:
    """Whether an ``except`` or a ``with pytest.raises(…)`` around a line means these errors."""
    try:
        tree = ast.parse("".join(linecache.getlines(path)))
    except SyntaxError:
        return False
    return any(
        _NAMED.search(ast.unparse(expression))
        for node in ast.walk(tree)
        if isinstance(node, ast.Try | ast.With | ast.AsyncWith) and _around(node.body, line)
        for expression in _catching_expressions(node)
    )


def _catching_expressions(node: ast.Try | ast.With | ast.AsyncWith) -> list[ast.expr]:
    if isinstance(node, ast.Try):
        return [handler.type for handler in node.handlers if handler.type is not None]
    return [item.context_expr for item in node.items]


def _around(body: list[ast.stmt], line: int) -> bool:
    return body[0].lineno <= line <= (body[-1].end_lineno or line)


def _place(traceback: TracebackType | None) -> str:
    if traceback is None:
        return "an unknown line"
    frame = traceback.tb_frame
    code = frame.f_code
    if locations.in_library(code.co_filename):
        return f"{_module(frame)}.{getattr(code, 'co_qualname', code.co_name)}"
    return f"{locations.relative(code.co_filename)}:{traceback.tb_lineno} in {code.co_name}"


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__"))
