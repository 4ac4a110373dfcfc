"""``celery_outbox``: every message that a test published, to compare with signatures."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kombu import Queue

from pytest_djcelery.errors import (
    BadOptionError,
    DjceleryError,
    MessageNotSentError,
    NotASignatureError,
    NotOneMessageError,
)
from pytest_djcelery.messages.canvas import Canvas
from pytest_djcelery.messages.descriptions import enqueue_text
from pytest_djcelery.messages.django_tasks import is_django_task
from pytest_djcelery.messages.events import (
    Event,
    HookDiscarded,
    HookRegistered,
    HookStarted,
    NotSent,
    Published,
)
from pytest_djcelery.messages.journal import refuse_unseen
from pytest_djcelery.messages.listing import Listing, Matcher, TaskSelection
from pytest_djcelery.messages.matching import expectation
from pytest_djcelery.messages.sent_task import SentTask
from pytest_djcelery.messages.wire import is_mock_call, shown
from pytest_djcelery.session.opening import entered, entered_sandbox

if TYPE_CHECKING:
    from typing import Any

    from pytest_djcelery.messages.journal import Journal
    from pytest_djcelery.messages.listing import AnyTask


class Outbox(Listing[SentTask]):
    """The messages of a test, to assert what the code under test has sent.

    The fixture ``celery_outbox`` and the context manager `outbox` give one. It is a sequence of
    `SentTask`, oldest first, as a worker would receive them, and grows as messages are published.
    Compare it with a list of Celery signatures: ``assert celery_outbox == [send_email.s(user.pk)]``
    compares the task, the call and each option that the signature sets. ``of()``, ``on_queue()``,
    ``after_commit`` and ``in_transaction`` show parts of it, ``canvas`` the chains, groups and
    chords, ``one()`` a single message, and ``wait_for()`` one that is yet to come.

    Args:
        journal: The journal in which messages are recorded.
        since: The position in the journal where this outbox begins.
        until: The position where it ends; ``None`` if it is still open.
        timeout: Seconds that :meth:`wait_for` waits by default.
        situation: Says what else is going on (workers, pending hooks), for failure texts.
    """

    description = "celery_outbox"

    def __init__(
        self,
        journal: Journal,
        *,
        since: int = 0,
        until: int | None = None,
        timeout: float = 10.0,
        situation: Callable[[], str] = str,
    ) -> None:
        self._journal = journal
        self._until = until
        self._timeout = timeout
        self.situation = situation
        self._lock = threading.Lock()
        self._read_from(since)

    def _read_from(self, position: int) -> None:
        self._since = self._position = position
        self._messages: list[SentTask] = []

    def items(self) -> Sequence[SentTask]:
        """The messages so far; each part of the journal is only read once."""
        with self._lock:
            end = len(self._journal) if self._until is None else self._until
            if end > self._position:
                events = list(self._journal.events(Event, self._position))
                events = events[: end - self._position]
                self._position += len(events)
                for event in events:
                    if isinstance(event, Published):
                        self._messages.append(event.message)
                    elif isinstance(event, NotSent):
                        self._messages.remove(event.message)
            return self._messages

    def matcher(self, written: object) -> Matcher[SentTask]:
        if is_django_task(written):
            self.refuse_unseen(written)
        if is_mock_call(written):
            raise NotASignatureError(
                f"{written!r} does not say which task was called: compare it with the messages of "
                f"one task, {self.description}.of(task) == [{written!r}]"
            )
        return expectation(written)

    def refuse_unseen(self, task: Any) -> None:
        """Refuse to answer for a Django task whose messages can't be seen.

        Raises:
            BridgedMessageNotSeenError: It was enqueued here, but no Celery message of it was seen.
        """
        refuse_unseen(self._journal, task.module_path, self._since, self._until)

    def circumstances(self) -> list[str]:
        started: set[int] = set()
        registered: dict[int, HookRegistered] = {}
        discarded: dict[int, str] = {}
        for event in self._journal.events(Event):
            if isinstance(event, HookRegistered):
                registered[event.hook] = event
            elif isinstance(event, HookStarted):
                started.add(event.hook)
            elif isinstance(event, HookDiscarded):
                discarded[event.hook] = event.reason
        return [
            f"The on_commit hook {event.function} ({event.location}) was discarded: "
            f"{discarded[hook]}; see celery_on_commit.discarded."
            if hook in discarded
            else f"The on_commit hook {event.function} ({event.location}) still waits for its "
            "commit; see celery_on_commit.pending."
            for hook, event in registered.items()
            if hook not in started or hook in discarded
        ]

    # -- views -------------------------------------------------------------------------------

    def of(self, task: AnyTask, /, **arguments: object) -> Outbox:
        """The messages of one task, or those of them whose call includes these arguments.

        ``celery_outbox.of(send_email, user_pk=1)`` has the message of ``send_email.delay(1)`` as
        well as that of ``send_email.delay(user_pk=1, subject="Hello")``. Default values and names
        inside ``**kwargs`` count too; ``mock.ANY`` and dirty-equals values work at any depth.
        What it returns can also be compared with calls: ``celery_outbox.of(send_email) ==
        [mock.call(1)]``.

        Args:
            task: The task, or its name; or a task of `django.tasks`, whose backend sends through
                Celery. What ``using()`` has changed of that one counts too.
            **arguments: Arguments that the call must include, by the names of the task's
                parameters.

        Raises:
            BadOptionError: ``task`` is not a task, or has no parameter of such a name.
            BridgedMessageNotSeenError: No Celery message of the Django task was seen.
        """
        selection = TaskSelection(task, arguments)
        if selection.django_task is not None:
            self.refuse_unseen(selection.django_task)
        return _View(self, f".of({selection.text})", selection.__contains__, selection)

    def on_queue(self, queue: str | Queue) -> Outbox:
        """The messages published to a queue.

        Args:
            queue: The queue, or its name.

        Raises:
            BadOptionError: ``queue`` is neither.
        """
        name = queue.name if isinstance(queue, Queue) else queue
        if not isinstance(name, str):
            raise BadOptionError(
                f"on_queue() takes a queue or the name of one, got {shown(queue)} "
                f"({type(queue).__name__})"
            )
        return _View(self, f".on_queue({name!r})", lambda message: message.queue == name)

    @property
    def after_commit(self) -> Outbox:
        """The messages that on_commit hooks sent."""
        return _View(self, ".after_commit", lambda message: message.after_commit)

    @property
    def in_transaction(self) -> Outbox:
        """The messages published inside an open transaction."""
        return _View(self, ".in_transaction", lambda message: message.transaction == "atomic")

    @property
    def canvas(self) -> Canvas:
        """The chains, groups, chords and single tasks that these messages started."""
        return Canvas(self.items(), f"{self.description}.canvas", self.circumstances)

    # -- questions ---------------------------------------------------------------------------

    def one(self, signature: object) -> SentTask:
        """The only message that matches a signature.

        Args:
            signature: A Celery signature.

        Raises:
            NotOneMessageError: No message does, or several do.
            NotASignatureError: ``signature`` is not a signature.
        """
        __tracebackhide__ = True
        matcher = self.matcher(signature)
        found = [message for message in self.items() if matcher.matches(message)]
        if len(found) == 1:
            return found[0]
        from pytest_djcelery.reporting.comparisons import explain_one  # only once one has failed

        raise NotOneMessageError("\n".join(explain_one(self, matcher, found)))

    def wait_for(self, signature: object, timeout: float | None = None) -> SentTask:
        """Wait for the first message that matches a signature, and return it.

        Args:
            signature: A Celery signature.
            timeout: Seconds to wait; by default the run's ``djcelery_timeout``.

        Raises:
            MessageNotSentError: It was not published in time.
            NotASignatureError: ``signature`` is not a signature.
        """
        __tracebackhide__ = True
        matcher = self.matcher(signature)
        seconds = self._timeout if timeout is None else timeout
        found: list[SentTask] = []
        seen = 0

        def sent() -> bool:
            nonlocal seen
            items = self.items()
            new, seen = items[seen:], len(items)
            found.extend(message for message in new if matcher.matches(message))
            return bool(found)

        if self._journal.wait_until(sent, seconds):
            return found[0]
        from pytest_djcelery.reporting.comparisons import explain_wait  # only once one has failed

        raise MessageNotSentError("\n".join(explain_wait(self, matcher, seconds, self.situation())))

    # -- parts of a test ---------------------------------------------------------------------

    def clear(self) -> None:
        """Forget what has been published so far."""
        with self._lock:
            self._read_from(len(self._journal))

    @contextmanager
    def record(self) -> Iterator[Outbox]:
        """Collect the messages published within the ``with`` in a new outbox."""
        block = self._block()
        try:
            yield block
        finally:
            block.close()

    def close(self) -> None:
        """End the outbox: it leaves out what is published from now on."""
        self._until = len(self._journal)

    def _block(self) -> Outbox:
        block = Outbox(
            self._journal,
            since=len(self._journal),
            timeout=self._timeout,
            situation=self.situation,
        )
        block.description = f"{self.description}.record()"
        return block


class _View(Outbox):
    """The messages of an outbox that meet a condition."""

    def __init__(
        self,
        source: Outbox,
        suffix: str,
        holds: Callable[[SentTask], bool],
        selection: TaskSelection | None = None,
    ) -> None:
        super().__init__(source._journal, timeout=source._timeout, situation=source.situation)
        self.source = source
        self._selection = selection  # the task whose messages it has
        self.description = source.description + suffix
        self._suffix = suffix
        self._holds = holds
        self._source_items: Sequence[SentTask] = ()
        self._checked = 0

    def items(self) -> Sequence[SentTask]:
        with self._lock:
            items = self.source.items()
            if items is not self._source_items:  # the source was cleared
                self._source_items, self._checked, self._messages = items, 0, []
            if self._selection is not None and self._selection.django_task is not None:
                self.refuse_unseen(self._selection.django_task)
            end = len(items)
            self._messages += filter(self._holds, items[self._checked : end])
            self._checked = end
            return self._messages

    @property
    def selection(self) -> TaskSelection | None:
        """The task whose messages these are; ``None`` if they are of any."""
        if self._selection is None and isinstance(self.source, _View):
            return self.source.selection
        return self._selection

    def matcher(self, written: object) -> Matcher[SentTask]:
        selection = self.selection
        if selection is not None and is_mock_call(written):
            return selection.called(written)
        return super().matcher(written)

    def refuse_unseen(self, task: Any) -> None:
        self.source.refuse_unseen(task)

    def remedies(self, matcher: Matcher[SentTask]) -> list[str]:
        elsewhere = [message for message in self.root.items() if matcher.matches(message)]
        found = []
        for message in elsewhere[:1]:
            where = f" ({message.location})" if message.location else ""
            later = ".delay_on_commit(...) or .apply_async_on_commit(...)"
            waiting = ".delay_on_commit(...)"
            if message.django_call is not None:
                hook = enqueue_text(message.django_call, partial=True)
                later = waiting = f"transaction.on_commit({hook})"
            if self._suffix == ".after_commit" and message.transaction == "atomic":
                found.append(
                    f"It was sent inside the open transaction{where}: a worker can run it before "
                    f"the commit. Send it with {later}."
                )
            elif self._suffix == ".after_commit":
                found.append(
                    f"It was sent outside any transaction and by no on_commit hook{where}. "
                    f"With {waiting} it waits for the commit wherever it is called."
                )
            else:
                found.append(
                    f"{self.root.description} has it, {self.description} leaves it out: queue "
                    f"{message.queue!r}, transaction {message.transaction!r}{where}."
                )
        return found

    @property
    def root(self) -> Outbox:
        """The outbox of which this shows a part."""
        return self.source.root if isinstance(self.source, _View) else self.source

    def clear(self) -> None:
        raise DjceleryError(
            f"{self.description} only shows part of {self.source.description}: "
            f"clear that, or collect a part of the test with {self.source.description}.record()"
        )

    def close(self) -> None:
        self.source.close()

    def _block(self) -> Outbox:
        return _View(self.source._block(), self._suffix, self._holds)


@entered
def outbox(*, whole_test: bool = False) -> Iterator[Outbox]:
    """Record what is sent in a part of a test; see `Outbox`.

    It has the messages published within the ``with``, in the order in which they were sent.

    Args:
        whole_test: Whether it also has those that the test published earlier.

    Raises:
        AppNotFoundError: The project has no app.
    """
    with entered_sandbox() as sandbox:
        yield Outbox(
            sandbox.journal,
            since=sandbox.began if whole_test else len(sandbox.journal),
            timeout=sandbox.options.timeout,
            situation=sandbox.situation,
        )
