"""Celery's own scheduler, told when to look: beat without its loop, its process and its file.

The project's own scheduler class computes what is due and publishes it. Laid over it is only
what makes it fit a clock that goes from due time to due time: nothing is kept in a file, waits
are exact to the microsecond, django-celery-beat's table is not polled, and an entry that can't
be sent is not merely logged.

Private API (`celery.beat.Scheduler`, `django_celery_beat.schedulers.DatabaseScheduler`),
checked on Celery 5.4 to 5.7 and django-celery-beat 2.6 to 2.9.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from celery.beat import PersistentScheduler, Scheduler
from celery.utils.imports import load_extension_class_names, symbol_by_name

from pytest_djcelery.errors import BeatError
from pytest_djcelery.patching import replaced

if TYPE_CHECKING:
    from celery import Celery
    from celery.beat import ScheduleEntry

_NEVER: Final = 30 * 365 * 24 * 3600  # seconds
_TICK: Final = timedelta(microseconds=1)
_ENDLESS: Final = 100  # times that one entry was due in one moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """An entry that was due: its name, and the id of its message where there is one."""

    name: str
    task_id: str | None


class _Driven(Scheduler):
    """A scheduler that is told when to look. Laid over the project's own class."""

    _heap: list[Any] | None

    # The app's own pool of producers, as for whatever else it publishes.
    producer = None

    def __init__(self, app: Celery, *, rehearses: bool = False, **kwargs: Any) -> None:
        self.rehearses = rehearses
        self.sent: list[Sent] = []
        self.errors: list[BaseException] = []
        super().__init__(app, **kwargs)
        self.max_interval = _NEVER

    def populate_heap(self, *args: Any, **kwargs: Any) -> None:
        """What is due in one moment is sent in the order of the schedule, and not in any."""
        super().populate_heap(*args, **kwargs)
        rank = {name: index for index, name in enumerate(self.in_order())}
        # A list that is sorted is a heap.
        self._heap = sorted(
            each._replace(priority=each.priority + rank[each.entry.name])
            for each in self._heap or ()
        )

    def in_order(self) -> list[str]:
        """The names of the entries: those of the settings as they stand there, then the others."""
        names = dict.fromkeys(self.app.conf.beat_schedule)
        return [name for name in {**names, **self.schedule} if name in self.schedule]

    @property
    def outdated(self) -> bool:
        """Whether the schedule has changed since it was read."""
        return False

    def follow(self, changed: Mapping[str, Any]) -> None:  # noqa: ARG002 - for who overrides
        """Read the settings again, as beat does that starts with what it has stored.

        Args:
            changed: the entries of the settings that are new, or not as they were.
        """
        before = dict(self.schedule)
        self.setup_schedule()
        for name, entry in before.items():  # Celery makes its own entries anew
            if name in self.schedule and self.schedule[name] == entry:
                self.schedule[name] = entry
        self._heap = None

    def adjust(self, n: Any, drift: float = 0) -> Any:  # noqa: ARG002 - the signature of Celery
        """There is no sleep that would have to end early."""
        return n

    def _when(self, *args: Any, **kwargs: Any) -> float:
        # A sum of floats of this size is off by up to a quarter of a microsecond.
        when: float = round(super()._when(*args, **kwargs), 6)
        return when

    def _is_due_failed(self, entry: ScheduleEntry) -> Any:
        """Celery 5.7 logs what `is_due` raises, and tries again some time."""
        self.errors.extend(error for error in sys.exc_info()[1:2] if error is not None)
        return super()._is_due_failed(entry)

    def apply_async(self, entry: ScheduleEntry, *args: Any, **kwargs: Any) -> Any:
        if self.rehearses:
            self.sent.append(Sent(name=entry.name, task_id=None))
            return None
        try:
            result = super().apply_async(entry, *args, **kwargs)
        except Exception as error:
            self.errors.append(error)
            raise
        self.sent.append(Sent(name=entry.name, task_id=getattr(result, "id", None)))
        return result


class _Store(dict[str, Any]):
    """What stands for the file of a `PersistentScheduler`, and for the module that opens it."""

    def open(self, *_: Any, **__: Any) -> _Store:
        return self

    def sync(self) -> None: ...

    def close(self) -> None: ...


class _DrivenPersistent(_Driven):
    def __init__(self, app: Celery, **kwargs: Any) -> None:
        self.persistence = self._store = _Store()
        super().__init__(app, **kwargs)


class _DrivenDatabase(_Driven):
    """Told of changes by Django's signals, which see those of one moment apart.

    A poll would compare times that the test's clock makes equal.
    """

    Changes: Any

    def __init__(self, app: Celery, **kwargs: Any) -> None:
        from django.db.models.signals import post_save

        self._changed = False
        post_save.connect(self._note_change, sender=self.Changes)
        try:
            super().__init__(app, **kwargs)
        except BaseException:
            post_save.disconnect(self._note_change, sender=self.Changes)
            raise
        self._finalize.cancel()  # it would sync at the end of the process

    def _note_change(self, **_: Any) -> None:
        self._changed = True

    @property
    def outdated(self) -> bool:
        """Such as by an entry that has disabled itself; a poll would see it in seconds."""
        return self._changed

    def schedule_changed(self) -> bool:
        changed, self._changed = self._changed, False
        return changed

    def _get_crontab_exclude_query(self) -> Any:
        """Nothing: it would leave out what is not due in the next two hours."""
        from django.db.models import Q

        return Q(pk__in=[])

    def follow(self, changed: Mapping[str, Any]) -> None:
        """Write to the table what has changed; what has gone from the settings stays there."""
        self.update_from_dict(changed)

    def in_order(self) -> list[str]:
        return sorted(self._schedule, key=lambda name: self._schedule[name].model.pk)

    def reload(self) -> None:
        """Read the table, whoever has changed it."""
        self._initial_read = True
        self._heap = None

    def close(self) -> None:
        from django.db.models.signals import post_save

        post_save.disconnect(self._note_change, sender=self.Changes)
        super().close()


@lru_cache(maxsize=8)
def _driven(scheduler: type[Scheduler]) -> type[_Driven]:
    over: type[_Driven] = _Driven
    if issubclass(scheduler, PersistentScheduler):
        over = _DrivenPersistent
    elif _reads_database(scheduler):
        over = _DrivenDatabase
    return type(f"Driven{scheduler.__name__}", (over, scheduler), {})


def _reads_database(scheduler: type[Scheduler]) -> bool:
    module = sys.modules.get("django_celery_beat.schedulers")
    return module is not None and issubclass(scheduler, module.DatabaseScheduler)


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
        self._class = _driven(symbol_by_name(app.conf.beat_scheduler, aliases=aliases))
        self._read = entries_apart(app.conf.beat_schedule)
        with self._as_in_test():
            self._scheduler = self._made()

    @property
    def reads_database(self) -> bool:
        """Whether the schedule is django-celery-beat's."""
        return issubclass(self._class, _DrivenDatabase)

    @property
    def entries(self) -> Mapping[str, ScheduleEntry]:
        """The entries of the schedule, by name."""
        with self._as_in_test():
            schedule = self._scheduler.schedule
            return {name: schedule[name] for name in self._scheduler.in_order()}

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
        """Send what is due now, and tell in how long to look again.

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
        """Be beat no longer."""
        with self._as_in_test():
            self._scheduler.close()

    @contextmanager
    def rehearsal(self, *, start: datetime | None = None) -> Iterator[VirtualScheduler]:
        """This scheduler as it stands, for one that publishes nothing and whose state is lost.

        Args:
            start: as it would stand, had it been started at this moment, which is now.
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
        """A scheduler with entries of its own: those of the settings stay as they are."""
        with self._override(beat_schedule=_copies(self._read)):
            return self._class(self.app, **kwargs)

    def _follow_settings(self) -> None:
        """Go by a schedule that a test, or a task, has changed."""
        before, now = self._read, entries_apart(self.app.conf.beat_schedule)
        if now == before:
            return
        self._read = now
        changed = {name: entry for name, entry in now.items() if entry != before.get(name)}
        with self._as_in_test(), self._override(beat_schedule=_copies(now)):
            self._scheduler.follow(_copies(changed))

    @contextmanager
    def _as_in_test(self) -> Iterator[None]:
        """Keep the test's connections, and no entry for later.

        Every five minutes the database's scheduler reads what is due in the next five.
        """
        if not self.reads_database:
            yield
            return
        from django_celery_beat import schedulers

        def keep(**_: Any) -> None:
            """The connections are the test's."""

        with replaced(schedulers, close_old_connections=keep, SCHEDULE_SYNC_MAX_INTERVAL=_NEVER):
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
    name, times = Counter(each.name for each in sent).most_common(1)[0]
    if times > _ENDLESS:
        msg = (
            f"The entry {name!r} was due {times} times in one moment, and is due again: beat would "
            "send it without end.\nGive it an interval of more than no time."
        )
        raise BeatError(msg)


def entries_apart(schedule: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The entries of the settings, apart from what a scheduler or a test writes to."""
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
