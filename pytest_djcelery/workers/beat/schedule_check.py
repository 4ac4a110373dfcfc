"""Whether the entries of beat's schedule can do what they say."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from celery.exceptions import QueueNotFound

from pytest_djcelery.errors import BadScheduleError
from pytest_djcelery.messages.descriptions import call_text
from pytest_djcelery.messages.signatures import Expected
from pytest_djcelery.project.derived import queues_restored

if TYPE_CHECKING:
    from celery import Celery
    from celery.beat import ScheduleEntry

_ROUTING = ("queue", "exchange", "routing_key")


def check_entries(
    app: Celery, entries: Mapping[str, ScheduleEntry], consumed: Collection[str]
) -> None:
    """Check each entry's task, arguments and queue.

    Args:
        app: the project's app.
        entries: by name.
        consumed: the names of the queues that workers consume.

    Raises:
        BadScheduleError: naming each entry with what is wrong with it.
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
        + "\nCorrect them where they stand: in beat_schedule, in the call of add_periodic_task, or "
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
    # By the last part first: what comes before it is the same for all tasks of a module, and
    # tells little when a module was moved.
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
    """Whether a queue that is consumed is bound to an exchange; a pattern is taken to match."""
    return any(
        _name(queue.exchange) == _name(exchange)
        and (queue.exchange.type != "direct" or queue.routing_key == routing_key)
        for name, queue in declared.items()
        if name in consumed
    )


def _name(entity: Any) -> str:
    return str(getattr(entity, "name", entity))
