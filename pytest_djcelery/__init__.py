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
    from pytest_djcelery.api.app import (
        app as app,
        check_registry as check_registry,
        session_app as session_app,
    )
    from pytest_djcelery.api.beat import Beat as Beat, beat as beat
    from pytest_djcelery.api.eager import eager as eager
    from pytest_djcelery.api.faults import Faults as Faults, faults as faults
    from pytest_djcelery.api.inline import Inline as Inline, inline as inline
    from pytest_djcelery.api.live_worker import LiveWorker as LiveWorker, live_worker as live_worker
    from pytest_djcelery.api.on_commit import (
        Hook as Hook,
        OnCommit as OnCommit,
        on_commit as on_commit,
    )
    from pytest_djcelery.api.outbox import Outbox as Outbox, outbox as outbox
    from pytest_djcelery.api.results import Results as Results, results as results
    from pytest_djcelery.api.timeline import timeline as timeline
    from pytest_djcelery.api.worker import (
        Worker as Worker,
        session_worker as session_worker,
        worker as worker,
    )
    from pytest_djcelery.brokers.servers import (
        BrokerUnreachableError as BrokerUnreachableError,
        ResultsUnreachableError as ResultsUnreachableError,
    )
    from pytest_djcelery.errors import (
        AppNotFoundError as AppNotFoundError,
        BadOptionError as BadOptionError,
        BadScheduleError as BadScheduleError,
        BatchError as BatchError,
        BeatError as BeatError,
        BridgedMessageNotSeenError as BridgedMessageNotSeenError,
        ClockError as ClockError,
        ContractFileError as ContractFileError,
        DeliveryRuleError as DeliveryRuleError,
        DjangoNotConfiguredError as DjangoNotConfiguredError,
        DjceleryError as DjceleryError,
        DjceleryWarning as DjceleryWarning,
        FaultNotFiredError as FaultNotFiredError,
        FixtureConflictError as FixtureConflictError,
        InlineError as InlineError,
        LimitNotEnforcedWarning as LimitNotEnforcedWarning,
        MessageNotSentError as MessageNotSentError,
        NeverEndsError as NeverEndsError,
        NotASignatureError as NotASignatureError,
        NotEnteredError as NotEnteredError,
        NotEnteredWarning as NotEnteredWarning,
        NotDeliveredWarning as NotDeliveredWarning,
        NotIdempotentError as NotIdempotentError,
        NotOneMessageError as NotOneMessageError,
        NotReplayableError as NotReplayableError,
        QueueNotConsumedWarning as QueueNotConsumedWarning,
        ScheduleFailedError as ScheduleFailedError,
        SentInTransactionError as SentInTransactionError,
        SentInTransactionWarning as SentInTransactionWarning,
        SharedConnectionsWarning as SharedConnectionsWarning,
        UnhandledTaskFailureError as UnhandledTaskFailureError,
        UnhandledTaskFailureWarning as UnhandledTaskFailureWarning,
        UnknownResultError as UnknownResultError,
        UnknownSettingWarning as UnknownSettingWarning,
        UnregisteredTaskError as UnregisteredTaskError,
        WorkerError as WorkerError,
    )
    from pytest_djcelery.fault_injection.fault import Fault as Fault
    from pytest_djcelery.fault_injection.run_faults import Stub as Stub
    from pytest_djcelery.locations import Location as Location
    from pytest_djcelery.messages.listing import unordered as unordered
    from pytest_djcelery.messages.outcomes import (
        Failure as Failure,
        Outcome as Outcome,
        Outcomes as Outcomes,
        Pending as Pending,
        Progress as Progress,
        Retrying as Retrying,
        Revoked as Revoked,
        Started as Started,
        StateChange as StateChange,
        Success as Success,
    )
    from pytest_djcelery.messages.sent_task import SentTask as SentTask
    from pytest_djcelery.recording.result_waits import (
        NeverReadyError as NeverReadyError,
        WaitTimeoutError as WaitTimeoutError,
    )
    from pytest_djcelery.workers.inline.executions import Execution as Execution, Summary as Summary
    from pytest_djcelery.workers.sqlite import DatabaseBusyError as DatabaseBusyError


class _AsInstalled:
    """Finds the modules of this package before pytest does, which would rewrite each of them.

    pytest rewrites the assertions of every file of a plugin's distribution. The marker in a
    docstring only prevents the rewriting: pytest would still compile each file where there is no
    bytecode yet, as in CI, and read its source in every run.
    """

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Find one of our modules as Python itself does; ``None`` for any other."""
        return PathFinder.find_spec(name, path, target) if name.startswith(_WITHIN) else None


_WITHIN = f"{__name__}."
if "_pytest.assertion.rewrite" in sys.modules:
    sys.meta_path.insert(0, _AsInstalled)


@cache
def _homes() -> dict[str, str]:
    """The module of each public name, read from the imports above for type checkers."""
    module = ast.parse(inspect.getsource(importlib.import_module(__name__)))
    for_checkers = next(node for node in module.body if isinstance(node, ast.If))
    return {
        alias.name: str(node.module)
        for node in for_checkers.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


__version__: str  # looked up when it is asked for

if not TYPE_CHECKING:  # with it, a checker would accept any name as an attribute

    def __getattr__(name: str) -> Any:
        if name == "__all__":
            return sorted(_homes())
        if name == "__version__":
            return importlib.import_module("importlib.metadata").version("pytest-djcelery")
        if name.startswith("__") or name not in _homes():
            msg = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(msg)
        # A submodule of the same name (``outbox``) must not take the place of the function.
        value = globals()[name] = getattr(importlib.import_module(_homes()[name]), name)
        if getattr(value, "__module__", "").startswith(_WITHIN):
            value.__module__ = __name__  # as it is imported, in reprs and texts
        return value


def __dir__() -> list[str]:
    return sorted(_homes())
