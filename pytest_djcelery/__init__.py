"""Test Celery tasks in Django projects: a green test means the code works in production.

Names load on first use, so that a run that needs none of them imports neither Django nor
Celery.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec, PathFinder
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_djcelery.api.app import check_registry
    from pytest_djcelery.api.beat import Beat
    from pytest_djcelery.api.contexts import (
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
    from pytest_djcelery.api.inline import Inline
    from pytest_djcelery.api.live_worker import LiveWorker
    from pytest_djcelery.api.outbox import Outbox
    from pytest_djcelery.api.results import Results
    from pytest_djcelery.api.worker import Worker
    from pytest_djcelery.brokers.servers import BrokerUnreachableError, ResultsUnreachableError
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
    from pytest_djcelery.messages.outcomes import (
        Failure,
        Pending,
        Progress,
        Retrying,
        Revoked,
        Started,
        StateChange,
        Success,
    )
    from pytest_djcelery.messages.sent_task import SentTask
    from pytest_djcelery.recording.result_waits import NeverReadyError, WaitTimeoutError
    from pytest_djcelery.transactions.hooks import Hook, OnCommit
    from pytest_djcelery.workers.inline.executions import Execution, Summary

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
    "api.app": ("check_registry",),
    "api.contexts": (
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
    "messages.sent_task": ("SentTask",),
    "messages.outcomes": (
        "Failure",
        "Pending",
        "Progress",
        "Retrying",
        "Revoked",
        "Started",
        "StateChange",
        "Success",
    ),
    "brokers.servers": ("BrokerUnreachableError", "ResultsUnreachableError"),
    "transactions.hooks": ("Hook", "OnCommit"),
    "api.beat": ("Beat",),
    "workers.inline.executions": ("Execution", "Summary"),
    "api.inline": ("Inline",),
    "api.live_worker": ("LiveWorker",),
    "api.outbox": ("Outbox",),
    "api.results": ("Results",),
    "api.worker": ("Worker",),
    "recording.result_waits": ("NeverReadyError", "WaitTimeoutError"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


class _AsInstalled:
    """Finds the modules of this package before pytest does, which would rewrite each of them.

    pytest rewrites the assertions of every file of a plugin's distribution. The marker in a
    docstring spares it only the rewriting: it would still compile each file anew wherever it has
    no bytecode of its own yet, as in CI, and read the source of each in every run.
    """

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """As installed; ``None``: not one of ours."""
        return PathFinder.find_spec(name, path, target) if name.startswith(_WITHIN) else None


_WITHIN = f"{__name__}."
if "_pytest.assertion.rewrite" in sys.modules:
    sys.meta_path.insert(0, _AsInstalled)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    # A submodule of the same name (``outbox``) must not take the place of the function.
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return __all__
