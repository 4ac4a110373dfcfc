"""Ini values, command line options and markers: parsed, checked, frozen."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from pytest_djcelery.errors import BadOptionError

Policy = Literal["warn", "error", "ignore"]
POLICIES: tuple[Policy, ...] = ("warn", "error", "ignore")

MEMORY = "memory"
PROJECT = "project"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the user chose for the run.

    ``app`` is where the Celery app stands (``proj.celery:app``), ``None`` to find it.
    ``broker`` and ``result_backend`` are ``memory``, ``project`` (what the settings say) or
    a URL. ``timeout`` is in seconds.
    """

    app: str | None = None
    broker: str = MEMORY
    result_backend: str = MEMORY
    sent_in_transaction: Policy = "warn"
    unhandled_failures: Policy = "error"
    timeout: float = 10.0


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


def _app(name: str, value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*)?", value):
        msg = (
            f"{name} = {value!r}: expected where the Celery app stands, such as 'proj.celery:app'."
        )
        raise BadOptionError(msg)
    return value


def _place(name: str, value: str) -> str:
    if value in (MEMORY, PROJECT) or re.match(r"[A-Za-z][A-Za-z0-9+._-]*://", value):
        return value
    if "backend" in name and value in ("django-db", "django-cache"):
        return value
    msg = f"{name} = {value!r}: expected 'memory', 'project' (what the settings say) or a URL."
    raise BadOptionError(msg)


def policy(name: str, value: object) -> Policy:
    """Check one of `POLICIES`."""
    if value not in POLICIES:
        msg = f"{name} = {value!r}: expected one of {', '.join(map(repr, POLICIES))}."
        raise BadOptionError(msg)
    return value


def _seconds(name: str, value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        msg = f"{name} = {value!r}: expected a number of seconds greater than zero, such as '10'."
        raise BadOptionError(msg)
    return seconds


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
    """A copy with some values changed and checked."""
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    return Options(**{**values, **changes})
