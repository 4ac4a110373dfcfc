"""The steps of one test with what is known besides: what never ran and why, and what matters."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import cached_property
from typing import TYPE_CHECKING, Final

from pytest_djcelery.messages.events import (
    Ended,
    HookDiscarded,
    HookFinished,
    NotSent,
    Published,
    RaceRaised,
    RanTwice,
    WorkerLost,
)
from pytest_djcelery.messages.journal import ShortNumbers
from pytest_djcelery.recording import failures
from pytest_djcelery.trace import wording
from pytest_djcelery.trace.steps import Step, steps_of

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

    from pytest_djcelery.messages.journal import Recorded
    from pytest_djcelery.messages.sent_task import SentTask
    from pytest_djcelery.session.sandbox import Sandbox

_MOVED: Final = 0.5  # seconds by which a clock differs from real time if it was moved
# How much a step matters: most if the test failed by its error.
_CAUSE: Final = 9
_NAMED: Final = 8  # the text of the failure names the task


class Fates:
    """Says of a message that was not run, or not yet, why that is.

    Args:
        sandbox: The sandbox of the test.
        closed: Whether the block that it belongs to has ended.
    """

    def __init__(self, sandbox: Sandbox, *, closed: bool = False) -> None:
        self._closed = closed
        self._runner = sandbox.runner
        self._now = sandbox.clock.now() if "clock" in vars(sandbox) else datetime.now(timezone.utc)
        self._stays = {id(sent) for sent in sandbox.unconsumed.remaining()}
        due: Iterable[SentTask] = ()
        later: Iterable[SentTask] = ()
        if self._runner is not None and self._runner.in_place:
            due, later = self._runner.undelivered()
        self._due = {id(sent) for sent in due}
        self._later = {id(sent) for sent in later}

    @property
    def has_worker(self) -> bool:
        """Whether anything runs the tasks of the test."""
        return self._runner is not None

    def waits(self, sent: SentTask) -> bool:
        """Whether its turn has not come yet."""
        return id(sent) in self._later or (sent.eta is not None and sent.eta > self._now)

    def of(self, event: Published) -> tuple[str, str]:
        """Why the message has not been run: in a few words, and in a sentence."""
        sent, runner = event.message, self._runner
        where = f"the queue {sent.queue!r}" if sent.queue else "what it was sent to"
        wait = ""
        if self.waits(sent) and sent.eta is not None:
            wait = wording.duration((sent.eta - self._now).total_seconds())
        reasons = (
            (event.other_app, "another app's", "Another app than the project's has sent it."),
            (id(sent) in self._stays, "not consumed", f"No worker consumes {where}."),
            (wait, f"ETA in {wait}", f"Its ETA is in {wait}, by the clock of the test."),
            (self._closed, "block ended", "The block ended before it was run."),
            (runner is None, "no worker", "No worker runs the tasks of this test."),
            (id(sent) in self._due, "due", "It was due: celery_inline.run() would deliver it."),
            (runner and runner.has_ended, "worker ended", "The worker has ended."),
            (True, "waiting", "The worker had not begun to run it."),
        )
        return next((short, sentence) for applies, short, sentence in reasons if applies)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Let no garbage collection start within the ``with``: of so many new objects none is garbage.

    A collection looks at every object of the project, which takes longer than a long story.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Story:
    """What happened in a test so far.

    Args:
        sandbox: The sandbox of the test.
        error: What the test failed with, if it has failed.
        about_messages: Whether that was a comparison of messages that no worker need run.
        closed: Whether the block that the sandbox belongs to has ended.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        error: BaseException | None = None,
        *,
        about_messages: bool = False,
        closed: bool = False,
    ) -> None:
        with _no_collection():
            self.steps = steps_of(sandbox.journal, sandbox.began)
        self.numbers = ShortNumbers(sandbox.journal, sandbox.began)
        self.fates = Fates(sandbox, closed=closed)
        self._whats: dict[int, str] = {}  # made once, for the table and the picture
        self._outcomes: dict[int, str] = {}
        self._sandbox = sandbox
        self._error = error
        self._about_messages = about_messages
        self.real_time = sandbox.real_time
        self._origin = self.steps[0].began[1][0] if self.steps else 0

    # Times ----------------------------------------------------------------------------------

    def milliseconds(self, recorded: Recorded) -> float:
        """Real time since the first step."""
        return (recorded[1][0] - self._origin) / 1e6

    def took(self, step: Step) -> float | None:
        """How many milliseconds a step took; ``None`` if that is not known, or says nothing."""
        began = step.began
        if step.kind == "hook" and step.ran is not None:
            began = step.ran
        elif step.kind in ("line", "publish", "note", "hook"):
            return None
        if step.ended is None or step.ended is began:
            return None
        return self.milliseconds(step.ended) - self.milliseconds(began)

    def moved_clock(self, recorded: Recorded) -> datetime | None:
        """The time that code saw, where that was not real time."""
        ticks, clock, _ = recorded[1]
        if abs(clock - ticks / 1e9 - self.real_time) < _MOVED:
            return None
        return datetime.fromtimestamp(clock, timezone.utc)

    # Outcomes -------------------------------------------------------------------------------

    @cached_property
    def _ran(self) -> set[int]:
        """The messages that a worker has begun to run, or has refused to."""
        return {step.parent for step in self.steps if step.kind == "run"}

    def never_ran(self, place: int) -> bool:
        """Whether a step is a message that no worker has run."""
        step = self.steps[place]
        return step.kind == "publish" and step.ended is None and place not in self._ran

    def what(self, place: int) -> str:
        """What happened in a step."""
        if place not in self._whats:
            self._whats[place] = wording.what(self.steps[place], self.numbers)
        return self._whats[place]

    def outcome(self, place: int) -> str:
        """How a step ended, or why it has not begun or ended."""
        if place not in self._outcomes:
            self._outcomes[place] = self._outcome(place)
        return self._outcomes[place]

    def _outcome(self, place: int) -> str:
        step = self.steps[place]
        if self.never_ran(place):
            return f"never ran: {self._fate(step)[0]}"
        if step.ended is None:
            if step.kind == "hook":
                return "runs" if step.ran else "waits for the commit"
            if step.kind in ("run", "eager"):
                return "has not ended"
            if step.kind == "atomic":
                return "open"
        if step.message is not None and step.kind == "publish":
            return self._sent(step)
        return wording.result(step)

    def why(self, place: int) -> str:
        """Why a message has not been run, in a sentence; empty for anything else."""
        return self._fate(self.steps[place])[1] if self.never_ran(place) else ""

    def _fate(self, step: Step) -> tuple[str, str]:
        event = step.event
        return self.fates.of(event) if isinstance(event, Published) else ("", "")

    def _sent(self, step: Step) -> str:
        parts = [] if step.ended is None else ["not sent"]
        message = step.message
        if message is not None and message.eta is not None:
            wait = (message.eta - message.sent_at).total_seconds()
            parts.append(f"ETA in {wording.duration(wait)}")
        return ", ".join(parts)

    # What matters ---------------------------------------------------------------------------

    @cached_property
    def matters(self) -> int | None:
        """The step that explains the failure best: what failed, or what never ran."""
        weights = self._weights()
        greatest = max(weights, default=0)
        if not greatest:
            return None
        first = weights.index(greatest)
        named = self.steps[first].message
        if greatest != _NAMED or named is None:
            return first
        # The text of the failure is about the outcome of a task, which is that of its last run.
        return max(
            place
            for place, step in enumerate(self.steps)
            if weights[place] == greatest and step.message is not None
            if step.message.id == named.id
        )

    def failed(self, place: int) -> bool:
        """Whether a step failed, so that it is drawn in red."""
        step = self.steps[place]
        end, event = step.end, step.event
        if isinstance(end, Ended):
            return end.state == "FAILURE" and not end.expected
        if isinstance(end, HookFinished):
            return end.error is not None
        if isinstance(event, RanTwice):
            return bool(event.effects)
        if isinstance(end, NotSent | WorkerLost) or isinstance(event, RaceRaised):
            return True
        return step.kind == "request" and step.ran is not None

    def _weights(self) -> list[int]:
        named = self.numbers.named_in(_text(self._error))
        return [self._weight(place, step, named) for place, step in enumerate(self.steps)]

    @cached_property
    def _unseen(self) -> set[int]:
        """The failures that the test has not looked at."""
        sandbox = self._sandbox
        unseen = failures.unhandled(sandbox.journal, sandbox.suite, sandbox.began)
        return {id(ended) for ended in unseen}

    def _weight(self, place: int, step: Step, named: Container[str]) -> int:
        ended = step.ended
        succeeded = ended is not None and getattr(ended[2], "state", "") == "SUCCESS"
        if not succeeded and self._caused(step):
            return _CAUSE
        if step.message is not None and step.message.id in named:
            # The run of a task says more than its message.
            return _NAMED if step.kind in ("run", "eager") else _NAMED - 1
        if succeeded:
            return 0
        if self.never_ran(place):
            return self._weight_of_waiting(step)
        return self._weight_of_failure(place, step)

    def _weight_of_waiting(self, step: Step) -> int:
        if self.fates.has_worker:
            return 3 if step.message is not None and self.fates.waits(step.message) else 4
        return 0 if self._about_messages else 1

    def _weight_of_failure(self, place: int, step: Step) -> int:
        end = step.end
        if isinstance(end, Ended) and end.state == "FAILURE" and not end.expected:
            return 6 if id(end) in self._unseen else 3
        if self.failed(place) or (step.kind in ("run", "eager") and end is None):
            return 5
        return 2 if isinstance(end, HookDiscarded) else 0

    def _caused(self, step: Step) -> bool:
        """Whether a step failed with what the test failed with."""
        error, end = self._error, step.end
        if error is None:
            return False
        own: object = None
        if isinstance(end, Ended) and end.state == "FAILURE":
            own = end.value
        elif isinstance(end, HookFinished):
            own = end.error
        elif isinstance(step.event, RaceRaised):
            own = step.event.error
        return own is not None and (failures.led_to(own, error) or failures.is_copy(error, own))


def _text(error: BaseException | None) -> str:
    try:
        return str(error) if error is not None else ""
    except Exception:  # noqa: BLE001 - an error of the project may have no text
        return ""
