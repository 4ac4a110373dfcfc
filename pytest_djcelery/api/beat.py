"""What ``celery_beat`` is in a test."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pytest_djcelery import clock
from pytest_djcelery.api.inline import Inline
from pytest_djcelery.errors import BadOptionError
from pytest_djcelery.messages.journal import NotSent, Published
from pytest_djcelery.session.opening import entered_sandbox
from pytest_djcelery.workers.beat.scheduler import VirtualScheduler, check_entries, entries_apart

if TYPE_CHECKING:
    from celery.beat import ScheduleEntry

    from pytest_djcelery.messages.sent_task import SentTask
    from pytest_djcelery.session.sandbox import Sandbox
    from pytest_djcelery.workers.beat.driven_schedulers import Sent


class Beat:
    """Beat, started with the test, on the test's clock.

    It sends what ``celery beat`` would send, through the project's own scheduler: the schedule
    of the settings, or django-celery-beat's. Each call here reads the schedule as it is then: an
    entry that was changed is sent at its new times, and keeps when it last ran; a new one starts
    then.

    Where the test travels by itself (time-machine, freezegun), beat starts anew at the
    destination: it did not run on the way, to send what was due. It starts anew, too, where the
    test chooses another scheduler (``CELERY_BEAT_SCHEDULER``).

    Args:
        sandbox: the test.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._clock = sandbox.clock
        self._scheduler: VirtualScheduler

    @contextmanager
    def started(self) -> Iterator[Beat]:
        """Be beat in a block."""
        app = self._sandbox.app
        app.loader.import_default_modules()
        app.finalize()
        configuration = self._sandbox.project.configuration
        with configuration.override(beat_schedule=entries_apart(app.conf.beat_schedule)):
            self._start()
            try:
                yield self
            finally:
                self._scheduler.close()

    def __repr__(self) -> str:
        """How many entries there are, as they were last read, and which is sent next."""
        count, following = self._scheduler.outlook()
        entries = f"{count} entr{'y' if count == 1 else 'ies'}" if count else "no entries"
        if following is None:
            return f"<celery_beat: {entries}>"
        name, wait = following
        moment = self._clock.now() + wait
        return f"<celery_beat: {entries}; next {name!r} at {moment:%Y-%m-%d %H:%M:%S} UTC>"

    @property
    def entries(self) -> Mapping[str, ScheduleEntry]:
        """The entries of the schedule by name; of the database's, those that are enabled."""
        return MappingProxyType(dict(self._current().entries))

    def due(self, between: timedelta | tuple[datetime, datetime]) -> list[tuple[datetime, str]]:
        """What will be sent in a span of time: moments in UTC and names of entries, in order.

        Nothing is published, and nothing changes.

        Args:
            between: how far from now; or from when to when, both included. For a span that begins
                in the past, it is what a beat sends that was started then.

        Raises:
            BadOptionError: the span is negative, or a moment is naive under ``USE_TZ``.
            BeatError: an entry is due without end.
        """
        __tracebackhide__ = True
        scheduler = self._current()  # first: an entry that is new starts no later than the span
        now = self._clock.now()
        start, end = _span(between, now)
        fired: list[tuple[datetime, str]] = []
        with self._clock.excursion():
            past = start if start < now else None
            self._clock.move_to(past or now)
            with scheduler.rehearsal(start=past) as rehearsal:
                for sent in self._stops(rehearsal, end, None):
                    moment = self._clock.now()
                    if moment >= start:
                        fired += [(moment, entry.name) for entry in sent]
        return fired

    def run(self, *, until: timedelta | datetime) -> list[SentTask]:
        """Move the clock from due time to due time, and send what is due.

        With ``celery_inline`` in the test, messages are delivered as the clock passes them,
        those with an ETA in between too.

        Args:
            until: a moment, or how far from now; the clock is left there.

        Returns:
            What beat sent, in order. What tasks sent is in the outbox.

        Raises:
            BadOptionError: ``until`` has passed or is naive.
            BeatError: an entry is due without end.
            SchedulingError: an entry could not be sent. (``celery beat`` logs it.)
            Exception: what a task failed with that was delivered.
        """
        __tracebackhide__ = True
        scheduler = self._current()  # first: an entry that is new starts no later than the run
        now = self._clock.now()
        end = clock.end_of(until, now)
        self._clock.move_to(now)
        first = len(self._sandbox.journal)
        sent: list[Sent] = []
        try:
            for due in self._stops(scheduler, end, self._inline()):
                sent += due
            self._clock.move_to(max(end, self._clock.now()))
            scheduler.settle()
        finally:
            scheduler.save()
            self._latest = self._clock.now()
        return self._messages(sent, first)

    async def arun(self, *, until: timedelta | datetime) -> list[SentTask]:
        """`run` for async tests: in the thread in which Django runs the ORM for a coroutine."""
        from asgiref.sync import sync_to_async

        sent: list[SentTask] = await sync_to_async(self.run)(until=until)
        return sent

    def check(self, *, queues: Iterable[str] | None = None) -> None:
        """Check that each entry can do what it says.

        Its task is registered, its arguments fit the task's signature, and a worker consumes
        the queue that it is routed to.

        Args:
            queues: those that workers are started with (``celery worker -Q``); by default those
                that production's workers consume (``djcelery_queues``).

        Raises:
            BadScheduleError: naming each entry that can't, and why.
        """
        __tracebackhide__ = True
        consumed = self._sandbox.consumed
        check_entries(
            self._sandbox.app, self.entries, consumed.names if queues is None else set(queues)
        )

    # Inside -------------------------------------------------------------------------------

    def _start(self) -> None:
        self._traveller = self._clock.traveller
        self._latest = self._clock.now()
        self._chosen = self._sandbox.app.conf.beat_scheduler
        self._scheduler = VirtualScheduler(
            self._sandbox.app, self._sandbox.project.configuration.override
        )

    def _current(self) -> VirtualScheduler:
        """The scheduler, with what its schedule is now."""
        now = self._clock.now()
        chosen = self._sandbox.app.conf.beat_scheduler
        moved = self._clock.traveller is not self._traveller or now < self._latest
        if moved or chosen != self._chosen:
            self._scheduler.close()
            self._start()
        self._latest = now
        self._scheduler.reload()
        return self._scheduler

    def _inline(self) -> Inline | None:
        runner = self._sandbox.runner
        return runner if isinstance(runner, Inline) else None

    def _stops(
        self, scheduler: VirtualScheduler, end: datetime, inline: Inline | None
    ) -> Iterator[list[Sent]]:
        """Go from due time to due time, and give what is sent at each."""
        __tracebackhide__ = True
        zones = scheduler.zones
        while True:
            with inline.hold() if inline else nullcontext():
                sent, wait = scheduler.send_due()
            if sent:
                yield sent
            if inline and self._delivered(inline):
                continue  # what they did may have changed the schedule
            now = self._clock.now()
            following = now + wait if wait <= end - now else None
            # Beat wakes up every few minutes. What it has computed holds until then, except where
            # clocks are put forward or back.
            change = clock.first_offset_change(zones, now, following or end)
            eta = inline.next_eta() if inline else None
            stops = (following, change, eta if eta is None or eta <= end else None)
            following = min((stop for stop in stops if stop is not None), default=None)
            if following is None:
                return
            self._clock.move_to(max(following, self._clock.now()))

    def _delivered(self, inline: Inline) -> bool:
        __tracebackhide__ = True
        before = len(self._sandbox.journal)
        inline.run()
        return len(self._sandbox.journal) > before

    def _messages(self, sent: Iterable[Sent], first: int) -> list[SentTask]:
        journal = self._sandbox.journal
        lost = {event.message.id for event in journal.events(NotSent, first)}
        messages: dict[str | None, SentTask] = {}
        for event in journal.events(Published, first):
            messages.setdefault(event.message.id, event.message)  # its retries have the same id
        ids = [entry.task_id for entry in sent if entry.task_id not in lost]
        return [messages[task_id] for task_id in ids if task_id in messages]


def _span(between: Any, now: datetime) -> tuple[datetime, datetime]:
    if isinstance(between, timedelta):
        return now, clock.end_of(between, now)
    if not isinstance(between, tuple) or len(between) != 2:  # noqa: PLR2004 - a pair
        msg = f"due({between!r}): expected a timedelta from now, or (start, end) as datetimes."
        raise BadOptionError(msg)
    start, end = (clock.aware(moment, "between") for moment in between)
    if end < start:
        msg = f"due({between!r}): the span ends before it starts. Expected (start, end)."
        raise BadOptionError(msg)
    return start, end


@contextmanager
def beat() -> Iterator[Beat]:
    """Beat, started with the block, on the test's clock.

    What it sends is delivered as the clock passes it where `inline` is in use.
    """
    with entered_sandbox() as sandbox, Beat(sandbox).started() as beat:
        yield beat
