"""Test Celery tasks in Django projects: a green test means the code works in production.

Names load on first use, so that a run that needs none of them imports neither Django nor
Celery.

PYTEST_DONT_REWRITE

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_djcelery.api.app import app as app
    from pytest_djcelery.api.app import check_registry as check_registry
    from pytest_djcelery.api.app import session_app as session_app
    from pytest_djcelery.api.beat import Beat as Beat
    from pytest_djcelery.api.beat import beat as beat
    from pytest_djcelery.api.eager import eager as eager
    from pytest_djcelery.api.inline import Inline as Inline
    from pytest_djcelery.api.inline import inline as inline
    from pytest_djcelery.api.live_worker import LiveWorker as LiveWorker
    from pytest_djcelery.api.live_worker import live_worker as live_worker
    from pytest_djcelery.api.on_commit import Hook as Hook
    from pytest_djcelery.api.on_commit import OnCommit as OnCommit
    from pytest_djcelery.api.on_commit import on_commit as on_commit
    from pytest_djcelery.api.outbox import Outbox as Outbox
    from pytest_djcelery.api.outbox import outbox as outbox
    from pytest_djcelery.api.results import Results as Results
    from pytest_djcelery.api.results import results as results
    from pytest_djcelery.api.worker import Worker as Worker
    from pytest_djcelery.api.worker import session_worker as session_worker
    from pytest_djcelery.api.worker import worker as worker
    from pytest_djcelery.brokers.servers import (
        BrokerUnreachableError as BrokerUnreachableError,
    )
    from pytest_djcelery.brokers.servers import (
        ResultsUnreachableError as ResultsUnreachableError,
    )
    from pytest_djcelery.errors import (
        AppNotFoundError as AppNotFoundError,
    )
    from pytest_djcelery.errors import (
        BadOptionError as BadOptionError,
    )
    from pytest_djcelery.errors import (
        BadScheduleError as BadScheduleError,
    )
    from pytest_djcelery.errors import (
        BatchError as BatchError,
    )
    from pytest_djcelery.errors import (
        BeatError as BeatError,
    )
    from pytest_djcelery.errors import (
        ClockError as ClockError,
    )
    from pytest_djcelery.errors import (
        DjceleryError as DjceleryError,
    )
    from pytest_djcelery.errors import (
        DjceleryWarning as DjceleryWarning,
    )
    from pytest_djcelery.errors import (
        FixtureConflictError as FixtureConflictError,
    )
    from pytest_djcelery.errors import (
        InlineError as InlineError,
    )
    from pytest_djcelery.errors import (
        LimitNotEnforcedWarning as LimitNotEnforcedWarning,
    )
    from pytest_djcelery.errors import (
        MessageNotSentError as MessageNotSentError,
    )
    from pytest_djcelery.errors import (
        NeverEndsError as NeverEndsError,
    )
    from pytest_djcelery.errors import (
        NotASignatureError as NotASignatureError,
    )
    from pytest_djcelery.errors import (
        NotDeliveredWarning as NotDeliveredWarning,
    )
    from pytest_djcelery.errors import (
        NotOneMessageError as NotOneMessageError,
    )
    from pytest_djcelery.errors import (
        QueueNotConsumedWarning as QueueNotConsumedWarning,
    )
    from pytest_djcelery.errors import (
        SentInTransactionError as SentInTransactionError,
    )
    from pytest_djcelery.errors import (
        SentInTransactionWarning as SentInTransactionWarning,
    )
    from pytest_djcelery.errors import (
        SharedConnectionsWarning as SharedConnectionsWarning,
    )
    from pytest_djcelery.errors import (
        UnhandledTaskFailureError as UnhandledTaskFailureError,
    )
    from pytest_djcelery.errors import (
        UnhandledTaskFailureWarning as UnhandledTaskFailureWarning,
    )
    from pytest_djcelery.errors import (
        UnknownResultError as UnknownResultError,
    )
    from pytest_djcelery.errors import (
        UnknownSettingWarning as UnknownSettingWarning,
    )
    from pytest_djcelery.errors import (
        UnregisteredTaskError as UnregisteredTaskError,
    )
    from pytest_djcelery.errors import (
        WorkerError as WorkerError,
    )
    from pytest_djcelery.locations import Location as Location
    from pytest_djcelery.messages.outcomes import (
        Failure as Failure,
    )
    from pytest_djcelery.messages.outcomes import (
        Pending as Pending,
    )
    from pytest_djcelery.messages.outcomes import (
        Progress as Progress,
    )
    from pytest_djcelery.messages.outcomes import (
        Retrying as Retrying,
    )
    from pytest_djcelery.messages.outcomes import (
        Revoked as Revoked,
    )
    from pytest_djcelery.messages.outcomes import (
        Started as Started,
    )
    from pytest_djcelery.messages.outcomes import (
        StateChange as StateChange,
    )
    from pytest_djcelery.messages.outcomes import (
        Success as Success,
    )
    from pytest_djcelery.messages.sent_task import SentTask as SentTask
    from pytest_djcelery.recording.result_waits import (
        NeverReadyError as NeverReadyError,
    )
    from pytest_djcelery.recording.result_waits import (
        WaitTimeoutError as WaitTimeoutError,
    )
    from pytest_djcelery.workers.inline.executions import Execution as Execution
    from pytest_djcelery.workers.inline.executions import Summary as Summary
    from pytest_djcelery.workers.sqlite import DatabaseBusyError as DatabaseBusyError


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


@cache
def _homes() -> dict[str, str]:
    """The module of each public name: what stands above for type checkers, read as a table."""
    module = ast.parse(inspect.getsource(importlib.import_module(__name__)))
    for_checkers = next(node for node in module.body if isinstance(node, ast.If))
    return {
        alias.name: str(node.module)
        for node in for_checkers.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


if not TYPE_CHECKING:  # a checker would take any name that is asked for as one of ours

    def __getattr__(name: str) -> Any:
        if name == "__all__":
            return sorted(_homes())
        if name.startswith("__") or name not in _homes():
            msg = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(msg)
        # A submodule of the same name (``outbox``) must not take the place of the function.
        value = globals()[name] = getattr(importlib.import_module(_homes()[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted(_homes())
