"""The project's periodic schedule, on a clock that the test moves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from copy import copy
from datetime import datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any, Final

from celery.utils.imports import load_extension_class_names, symbol_by_name

from pytest_djcelery.errors import BeatError
from pytest_djcelery.patching import replaced
from pytest_djcelery.workers.beat.driven_schedulers import NEVER, DrivenDatabase, Sent, driven

if TYPE_CHECKING:
    from celery import Celery
    from celery.beat import ScheduleEntry

_TICK: Final = timedelta(microseconds=1)
_ENDLESS: Final = 100  # times that one entry was due in one moment


class VirtualScheduler:
    """The project's scheduler, from the moment at which it was made.

    Args:
        app: the project's app.
        override: lays settings over the app's for a block.
    """

    def __init__(self, app: Celery, override: Callable[..., AbstractContextManager[None]]) -> None:
        self.app = app
        self._override = override
        aliases = dict(load_extension_class_names("celery.beat_schedulers"))
        self._class = driven(symbol_by_name(app.conf.beat_scheduler, aliases=aliases))
        self._read = entries_apart(app.conf.beat_schedule)
        with self._as_in_test():
            self._scheduler = self._made()

    @property
    def reads_database(self) -> bool:
        """Whether the schedule is django-celery-beat's."""
        return issubclass(self._class, DrivenDatabase)

    @property
    def entries(self) -> Mapping[str, ScheduleEntry]:
        """The entries of the schedule, by name."""
        with self._as_in_test():
            schedule = self._scheduler.schedule
            return {name: schedule[name] for name in self._scheduler.in_order()}

    def outlook(self) -> tuple[int, tuple[str, timedelta] | None]:
        """How many entries there are, which is due next, and in how long.

        Nothing is read again: a test that fails may have broken its transaction.
        """
        if self.reads_database:  # where asking an entry may change its row
            return len(self._scheduler._schedule or ()), None
        waits = []
        entries = self.entries
        with self._as_in_test():
            for name, entry in entries.items():
                is_due, wait = entry.is_due()
                if wait < NEVER:
                    waits.append((timedelta(seconds=0 if is_due else wait), name))
        if not waits:
            return len(entries), None
        wait, name = min(waits)
        return len(entries), (name, wait)

    @property
    def zones(self) -> set[tzinfo]:
        """The time zones that entries are computed in."""
        zones = {getattr(entry.schedule, "tz", None) for entry in self.entries.values()}
        return {self.app.timezone, *zones} - {None}

    def reload(self) -> None:
        """Read a schedule that may have changed."""
        self._follow_settings()
        if self.reads_database:
            self._scheduler.reload()

    def send_due(self) -> tuple[list[Sent], timedelta]:
        """Send what is due now; returns that, and in how long to look again.

        Raises:
            BeatError: an entry is due without end.
            SchedulingError: an entry could not be sent; the others are sent by the next call.
        """
        __tracebackhide__ = True
        self._follow_settings()
        with self._as_in_test():
            return _send_due(self._scheduler)

    def save(self) -> None:
        """Store when entries last ran, where the scheduler stores it."""
        with self._as_in_test():
            self._scheduler.sync()

    def settle(self) -> None:
        """Disable what has run for the last time.

        django-celery-beat does it when it reads the table again, five minutes later.
        """
        if self.reads_database:
            self.save()
            self.reload()
            self.send_due()

    def close(self) -> None:
        """Stop being beat."""
        with self._as_in_test():
            self._scheduler.close()

    @contextmanager
    def rehearsal(self, *, start: datetime | None = None) -> Iterator[VirtualScheduler]:
        """A copy of this scheduler as it stands, which publishes nothing and is then discarded.

        Args:
            start: have the copy stand as if it had been started at this moment, which is now.
        """
        other: VirtualScheduler = copy(self)
        with ExitStack() as stack:
            if self.reads_database:
                self.save()
                stack.callback(self.reload)
                stack.enter_context(_rolled_back(self._scheduler.Model))
                if start is not None:
                    tasks = self._scheduler.Model._default_manager
                    tasks.filter(start_time=None).update(last_run_at=start)
            with self._as_in_test():
                if start is not None and not self.reads_database:
                    other._scheduler = self._made(rehearses=True)
                else:
                    other._scheduler = self._class(self.app, rehearses=True, lazy=True)
            stack.callback(other.close)
            if start is None and not self.reads_database:
                other._scheduler.schedule = dict(self._scheduler.schedule)
            yield other

    def _made(self, **kwargs: Any) -> Any:
        """A scheduler with copies of the entries: those of the settings stay as they are."""
        with self._override(beat_schedule=_copies(self._read)):
            return self._class(self.app, **kwargs)

    def _follow_settings(self) -> None:
        """Follow a schedule that a test, or a task, has changed."""
        before, now = self._read, entries_apart(self.app.conf.beat_schedule)
        if now == before:
            return
        self._read = now
        changed = {name: entry for name, entry in now.items() if entry != before.get(name)}
        with self._as_in_test(), self._override(beat_schedule=_copies(now)):
            self._scheduler.follow(_copies(changed))

    @contextmanager
    def _as_in_test(self) -> Iterator[None]:
        """Keep the test's connections open, and leave out no entry.

        Every five minutes the database's scheduler reads what is due in the next five.
        """
        if not self.reads_database:
            yield
            return
        from django_celery_beat import schedulers

        def keep(**_: Any) -> None:
            """The connections belong to the test."""

        with replaced(schedulers, close_old_connections=keep, SCHEDULE_SYNC_MAX_INTERVAL=NEVER):
            yield


def _send_due(scheduler: Any) -> tuple[list[Sent], timedelta]:
    __tracebackhide__ = True
    first = len(scheduler.sent)
    while True:
        wait = scheduler.tick()
        if scheduler.errors:
            error, scheduler.errors = scheduler.errors[0], []
            raise error
        if wait > 0 and not scheduler.outdated:
            return scheduler.sent[first:], max(timedelta(seconds=wait), _TICK)
        _check_ends(scheduler.sent[first:])


def _check_ends(sent: list[Sent]) -> None:
    __tracebackhide__ = True
    if len(sent) <= _ENDLESS:
        return
    name, times = Counter(entry.name for entry in sent).most_common(1)[0]
    if times > _ENDLESS:
        msg = (
            f"The entry {name!r} was due {times} times in one moment, and is due again: beat would "
            "send it without end.\nGive it an interval longer than zero."
        )
        raise BeatError(msg)


def entries_apart(schedule: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Copies of the entries of the settings, which no scheduler and no test writes to."""
    return {name: _apart(entry) for name, entry in schedule.items()}


def _apart(entry: Any) -> dict[str, Any]:
    fields = {
        key: dict(value) if isinstance(value, dict) else value for key, value in dict(entry).items()
    }
    options = fields.get("options") or {}
    if options.get("headers"):
        options["headers"] = dict(options["headers"])
    return fields


def _copies(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Entries for a scheduler, which writes to their schedules too."""
    return {
        name: {**entry, "schedule": copy(entry.get("schedule"))}
        for name, entry in entries_apart(entries).items()
    }


@contextmanager
def _rolled_back(model: Any) -> Iterator[None]:
    from django.db import router, transaction

    using = router.db_for_write(model)
    block: Any = transaction.atomic(using=using)
    block._from_testcase = True  # the code under test has opened none
    with block:
        yield
        transaction.set_rollback(True, using=using)
