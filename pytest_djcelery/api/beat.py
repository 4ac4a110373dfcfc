"""``celery_beat``: the periodic schedule in a test."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pytest_djcelery import clock
from pytest_djcelery.api.inline import Inline
from pytest_djcelery.errors import BadOptionError
from pytest_djcelery.messages.events import NotSent, Published, SentByBeat
from pytest_djcelery.session.opening import entered, entered_sandbox
from pytest_djcelery.workers.beat.scheduler import VirtualScheduler, check_entries, entries_apart

if TYPE_CHECKING:
    from celery.beat import ScheduleEntry

    from pytest_djcelery.messages.sent_task import SentTask
    from pytest_djcelery.session.sandbox import Sandbox
    from pytest_djcelery.workers.beat.driven_schedulers import Sent


class Beat:
    """Runs the project's periodic schedule in a test, without waiting for real time.

    The fixture ``celery_beat`` and the context manager `beat` give one. ``run(until=…)`` sends
    what ``celery beat`` would send until then, ``due(…)`` only says what that would be, and
    ``check()`` finds entries that no worker could run.

    It behaves as if beat had been started with the test, on the test's clock, with the project's
    own scheduler: the schedule of the settings, or django-celery-beat's. Each call reads the
    schedule as it then is: a changed entry is sent at its new times, and keeps the time of its
    last run; a new one starts at that moment.

    If the test itself travels in time (time-machine, freezegun), beat starts again at the
    destination, since it did not run on the way. It also starts again if the test chooses another
    scheduler (``CELERY_BEAT_SCHEDULER``).
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._clock = sandbox.clock
        self._scheduler: VirtualScheduler

    @contextmanager
    def started(self) -> Iterator[Beat]:
        """Within the ``with``, be beat."""
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
        """How many entries there are, as last read, and which one is sent next."""
        count, following = self._scheduler.outlook()
        entries = f"{count} entr{'y' if count == 1 else 'ies'}" if count else "no entries"
        if following is None:
            return f"<celery_beat: {entries}>"
        name, wait = following
        moment = self._clock.now() + wait
        return f"<celery_beat: {entries}; next {name!r} at {moment:%Y-%m-%d %H:%M:%S} UTC>"

    @property
    def entries(self) -> Mapping[str, ScheduleEntry]:
        """The entries of the schedule, by name; in a database's schedule, the enabled ones."""
        return MappingProxyType(dict(self._current().entries))

    def due(self, between: timedelta | tuple[datetime, datetime]) -> list[tuple[datetime, str]]:
        """Say what beat will send in a span of time, without publishing or changing anything.

        Args:
            between: How far from now, or a pair of datetimes, both included. If the span begins in
                the past, the answer is what a beat would have sent that was started then.

        Returns:
            Pairs of the moment, an aware UTC datetime, and the name of the entry, in order.

        Raises:
            BadOptionError: The span is negative, or a moment is naive under ``USE_TZ``.
            BeatError: An entry is due again and again at one moment.
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
        """Let time pass, and send what is due on the way.

        The clock moves from due time to due time. With ``celery_inline`` in the test, messages are
        delivered as the clock passes them, including those whose ETA comes in between.

        Args:
            until: A moment, or how far from now. The clock is left there.

        Returns:
            The messages that beat sent, in order. What tasks sent is in the outbox.

        Raises:
            BadOptionError: ``until`` has passed or is naive.
            BeatError: An entry is due again and again at one moment.
            SchedulingError: An entry could not be sent (``celery beat`` logs this).
            Exception: A delivered task failed with it.
        """
        __tracebackhide__ = True
        scheduler = self._current()  # first: an entry that is new starts no later than the run
        now = self._clock.now()
        end = clock.end_of(until, now)
        self._clock.move_to(now)
        first = len(self._sandbox.journal)
        sent: list[Sent] = []
        note = self._sandbox.journal.note
        try:
            for due in self._stops(scheduler, end, self._inline()):
                sent += due
                for entry in due:
                    if entry.task_id is not None:
                        note(SentByBeat(task_id=entry.task_id, entry=entry.name))
            self._clock.move_to(max(end, self._clock.now()))
            scheduler.settle()
        finally:
            scheduler.save()
            self._latest = self._clock.now()
        return self._messages(sent, first)

    async def arun(self, *, until: timedelta | datetime) -> list[SentTask]:
        """Do as `run`, in an async test: in the thread in which Django runs a coroutine's ORM."""
        from asgiref.sync import sync_to_async

        sent: list[SentTask] = await sync_to_async(self.run)(until=until)
        return sent

    def check(self, *, queues: Iterable[str] | None = None) -> None:
        """Check that a worker could run each entry of the schedule.

        That is, its task is registered, its arguments fit the task's signature, and a worker
        consumes the queue that it is routed to.

        Args:
            queues: The queues that workers are started with (``celery worker -Q``); by default
                those that production's workers consume (``djcelery_queues``).

        Raises:
            BadScheduleError: Some could not be run; the text says which, and why.
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
        """The scheduler, with its present schedule."""
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
        """Go from due time to due time, and yield what is sent at each."""
        __tracebackhide__ = True
        zones = scheduler.zones
        while True:
            with inline.hold() if inline else nullcontext():
                sent, wait = scheduler.send_due()
            if sent:
                yield sent
            if inline and self._delivered(inline):
                continue  # the tasks may have changed the schedule
            now = self._clock.now()
            following = now + wait if wait <= end - now else None
            # Beat wakes up every few minutes. What it has computed is valid until then, unless
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


@entered
def beat() -> Iterator[Beat]:
    """Use the project's periodic schedule in a part of a test; see `Beat`.

    Beat starts with the ``with``, on the test's clock. If `inline` is in use, what beat sends is
    delivered as the clock passes it.

    Raises:
        AppNotFoundError: The project has no app.
    """
    with entered_sandbox() as sandbox, Beat(sandbox).started() as beat:
        yield beat
