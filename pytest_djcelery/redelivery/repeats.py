"""Which messages of a test are run twice, and what their second runs do."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, Protocol

from pytest_djcelery.errors import BadOptionError, DjceleryWarning
from pytest_djcelery.messages.descriptions import message_text
from pytest_djcelery.messages.events import Ended, NotSent, Published, RanTwice
from pytest_djcelery.recording.second_runs import second_run, task_of
from pytest_djcelery.redelivery.rows import WrittenRows

if TYPE_CHECKING:
    from pytest_djcelery.messages.sent_task import SentTask
    from pytest_djcelery.options import Options
    from pytest_djcelery.session.sandbox import Sandbox


class Repeats:
    """Has each message that ran to success run once more, and notes what that does.

    Args:
        sandbox: The sandbox of the test.
        noted: Called with each message that was run twice, if that is to be reported.
    """

    def __init__(self, sandbox: Sandbox, noted: Callable[[RanTwice], None]) -> None:
        self._sandbox = sandbox
        self._noted = noted
        self._checked: Options | None = None
        self._exempt: Collection[str] = ()
        # A message that the test has redelivered is not run a third time.
        self._repeated: set[tuple[object, ...]] = set()

    def follow_options(self) -> None:
        """Exempt the tasks that the options of the running test name.

        Raises:
            BadOptionError: One of them is not registered.
        """
        __tracebackhide__ = True
        options = self._sandbox.options
        if options is not self._checked:
            _check_exempt(options, self._sandbox.app)
            self._checked = options
            self._exempt = {*options.redeliver_exempt, *options.redeliver_exempt_here}

    def repeats(self, message: SentTask) -> bool:
        """Whether a message that has run to success is run once more."""
        task = task_of(message)
        return not (
            task.startswith("celery.")
            or task in self._exempt
            or message._identity() in self._repeated
        )

    @contextmanager
    def second_run(self, message: SentTask) -> Iterator[Callable[[Run], None]]:
        """Enter around a second run; then take back what it has done, and note what that was."""
        sandbox, kept = self._sandbox, self._sandbox.outcomes_kept
        self._repeated.add(message._identity())
        effects = Effects(sandbox, message)
        kept.add(message.id)
        try:
            with second_run(), warnings.catch_warnings(), effects.taken_back() as ended:
                warnings.simplefilter("ignore", DjceleryWarning)  # the first run has given them
                yield ended
        finally:
            kept.discard(message.id)
        event = RanTwice(task_id=message.id, message=message, effects=effects.found)
        sandbox.journal.append(event)
        if sandbox.options.redeliver == "report":
            self._noted(event)


def _check_exempt(options: Options, app: Any) -> None:
    for where, names in (
        ("djcelery_redeliver_exempt", options.redeliver_exempt),
        ("@pytest.mark.celery_redeliver(exempt=…)", options.redeliver_exempt_here),
    ):
        for name in names:
            if name not in app.tasks:
                near = get_close_matches(name, app.tasks, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                msg = (
                    f"{where}: no task {name!r} is registered here. Expected the names of tasks, "
                    f"as in shop.tasks.ship.{hint}"
                )
                raise BadOptionError(msg)


# What a second run does, in words: exception, rows, messages, mails; then it is undone ----

_LONGEST: Final = 200  # characters of an exception's text


class Run(Protocol):
    """How a run of a task has ended."""

    @property
    def state(self) -> str:
        """Celery's state."""

    @property
    def exception(self) -> BaseException | None:
        """What the task raised."""


class Effects:
    """What one second run has done.

    Args:
        sandbox: The sandbox of the test.
        message: The message that is run again.
    """

    def __init__(self, sandbox: Sandbox, message: SentTask) -> None:
        self._sandbox = sandbox
        self._message = message
        self.found: tuple[str, ...] = ()

    @contextmanager
    def taken_back(self) -> Iterator[Callable[[Run], None]]:
        """Within the ``with``, find the effects of a run; then undo them.

        Yields what is to be called with how the run has ended.
        """
        sandbox = self._sandbox
        runs: list[Run] = []
        with (
            sandbox.journal.taken_back() as since,
            sandbox.watch.hooks_restored(),
            WrittenRows() as rows,
            _mails_taken_back() as mails,
        ):
            sandbox.watch.before_procedure = rows.procedure_called
            try:
                yield runs.append
            finally:
                sandbox.watch.before_procedure = lambda _: None
            self.found = (
                *self._end(runs, since),
                *rows.changes(),
                *_several(self._published(since)),
                *_several(mails()),
            )

    def _end(self, runs: Iterable[Run], since: int) -> Iterator[str]:
        """How the run has ended, if that is worse than before."""
        expected = {
            id(event.value)
            for event in self._sandbox.journal.events(Ended, since)
            if event.expected
        }
        for run in runs:
            error = run.exception
            if run.state == "FAILURE" and id(error) not in expected:
                yield f"raised {_error_text(error)}"
            elif run.state == "RETRY":
                yield f"retried because of {_error_text(getattr(error, 'exc', None) or error)}"
            elif getattr(error, "requeue", False):
                yield "put its message back into the queue (Reject with requeue=True)"

    def _published(self, since: int) -> Iterator[str]:
        journal = self._sandbox.journal
        failed = {id(event.message) for event in journal.events(NotSent, since)}
        for event in journal.events(Published, since):
            own = event.message.id == self._message.id  # a retry of itself
            if not (own or event.eager or id(event.message) in failed):
                yield f"published {message_text(event.message)}"


@contextmanager
def _mails_taken_back() -> Iterator[Callable[[], Iterator[str]]]:
    """Within the ``with``, tell which mails were sent; then have them not sent.

    Those are what Django's ``locmem`` backend has kept, to which tests send all mail.
    """
    mail: Any = sys.modules.get("django.core.mail")
    outbox: Any = getattr(mail, "outbox", None)
    sent = len(outbox or ())

    def new() -> Iterator[str]:
        now = getattr(mail, "outbox", None) or []
        for message in now[sent if now is outbox else 0 :]:
            recipients = ", ".join(message.recipients()) or "nobody"
            yield f'mail "{message.subject}" to {recipients}'

    try:
        yield new
    finally:
        if outbox is not None:
            del outbox[sent:]
            mail.outbox = outbox


def _several(lines: Iterable[str]) -> Iterator[str]:
    """Each line once, with how often it was there."""
    for line, count in Counter(lines).items():
        yield line if count == 1 else f"{line}, {count} times"


def _error_text(error: object) -> str:
    text = " ".join(str(error).split())
    cut = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
    return f"{type(error).__name__}: {cut}" if cut else type(error).__name__
