"""The project's periodic schedule, on a clock that the test moves."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from copy import copy
from datetime import datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any, Final

from celery.exceptions import QueueNotFound
from celery.utils.imports import load_extension_class_names, symbol_by_name

from pytest_djcelery.errors import BadScheduleError, BeatError
from pytest_djcelery.messages.descriptions import call_text
from pytest_djcelery.messages.matching import Expected
from pytest_djcelery.patching import patches, replaced
from pytest_djcelery.project.derived import queues_restored
from pytest_djcelery.workers.beat.driven_schedulers import NEVER, DrivenDatabase, Sent, driven

if TYPE_CHECKING:
    from celery import Celery
    from celery.beat import ScheduleEntry


_ROUTING = ("queue", "exchange", "routing_key")
_TICK: Final = timedelta(microseconds=1)
_ENDLESS: Final = 100  # how often one entry may be due at one moment


def check_entries(
    app: Celery, entries: Mapping[str, ScheduleEntry], consumed: Collection[str]
) -> None:
    """Check each entry's task, arguments and queue.

    Args:
        app: The project's app.
        entries: The entries, by name.
        consumed: The names of the queues that workers consume.

    Raises:
        BadScheduleError: Some are wrong; the text names each of them and what is wrong with it.
    """
    __tracebackhide__ = True
    declared = dict(app.amqp.Queues(app.conf.task_queues))
    lines = []
    with queues_restored(app):
        for name, entry in entries.items():
            problems = [*_problems(app, entry), *_unconsumed(app, entry, declared, consumed)]
            lines += [f"  {name!r} {problem}" for problem in problems]
    if not lines:
        return
    msg = (
        "Entries of the beat schedule that no worker could run:\n"
        + "\n".join(lines)
        + "\nCorrect them where they are: in beat_schedule, in the call of add_periodic_task, or "
        "among the admin's periodic tasks."
    )
    raise BadScheduleError(msg)


def _problems(app: Celery, entry: ScheduleEntry) -> Iterator[str]:
    expected = Expected(app.signature(entry.task, args=entry.args, kwargs=entry.kwargs))
    if not expected.registered:
        yield f"sends {entry.task}, but no task of this name is registered.{_near(entry.task, app)}"
    elif expected.misfit:
        call = call_text(entry.task, tuple(entry.args or ()), dict(entry.kwargs or {}))
        yield f"sends {call}: {expected.misfit}."


def _near(name: str, app: Celery) -> str:
    known = [task for task in app.tasks if not task.startswith("celery.")]
    # By the last part first: the part before it is the same for all tasks of a module, and says
    # little if the module was moved.
    last = {task: task.rpartition(".")[2] for task in (name, *known)}
    moved = [task for task in known if last[task] == last[name]]
    alike = difflib.get_close_matches(last[name], {last[task] for task in known}, n=3)
    near = moved or [
        task for task in difflib.get_close_matches(name, known, n=3) if last[task] in alike
    ]
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def _unconsumed(
    app: Celery, entry: ScheduleEntry, declared: Mapping[str, Any], consumed: Collection[str]
) -> Iterator[str]:
    task = app.tasks.get(entry.task)
    # As `Task.apply_async`: the entry's own options go before the task's.
    options = {name: value for name in _ROUTING if (value := getattr(task, name, None)) is not None}
    options.update(entry.options or {})
    try:
        route = app.amqp.router.route(options, entry.task, entry.args, entry.kwargs, task)
    except QueueNotFound as error:
        yield f"can't be routed: {error}."
        return
    own = options.get("queue")
    queue = route.get("queue", own)
    names = ", ".join(map(repr, sorted(consumed))) or "none"
    exchange = options.get("exchange")
    if own is None and exchange:
        if not _reached(exchange, options.get("routing_key"), declared, consumed):
            yield (
                f"goes to exchange {_name(exchange)!r} with routing key "
                f"{options.get('routing_key')!r}, from which no worker consumes; "
                f"they consume {names}."
            )
    elif _name(queue) not in consumed:
        yield (
            f"goes to queue {_name(queue)!r}, which no worker consumes; they consume {names}. "
            "If workers are started with -Q, say so: djcelery_queues, or check(queues=[…])."
        )


def _reached(
    exchange: Any, routing_key: Any, declared: Mapping[str, Any], consumed: Collection[str]
) -> bool:
    """Whether a consumed queue is bound to an exchange; a pattern is assumed to match."""
    return any(
        _name(queue.exchange) == _name(exchange)
        and (queue.exchange.type != "direct" or queue.routing_key == routing_key)
        for name, queue in declared.items()
        if name in consumed
    )


def _name(entity: Any) -> str:
    return str(getattr(entity, "name", entity))


class VirtualScheduler:
    """The project's scheduler, as if beat had started when this was made.

    Args:
        app: The project's app.
        override: Makes a context manager that overrides settings of the app.
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

        Nothing is read from the database: a failing test may have broken its transaction.
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
        """Send what is due now, and return it, with the time until the next look.

        Raises:
            BeatError: An entry is due again and again at one moment.
            SchedulingError: An entry could not be sent; the next call sends the others.
        """
        __tracebackhide__ = True
        self._follow_settings()
        with self._as_in_test():
            return _send_due(self._scheduler)

    def save(self) -> None:
        """Store when entries last ran, if the scheduler does so."""
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
        """Yield a copy of this scheduler that publishes nothing and is discarded afterwards.

        Args:
            start: The present moment, if the copy should be as if beat had only just started.
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
        """Make a scheduler with copies of the entries, so that the settings stay as they are."""
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

    @patches(
        "django_celery_beat.schedulers:close_old_connections",
        "django_celery_beat.schedulers:SCHEDULE_SYNC_MAX_INTERVAL",
        why="The test's connections stay open, and no entry is left out.",
        checked_on="django-celery-beat 2.6 to 2.9",
    )
    @contextmanager
    def _as_in_test(self) -> Iterator[None]:
        """Keep the test's connections open, and leave out no entry.

        Every five minutes, the database's scheduler only reads what is due in the next five.
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
            f"The entry {name!r} was due {times} times at one moment, and is due again: beat would "
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
