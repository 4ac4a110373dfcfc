"""Ini values, command line options and markers: parsed, checked, frozen."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pytest_djcelery.errors import BadOptionError

Policy = Literal["warn", "error", "ignore"]
POLICIES: tuple[Policy, ...] = ("warn", "error", "ignore")

MEMORY = "memory"
PROJECT = "project"
INLINE = "inline"
LIVE_POOLS = ("prefork", "threads", "solo")
LOGLEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "FATAL")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the user chose for the run.

    ``app`` is where the Celery app stands (``proj.celery:app``), ``None`` to find it.
    ``broker`` and ``result_backend`` are ``memory``, ``project`` (what the settings say) or
    a URL. ``timeout`` is in seconds. ``mode`` is what runs the tasks of a test that asks for
    nothing: ``None`` or ``inline``. ``live_…`` are options of ``celery worker`` for the live
    worker.
    """

    app: str | None = None
    broker: str = MEMORY
    result_backend: str = MEMORY
    sent_in_transaction: Policy = "warn"
    unhandled_failures: Policy = "error"
    timeout: float = 10.0
    mode: str | None = None
    live_pool: str = "prefork"
    live_concurrency: int = 2
    live_queues: tuple[str, ...] = ()
    live_loglevel: str = "INFO"


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """An option as ini file and command line show it."""

    name: str
    parse: Callable[[str, str], Any]
    help: str

    @property
    def ini(self) -> str:
        """``djcelery_…`` in the ini file."""
        return f"djcelery_{self.name}"

    @property
    def flag(self) -> str:
        """``--djcelery-…`` on the command line."""
        return f"--{self.ini}".replace("_", "-")


def _refused(name: str, value: object, expected: str) -> BadOptionError:
    return BadOptionError(f"{name} = {value!r}: expected {expected}.")


def _app(name: str, value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*)?", value):
        raise _refused(name, value, "where the Celery app stands, such as 'proj.celery:app'")
    return value


def _place(name: str, value: str) -> str:
    if value in (MEMORY, PROJECT) or re.match(r"[A-Za-z][A-Za-z0-9+._-]*://", value):
        return value
    if "backend" in name and value in ("django-db", "django-cache"):
        return value
    raise _refused(name, value, "'memory', 'project' (what the settings say) or a URL")


def _mode(name: str, value: str) -> str:
    if value != INLINE:
        raise _refused(name, value, "'inline', or nothing")
    return value


def policy(name: str, value: object) -> Policy:
    """Check one of `POLICIES`."""
    if value not in POLICIES:
        raise _refused(name, value, f"one of {', '.join(map(repr, POLICIES))}")
    return value


def _seconds(name: str, value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise _refused(name, value, "a number of seconds greater than zero, such as '10'")
    return seconds


def pool(name: str, value: object) -> str:
    """Check a pool of the live worker."""
    if value not in LIVE_POOLS:
        raise _refused(name, value, f"one of {', '.join(map(repr, LIVE_POOLS))}")
    return str(value)


def concurrency(name: str, value: object) -> int:
    """Check how many tasks the live worker runs at a time."""
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _refused(name, value, "a whole number greater than zero")
    return value


def queues(name: str, value: object) -> tuple[str, ...]:
    """Check the queues that the live worker consumes from."""
    given = [each.strip() for each in value.split(",")] if isinstance(value, str) else value
    if not isinstance(given, Sequence) or not all(
        isinstance(each, str) and each and "," not in each for each in given
    ):
        raise _refused(name, value, "names of queues, such as 'celery,mail'")
    return tuple(given)


def loglevel(name: str, value: object) -> str:
    """Check a log level of the live worker."""
    if not isinstance(value, str) or value.upper() not in LOGLEVELS:
        raise _refused(name, value, f"one of {', '.join(map(repr, LOGLEVELS))}")
    return value.upper()


DECLARED: tuple[Declared, ...] = (
    Declared(
        name="app", parse=_app,
        help="where the project's Celery app stands, such as proj.celery:app (found by itself)",
    ),
    Declared(
        name="broker", parse=_place,
        help="memory (default), project (what the settings say) or a URL",
    ),
    Declared(
        name="result_backend", parse=_place,
        help="memory (default; django-db and django-cache are left alone), project or a URL",
    ),
    Declared(
        name="sent_in_transaction", parse=policy,
        help="a message published inside an open transaction: warn (default), error, ignore",
    ),
    Declared(
        name="unhandled_failures", parse=policy,
        help="a task failed and the test never looked at it: error (default), warn, ignore",
    ),
    Declared(
        name="mode", parse=_mode,
        help="inline: run each test's tasks with celery_inline, after each publish",
    ),
    Declared(
        name="live_pool", parse=pool,
        help="pool of celery_live_worker: prefork (default), threads, solo",
    ),
    Declared(
        name="live_concurrency", parse=concurrency,
        help="processes or threads that celery_live_worker runs tasks in (2)",
    ),
    Declared(
        name="live_queues", parse=queues,
        help="queues of celery_live_worker, with commas between (those that the app declares)",
    ),
    Declared(
        name="live_loglevel", parse=loglevel,
        help="log level of celery_live_worker (INFO)",
    ),
    Declared(
        name="timeout", parse=_seconds,
        help="seconds that any wait may last (10)",
    ),
)  # fmt: skip


def parse(raw: Mapping[str, str | None]) -> Options:
    """Build `Options` from raw strings by name; ``None`` and ``""`` mean not given.

    Raises `BadOptionError`, which names the option, the value and the valid set.
    """
    values = {
        declared.name: declared.parse(declared.ini, value)
        for declared in DECLARED
        if (value := raw.get(declared.name)) not in (None, "")
    }
    return Options(**values)


def replace(options: Options, **changes: Any) -> Options:
    """A copy with some values changed."""
    return dataclasses.replace(options, **changes)
