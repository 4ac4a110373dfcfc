"""Celery's own scheduler, driven by calls: beat without its loop, process and file.

The project's own scheduler class computes what is due and publishes it. A subclass changes only
what doesn't suit a clock that jumps from due time to due time: nothing is kept in a file, waits
are exact to the microsecond, django-celery-beat's table is not polled, and an entry that can't
be sent is an error rather than a log record.

Private API (`celery.beat.Scheduler`, `django_celery_beat.schedulers.DatabaseScheduler`),
checked on Celery 5.4 to 5.7 and django-celery-beat 2.6 to 2.9.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from celery.beat import PersistentScheduler, Scheduler

from pytest_djcelery.errors import is_meant

if TYPE_CHECKING:
    from celery import Celery
    from celery.beat import ScheduleEntry

NEVER: Final = 30 * 365 * 24 * 3600  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """An entry that was due: its name, and the id of its message if there is one."""

    name: str
    task_id: str | None


class Driven(Scheduler):
    """A scheduler that looks for due entries on request; mixed into the project's own class."""

    _heap: list[Any] | None

    # The app's own pool of producers, as for whatever else it publishes.
    producer = None

    def __init__(self, app: Celery, *, rehearses: bool = False, **kwargs: Any) -> None:
        self.rehearses = rehearses
        self.sent: list[Sent] = []
        self.errors: list[BaseException] = []
        super().__init__(app, **kwargs)
        self.max_interval = NEVER

    def populate_heap(self, *args: Any, **kwargs: Any) -> None:
        """Send entries that are due at one moment in the order of the schedule."""
        super().populate_heap(*args, **kwargs)
        rank = {name: index for index, name in enumerate(self.in_order())}
        # A list that is sorted is a heap.
        self._heap = sorted(
            event._replace(priority=event.priority + rank[event.entry.name])
            for event in self._heap or ()
        )

    def in_order(self) -> list[str]:
        """The names of the entries: those in the settings in their order, then the others."""
        names = dict.fromkeys(self.app.conf.beat_schedule)
        return [name for name in {**names, **self.schedule} if name in self.schedule]

    @property
    def outdated(self) -> bool:
        """Whether the schedule has changed since it was read."""
        return False

    def follow(self, changed: Mapping[str, Any]) -> None:
        """Read the settings again, as beat does when it starts with stored entries.

        Args:
            changed: The entries in the settings that are new or changed.
        """
        before = dict(self.schedule)
        self.setup_schedule()
        for name, entry in before.items():  # Celery makes all its entries again
            if name in self.schedule and self.schedule[name] == entry:
                self.schedule[name] = entry
        self._heap = None

    def adjust(self, n: Any, drift: float = 0) -> Any:
        """Return the wait unchanged: nothing sleeps that would have to wake early."""
        return n

    def _when(self, *args: Any, **kwargs: Any) -> float:
        # A sum of floats of this size is off by up to a quarter of a microsecond.
        when: float = round(super()._when(*args, **kwargs), 6)
        return when

    def _is_due_failed(self, entry: ScheduleEntry) -> Any:
        """Celery 5.7 logs what `is_due` raises, and tries again later."""
        self.errors.extend(error for error in sys.exc_info()[1:2] if error is not None)
        return super()._is_due_failed(entry)

    def apply_async(self, entry: ScheduleEntry, *args: Any, **kwargs: Any) -> Any:
        if self.rehearses:
            self.sent.append(Sent(name=entry.name, task_id=None))
            return None
        try:
            result = super().apply_async(entry, *args, **kwargs)
        except Exception as error:
            if not is_meant(error.__context__):  # a broker that is down on purpose: beat goes on
                self.errors.append(error)
            raise
        self.sent.append(Sent(name=entry.name, task_id=getattr(result, "id", None)))
        return result


class _Store(dict[str, Any]):
    """Takes the place of the file of a `PersistentScheduler`, and of the module that opens it."""

    def open(self, *_: Any, **__: Any) -> _Store:
        return self

    def sync(self) -> None: ...

    def close(self) -> None: ...


class _DrivenPersistent(Driven):
    def __init__(self, app: Celery, **kwargs: Any) -> None:
        self.persistence = self._store = _Store()
        super().__init__(app, **kwargs)


class DrivenDatabase(Driven):
    """Learns of changes through Django's signals, even of several at one moment.

    Polling would compare times, which are equal if the test's clock stands still.
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
        """Whether the table has changed, for example because an entry has disabled itself."""
        return self._changed

    def schedule_changed(self) -> bool:
        changed, self._changed = self._changed, False
        return changed

    def _get_crontab_exclude_query(self) -> Any:
        """Exclude nothing: the original leaves out what is not due in the next two hours."""
        from django.db.models import Q

        return Q(pk__in=[])

    def follow(self, changed: Mapping[str, Any]) -> None:
        """Write what has changed to the table; what was removed from the settings stays there."""
        self.update_from_dict(changed)

    def in_order(self) -> list[str]:
        return sorted(self._schedule, key=lambda name: self._schedule[name].model.pk)

    def reload(self) -> None:
        """Read the table again, whatever has changed it."""
        self._initial_read = True
        self._heap = None

    def close(self) -> None:
        from django.db.models.signals import post_save

        post_save.disconnect(self._note_change, sender=self.Changes)
        super().close()


@lru_cache(maxsize=8)
def driven(scheduler: type[Scheduler]) -> type[Driven]:
    """The project's scheduler class, made to look for due entries on request."""
    over: type[Driven] = Driven
    if issubclass(scheduler, PersistentScheduler):
        over = _DrivenPersistent
    elif _reads_database(scheduler):
        over = DrivenDatabase
    return type(f"Driven{scheduler.__name__}", (over, scheduler), {})


def _reads_database(scheduler: type[Scheduler]) -> bool:
    module = sys.modules.get("django_celery_beat.schedulers")
    return module is not None and issubclass(scheduler, module.DatabaseScheduler)
