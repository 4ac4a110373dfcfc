"""Test Celery tasks in Django projects: a green test means the code works in production.

Names load on first use, so that a run that needs none of them imports neither Django nor
Celery.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_djcelery.contexts import (
        app,
        beat,
        eager,
        inline,
        live_worker,
        on_commit,
        outbox,
        results,
        session_app,
        session_worker,
        worker,
    )
    from pytest_djcelery.errors import (
        AppNotFoundError,
        BadOptionError,
        BadScheduleError,
        BeatError,
        ClockError,
        DjceleryError,
        DjceleryWarning,
        FixtureConflictError,
        InlineError,
        LimitNotEnforcedWarning,
        NeverEndsError,
        NotASignatureError,
        SentInTransactionError,
        SentInTransactionWarning,
        SharedConnectionsWarning,
        UnhandledTaskFailureError,
        UnhandledTaskFailureWarning,
        UnknownResultError,
        UnknownSettingWarning,
        WorkerError,
    )
    from pytest_djcelery.locations import Location
    from pytest_djcelery.messages import SentTask
    from pytest_djcelery.outcomes import (
        Failure,
        Pending,
        Progress,
        Retrying,
        Revoked,
        Started,
        StateChange,
        Success,
    )
    from pytest_djcelery.reachable import BrokerUnreachableError, ResultsUnreachableError
    from pytest_djcelery.registry import check_registry
    from pytest_djcelery.transactions.hooks import Hook, OnCommit
    from pytest_djcelery.views.beat import Beat
    from pytest_djcelery.views.executions import Execution, Summary
    from pytest_djcelery.views.inline import Inline
    from pytest_djcelery.views.live import LiveWorker
    from pytest_djcelery.views.outbox import Outbox
    from pytest_djcelery.views.results import Results
    from pytest_djcelery.views.worker import Worker
    from pytest_djcelery.waiting import NeverReadyError, WaitTimeoutError

__all__ = [
    "AppNotFoundError",
    "BadOptionError",
    "BadScheduleError",
    "Beat",
    "BeatError",
    "BrokerUnreachableError",
    "ClockError",
    "DjceleryError",
    "DjceleryWarning",
    "Execution",
    "Failure",
    "FixtureConflictError",
    "Hook",
    "Inline",
    "InlineError",
    "LimitNotEnforcedWarning",
    "LiveWorker",
    "Location",
    "NeverEndsError",
    "NeverReadyError",
    "NotASignatureError",
    "OnCommit",
    "Outbox",
    "Pending",
    "Progress",
    "Results",
    "ResultsUnreachableError",
    "Retrying",
    "Revoked",
    "SentInTransactionError",
    "SentInTransactionWarning",
    "SentTask",
    "SharedConnectionsWarning",
    "Started",
    "StateChange",
    "Success",
    "Summary",
    "UnhandledTaskFailureError",
    "UnhandledTaskFailureWarning",
    "UnknownResultError",
    "UnknownSettingWarning",
    "WaitTimeoutError",
    "Worker",
    "WorkerError",
    "app",
    "beat",
    "check_registry",
    "eager",
    "inline",
    "live_worker",
    "on_commit",
    "outbox",
    "results",
    "session_app",
    "session_worker",
    "worker",
]

_MODULES = {
    "contexts": (
        "app",
        "beat",
        "eager",
        "inline",
        "live_worker",
        "on_commit",
        "outbox",
        "results",
        "session_app",
        "session_worker",
        "worker",
    ),
    "errors": (
        "AppNotFoundError",
        "BadOptionError",
        "BadScheduleError",
        "BeatError",
        "ClockError",
        "DjceleryError",
        "DjceleryWarning",
        "FixtureConflictError",
        "InlineError",
        "LimitNotEnforcedWarning",
        "NeverEndsError",
        "NotASignatureError",
        "SentInTransactionError",
        "SentInTransactionWarning",
        "SharedConnectionsWarning",
        "UnhandledTaskFailureError",
        "UnhandledTaskFailureWarning",
        "UnknownResultError",
        "UnknownSettingWarning",
        "WorkerError",
    ),
    "locations": ("Location",),
    "messages": ("SentTask",),
    "outcomes": (
        "Failure",
        "Pending",
        "Progress",
        "Retrying",
        "Revoked",
        "Started",
        "StateChange",
        "Success",
    ),
    "reachable": ("BrokerUnreachableError", "ResultsUnreachableError"),
    "registry": ("check_registry",),
    "transactions.hooks": ("Hook", "OnCommit"),
    "views.beat": ("Beat",),
    "views.executions": ("Execution", "Summary"),
    "views.inline": ("Inline",),
    "views.live": ("LiveWorker",),
    "views.outbox": ("Outbox",),
    "views.results": ("Results",),
    "views.worker": ("Worker",),
    "waiting": ("NeverReadyError", "WaitTimeoutError"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    # A submodule of the same name (``outbox``) must not take the place of the function.
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return __all__
