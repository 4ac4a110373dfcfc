"""A message that may overtake the commit of the transaction that sent it, and the text on it."""

from __future__ import annotations

import linecache
from dataclasses import dataclass
from reprlib import Repr
from typing import TYPE_CHECKING, Any

from pytest_djcelery.messages.journal import Event
from pytest_djcelery.messages.task_code import short_code

if TYPE_CHECKING:
    from pytest_djcelery.locations import Location
    from pytest_djcelery.messages.sent_task import Message, SentTask
    from pytest_djcelery.transactions.openers import Opener
    from pytest_djcelery.transactions.rows import Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Race(Event):
    """A message was published inside a transaction that writes: a worker may overtake the commit.

    ``opener`` opened that transaction of the database ``using``, which has written ``rows``.
    ``late``: it first wrote after the message, at ``wrote_at``.
    """

    message: Message
    using: str
    opener: Opener
    rows: Rows
    late: bool = False
    wrote_at: Location | None = None


def sent_in_transaction(race: Race) -> str:
    """The text of ``SentInTransactionWarning`` and ``SentInTransactionError``."""
    message: Any = race.message
    using, nowhere = race.using, "no line of the project"
    written = "before it was sent"
    if race.late:
        written = f"after it was sent, at {race.wrote_at or nowhere}"
    lines = (
        f"{message.task}({_arguments(message)}) was sent inside an open transaction of the ",
        f"database {using!r}, which also writes.\n",
        f"  sent at:   {message.location or nowhere}\n",
        f"  opened by: {race.opener}\n",
        f"  written:   {written}\n",
        "A worker may run the task before the commit, and so not see what was written; it will ",
        "run it even if the transaction is rolled back.\n",
        _remedy(message, using),
    )
    return "".join(lines)


def _remedy(message: SentTask, using: str) -> str:
    from celery import current_app
    from django.db import DEFAULT_DB_ALIAS

    task = current_app.tasks.get(message.task)
    name, arguments = short_code(message.task, task), _arguments(message)
    method = "apply_async" if _sent_with_options(message) else "delay"
    if method == "apply_async":
        arguments = f"args={_short(tuple(message.args))}, …" if message.args else "…"
    call = f"{name}.{method}({arguments})"
    if message.chain or message.group_id or message.chord is not None:
        call = "<the chain, group or chord>.delay()"
    elif task is None:
        call = f"app.send_task({message.task!r}, …)"
    if message.transaction == "on_commit" or using != DEFAULT_DB_ALIAS:
        why = (
            "The on_commit hook that sent it waited for another database."
            if message.transaction == "on_commit"
            else f"delay_on_commit waits for the database {DEFAULT_DB_ALIAS!r} only."
        )
        return (
            f"{why} Send it after the commit: "
            f"transaction.on_commit(lambda: {call}, using={using!r})"
        )
    if call.startswith(("<", "app.send_task")):
        return f"Send it after the commit: transaction.on_commit(lambda: {call})"
    if not hasattr(task, "delay_on_commit"):
        return (
            f"Send it after the commit: transaction.on_commit(lambda: {call}). "
            f"{name} has no delay_on_commit, because its class {_base_of(task)} does not inherit "
            "from celery.contrib.django.task.DjangoTask."
        )
    return f"Send it after the commit: {name}.{method}_on_commit({arguments})"


def _base_of(task: Any) -> str:
    # ``@app.task`` makes a class for each task; its base is the one that was chosen.
    cls = type(task)
    base = cls.__mro__[1] if vars(cls).get("_decorated") else cls
    return f"{base.__module__}.{base.__qualname__}"


def _sent_with_options(message: SentTask) -> bool:
    place = message.location
    if place and "apply_async" in linecache.getline(place.path, place.line):
        return True
    options = (message.eta, message.expires, message.priority, message.links, message.link_errors)
    return any(option not in (None, ()) for option in options)


def _arguments(message: SentTask) -> str:
    return ", ".join(
        [
            *map(_short, message.args),
            *(f"{name}={_short(value)}" for name, value in message.kwargs.items()),
        ]
    )


def _short(value: object) -> str:
    short = Repr()
    short.maxstring = short.maxother = short.maxlong = 80
    return short.repr(value)
