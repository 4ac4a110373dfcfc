"""Ini values, command-line options and markers: parsed, checked, frozen."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar, get_args

from pytest_djcelery.errors import BadOptionError

_V = TypeVar("_V")

Policy = Literal["warn", "error", "ignore"]
POLICIES: tuple[Policy, ...] = ("warn", "error", "ignore")
# What becomes of a task that is not safe to run twice.
Redeliver = Literal["off", "report", "error"]
REDELIVER: tuple[Redeliver, ...] = get_args(Redeliver)
# What an audit can find, the worst first.
FindingName = Literal[
    "published-in-transaction",
    "eta-beyond-visibility-timeout",
    "failures-nobody-saw",
    "mocked-publishes",
    "hooks-never-ran",
    "published-never-run",
    "outside-reached",
]
FINDINGS: tuple[FindingName, ...] = get_args(FindingName)

ContractMode = Literal["check", "update", "rewrite"]
CONTRACT_MODES: tuple[ContractMode, ...] = get_args(ContractMode)
TraceMode = Literal["off", "on", "retain-on-failure"]
TRACE_MODES: tuple[TraceMode, ...] = ("off", "on", "retain-on-failure")

MEMORY = "memory"
PROJECT = "project"
INLINE = "inline"
ALL = "all"
#: The token of a schedule: its test, then each decision by two letters, and the way taken there.
SCHEDULE = re.compile(r"(?P<test>[0-9a-f]{6})-(?P<decisions>0|(?:[a-z]{2}(?:[1-9]\d{0,4})?)+)")
LIVE_POOLS = ("prefork", "threads", "solo")
LOGLEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "FATAL")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the user chose for the run.

    ``app`` is where the Celery app is (``proj.celery:app``); ``None`` means that it is looked for.
    ``broker`` and ``result_backend`` are ``memory``, ``project`` (what the settings say) or
    a URL. ``timeout`` is in seconds. ``mode`` says what runs the tasks of a test that requests no
    fixture: ``None`` or ``inline``. ``queues`` are those that production's workers consume; if
    empty, the settings decide. ``live_…`` are options of ``celery worker`` for the live worker.
    ``redeliver`` says whether each message that ran to success is run once more, and what becomes
    of a task for which that makes a difference; ``redeliver_exempt`` names tasks that are left
    out in the whole run, ``redeliver_exempt_here`` in one test.
    ``schedule`` is the token of the one schedule that a test with ``celery_explore`` is to run.
    ``audit`` only watches the tests; ``audit_…`` say what becomes of its findings.
    ``trace`` says for which tests a page with the timeline is written to the folder ``trace_dir``.
    ``contract`` says what is done with the contract of messages in ``contract_file``.
    """

    app: str | None = None
    broker: str = MEMORY
    result_backend: str = MEMORY
    sent_in_transaction: Policy = "warn"
    unhandled_failures: Policy = "error"
    queues: tuple[str, ...] = ()
    redeliver: Redeliver = "off"
    redeliver_exempt: tuple[str, ...] = ()
    redeliver_exempt_here: tuple[str, ...] = ()
    timeout: float = 10.0
    mode: str | None = None
    live_pool: str = "prefork"
    live_concurrency: int = 2
    live_queues: tuple[str, ...] = ()
    live_loglevel: str = "INFO"
    schedule: str | None = None
    audit: bool = False
    audit_report: str | None = None
    audit_fail_on: tuple[str, ...] = ()
    audit_baseline: str | None = None
    contract: ContractMode | None = None
    contract_file: str = "celery-contract.json"
    contract_rolling: Policy = "warn"
    contract_include: tuple[str, ...] = ()
    trace: TraceMode = "off"
    trace_dir: str = "celery-trace"


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """An option, as it is in the ini file and on the command line."""

    name: str
    parse: Callable[[str, object], Any]  # takes text, or a value from TOML
    help: str
    switch: bool = False  # on the command line it takes no value
    path: bool = False  # of a file; in the ini file, relative to that, as pytest's own options are
    joined: bool = False  # on the command line its value follows an equals sign, not a space

    @property
    def ini(self) -> str:
        """``djcelery_…`` in the ini file."""
        return f"djcelery_{self.name}"

    @property
    def flag(self) -> str:
        """``--djcelery-…`` on the command line."""
        return f"--{self.ini}".replace("_", "-")


def _refused(name: str, value: object, expected: str) -> BadOptionError:
    if name.startswith("@pytest.mark."):
        arguments = value if isinstance(value, tuple) else (value,)
        written = f"{name}({', '.join(map(repr, arguments))})"
    else:
        written = f"{name} = {value!r}"
    return BadOptionError(f"{written}: expected {expected}.")


def _app(name: str, value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(
        r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*)?", value
    ):
        raise _refused(name, value, "the place of the Celery app, such as 'proj.celery:app'")
    return value


def _place(name: str, value: object) -> str:
    if isinstance(value, str):
        if value in (MEMORY, PROJECT) or re.match(r"[A-Za-z][A-Za-z0-9+._-]*://", value):
            return value
        if "backend" in name and value in ("django-db", "django-cache"):
            return value
    raise _refused(name, value, "'memory', 'project' (what the settings say) or a URL")


def _mode(name: str, value: object) -> str:
    if value != INLINE:
        raise _refused(name, value, "'inline', or nothing")
    return INLINE


def _one_of(valid: Sequence[_V], name: str, value: object) -> _V:
    __tracebackhide__ = True
    for known in valid:
        if known == value:
            return known
    raise _refused(name, value, f"one of {', '.join(map(repr, valid))}")


policy = partial(_one_of, POLICIES)
redeliver = partial(_one_of, REDELIVER)
pool = partial(_one_of, LIVE_POOLS)


def _tasks(name: str, value: object) -> tuple[str, ...]:
    given = _names(value)
    if given is None or not all(given):
        raise _refused(name, value, "names of tasks, such as 'shop.tasks.ship,shop.tasks.add'")
    return given


def _seconds(name: str, value: object) -> float:
    seconds = 0.0
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            seconds = float(value)
    if not 0 < seconds < float("inf"):
        raise _refused(name, value, "a number of seconds greater than zero, such as '10'")
    return seconds


def concurrency(name: str, value: object) -> int:
    """Check how many tasks the live worker runs at a time."""
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _refused(name, value, "a whole number greater than zero")
    return value


def queues(name: str, value: object) -> tuple[str, ...]:
    """Check the names of queues that workers consume."""
    given = _names(value)
    if given is None or not all(name and "," not in name for name in given):
        raise _refused(name, value, "names of queues, such as 'celery,mail'")
    return given


def loglevel(name: str, value: object) -> str:
    """Check a log level of the live worker."""
    if not isinstance(value, str) or value.upper() not in LOGLEVELS:
        raise _refused(name, value, f"one of {', '.join(map(repr, LOGLEVELS))}")
    return value.upper()


def _switch(name: str, value: object) -> bool:
    switches = {"true": True, "1": True, "yes": True, "on": True,
                "false": False, "0": False, "no": False, "off": False}  # fmt: skip
    written = str(value).lower()
    if written not in switches:
        raise _refused(name, value, "'true' or 'false'")
    return switches[written]


def _report(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.lower().endswith((".json", ".html")):
        raise _refused(name, value, "the path of a file that ends in .json or .html")
    return value


def _kinds(name: str, value: object) -> tuple[str, ...]:
    given = _names(value)
    if given is None or not {*given} <= {*FINDINGS, ALL}:
        valid = ", ".join(map(repr, (*FINDINGS, ALL)))
        raise _refused(name, value, f"some of {valid}, with commas between")
    return FINDINGS if ALL in given else given


def _schedule(name: str, value: object) -> str:
    if not isinstance(value, str) or not SCHEDULE.fullmatch(value):
        expected = "a token as the report of a failing schedule prints it, such as '1f09ac-abxy2'"
        raise _refused(name, value, expected)
    return value


def _path(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise _refused(name, value, "the path of a file")
    return value


def _folder(name: str, value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise _refused(name, value, "the path of a folder")
    return value


def _patterns(name: str, value: object) -> tuple[str, ...]:
    given = _names(value)
    if given is None or not all(given):
        raise _refused(name, value, "patterns of names of tasks, such as 'celery.*, billing.*'")
    return given


def _names(value: object) -> tuple[str, ...] | None:
    """Names with commas between, or a list of them; ``None`` for anything else."""
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, Sequence) or not all(isinstance(name, str) for name in given):
        return None
    return tuple(name.strip() for name in given)


DECLARED: tuple[Declared, ...] = (
    Declared(
        name="app", parse=_app,
        help="the project's Celery app, such as proj.celery:app (found automatically)",
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
        name="redeliver", parse=redeliver,
        help="run each message that celery_inline has run to success once more, and report tasks "
        "for which that makes a difference: off (default), report, error",
    ),
    Declared(
        name="redeliver_exempt", parse=_tasks,
        help="names of tasks that djcelery_redeliver leaves out, with commas between",
    ),
    Declared(
        name="queues", parse=queues,
        help="queues that production's workers consume, with commas between (those that the "
        "settings declare, and those that static task_routes name)",
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
    Declared(
        name="schedule", parse=_schedule,
        help="run the one schedule of a test with celery_explore that has this token",
    ),
    Declared(
        name="audit", parse=_switch, switch=True,
        help="watch the tests, change nothing, and report at the end what they hide",
    ),
    Declared(
        name="audit_report", parse=_report, path=True,
        help="also write what the audit found to this file, by its ending: .json or .html",
    ),
    Declared(
        name="audit_fail_on", parse=_kinds,
        help=f"fail the run if the audit finds any of these: {', '.join(FINDINGS)}; or {ALL}",
    ),
    Declared(
        name="audit_baseline", parse=_path, path=True,
        help="accept what an earlier run has written to this file (--djcelery-audit-report)",
    ),
    Declared(
        name="trace", parse=partial(_one_of, TRACE_MODES),
        help="write the timeline of each test as a page: off (default), on, retain-on-failure "
        "(of the tests that fail)",
    ),
    Declared(
        name="trace_dir", parse=_folder,
        help="the folder for these pages, relative to the root of the project (celery-trace)",
    ),
    Declared(
        name="contract", parse=partial(_one_of, CONTRACT_MODES), joined=True,
        help="check: fail the run if a deploy of this code would break messages, by the contract "
        "of the release before; update: add to the contract; rewrite: begin it anew",
    ),
    Declared(
        name="contract_file", parse=_path,
        help="the contract of messages, relative to the root of the project "
        "(celery-contract.json)",
    ),
    Declared(
        name="contract_rolling", parse=policy,
        help="this code sends what workers of the release before can't run: warn (default), "
        "error, ignore",
    ),
    Declared(
        name="contract_include", parse=_patterns,
        help="tasks that are part of the contract though they are Celery's or Django's, by "
        "patterns of their names, with commas between",
    ),
)  # fmt: skip


def parse(raw: Mapping[str, object]) -> Options:
    """Build `Options` from raw values by name; ``None`` and ``""`` mean not given.

    A value is text, or a value from TOML: a number, a bool, a list.

    Raises:
        BadOptionError: A value isn't valid; the text has the option, the value and valid ones.
    """
    values = {
        declared.name: declared.parse(declared.ini, value)
        for declared in DECLARED
        if (value := raw.get(declared.name)) not in (None, "")
    }
    return Options(**values)


def refuse_separated(arguments: Collection[str]) -> None:
    """Check how options are written on the command line.

    Raises:
        BadOptionError: The value of one has to follow an equals sign, and doesn't: what comes
            after a space may be the path of a test.
    """
    for declared in DECLARED:
        if declared.joined and declared.flag in arguments:
            raise BadOptionError(
                f"{declared.flag} needs its value after an equals sign, without a space, such as "
                f"{declared.flag}={CONTRACT_MODES[0]}: the path of a test after a space would be "
                f"taken for the value. Valid are {', '.join(map(repr, CONTRACT_MODES))}."
            )


def refuse_without_audit(options: Options, given: Collection[str]) -> None:
    """Check the names of the options given on the command line.

    Raises:
        BadOptionError: One of them is only for an audit, and there is no audit.
    """
    for declared in DECLARED:
        if declared.name.startswith("audit_") and declared.name in given and not options.audit:
            raise BadOptionError(f"{declared.flag} needs --djcelery-audit beside it.")


def replace(options: Options, **changes: Any) -> Options:
    """A copy with some values changed."""
    return dataclasses.replace(options, **changes)
