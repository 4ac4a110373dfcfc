"""What an audited run records: the journal that the listeners fill, and their events in it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from traceback import format_exception_only
from typing import TYPE_CHECKING, Any, Literal

from pytest_djcelery import locations
from pytest_djcelery.messages.events import Event
from pytest_djcelery.messages.journal import Journal
from pytest_djcelery.transactions.hooks import WatchedHook
from pytest_djcelery.transactions.passive_watch import PassiveWatch
from pytest_djcelery.transactions.sent_in_transaction import Race

if TYPE_CHECKING:
    from types import FrameType, TracebackType

    from pytest_djcelery.locations import Location
    from pytest_djcelery.session.sandbox import Sandbox
    from pytest_djcelery.transactions.openers import Opener


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sent(Event):
    """A task was published, run by eager mode, or passed to a mock instead.

    The arguments are those of the call: they went through no serializer.
    """

    task: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    location: Location | None
    way: Literal["broker", "eager", "mock"]
    id: str | None = None
    mocked: str | None = None  # what the mock stands for: ``Task.delay``, or the whole task
    fault: str | None = None  # why the real call would have failed
    simulates: str | None = None  # what the mock simulates by raising an error
    beyond: tuple[float, float] | None = None  # seconds to its ETA, if the broker waits less long


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken(Event):
    """A worker of this process took a message."""

    task_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached(Event):
    """Something outside the process was connected to or written to."""

    what: Literal["broker", "result backend"]
    url: str
    location: Location | None


class _ErrorsContained(AbstractContextManager[None]):
    """Lets no error out. There is one for the whole run, since each test enters it many times."""

    def __init__(self, troubles: dict[str, None]) -> None:
        self._troubles = troubles

    def __exit__(
        self, _: object, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        while traceback is not None and traceback.tb_next is not None:
            traceback = traceback.tb_next
        place = ""
        if traceback is not None:
            code = traceback.tb_frame.f_code
            place = f" at {code.co_filename}:{traceback.tb_lineno} in {code.co_name}"
        text = format_exception_only(error)[0].strip()  # works even if its ``__str__`` raises
        self._troubles[text + place] = None
        return True


class Recorder:
    """The journal of an audited run, and what the listeners need to know of the running test.

    Args:
        counts: Whether an atomic block with this opener belongs to the code under test.
        suite: The files of the tests.
    """

    def __init__(self, counts: Callable[[Opener], bool], suite: Container[str]) -> None:
        self.suite = suite
        self.journal = Journal()
        self.troubles: dict[str, None] = {}  # what went wrong in the audit itself
        self._errors_contained = _ErrorsContained(self.troubles)
        self._counts = counts
        self._watch: PassiveWatch | None = None
        self._sandbox: Sandbox | None = None  # of a test that uses a fixture of the plugin
        # The frame of a test's replacement for `on_commit`, while it runs a hook in this thread.
        self.hook_runner: Callable[[], FrameType | None] = lambda: None

    @property
    def quiet(self) -> bool:
        """Whether the test is left to the fixtures that it uses, which have their own journal."""
        return self._sandbox is not None

    # What the listeners call ------------------------------------------------------------------

    def append(self, event: Event) -> None:
        """Add an event to the journal, unless the test is left to its fixtures."""
        if not self.quiet:
            self.journal.append(event)

    def wake(self) -> None:
        """Do nothing: nobody waits on this journal."""

    def check_race(self, message: Sent) -> None:
        """Record whether a message that is about to be sent may overtake a commit."""
        if self._watch is not None and not self.quiet and self.hook_runner() is None:
            self._watch.check_race(message)

    def check_race_and_append(self, message: Sent) -> None:
        """Check a message for a race, and add it to the journal of any test."""
        self.check_race(message)
        self.journal.append(message)

    def caller(self, frame: FrameType | None = None) -> Location | None:
        """The project's line that sends, from ``frame`` on, or that registered the hook.

        The hook's line counts if no line of the project is nearer: otherwise, where a test runs
        the hooks it has captured, the test would be named.
        """
        runner = self.hook_runner()
        if runner is not None:
            return locations.of_hook(runner)
        nearer = locations.of_caller(frame, until=WatchedHook.__call__.__code__)
        watch = self._watch if self._sandbox is None else self._sandbox.watch
        if nearer is None and watch is not None:
            nearer = watch.publishing().hook_location
        return nearer or locations.of_caller(frame)

    def eager_task(self) -> AbstractContextManager[None]:
        """Enter around an eager task: the blocks that are open now are not its own."""
        return nullcontext() if self._watch is None else self._watch.eager_task()

    def errors_contained(self) -> AbstractContextManager[None]:
        """Within the ``with``, keep errors of a listener from the test, to be reported later."""
        return self._errors_contained

    # Transactions ------------------------------------------------------------------------

    @contextmanager
    def transactions_recorded(self) -> Iterator[None]:
        """Record atomic blocks, hooks, and messages that may overtake a commit."""
        watch = PassiveWatch(self.journal, self._counts)
        with ExitStack() as stack:
            stack.enter_context(watch)
            self._watch = watch
            try:
                yield
            finally:
                self._watch = None

    def written(self, model: type[Any], keys: Iterable[Any], using: str) -> None:
        """Note the primary keys of rows that a transaction has written."""
        watch = self._watch if self._sandbox is None else self._sandbox.watch
        if watch is not None:
            watch.written(model, keys, using)

    # Tests that use the plugin -----------------------------------------------------------

    @contextmanager
    def paused_for(self, sandbox: Sandbox) -> Iterator[None]:
        """Within the ``with``, leave a test to its fixtures; record the races that they find."""
        watch, self._sandbox = self._watch, sandbox
        if watch is not None:
            watch.__exit__(*sys.exc_info())
        try:
            yield
        finally:
            if watch is not None:
                watch.__enter__()
            self._sandbox = None
            for event in sandbox.journal.events(Race):
                self.journal.append(event)
