"""Test Celery tasks in Django projects: a green test means the code works in production.

Names load on first use, so that a run that needs none of them imports neither Django nor
Celery.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_djcelery.contexts import app as app
    from pytest_djcelery.contexts import eager as eager
    from pytest_djcelery.contexts import on_commit as on_commit
    from pytest_djcelery.contexts import outbox as outbox
    from pytest_djcelery.contexts import results as results
    from pytest_djcelery.contexts import worker as worker
    from pytest_djcelery.errors import AppNotFoundError as AppNotFoundError
    from pytest_djcelery.errors import BadOptionError as BadOptionError
    from pytest_djcelery.errors import DjceleryError as DjceleryError
    from pytest_djcelery.errors import DjceleryWarning as DjceleryWarning
    from pytest_djcelery.errors import FixtureConflictError as FixtureConflictError
    from pytest_djcelery.errors import NotASignatureError as NotASignatureError
    from pytest_djcelery.errors import SentInTransactionError as SentInTransactionError
    from pytest_djcelery.errors import SentInTransactionWarning as SentInTransactionWarning
    from pytest_djcelery.errors import UnhandledTaskFailureError as UnhandledTaskFailureError
    from pytest_djcelery.errors import UnhandledTaskFailureWarning as UnhandledTaskFailureWarning
    from pytest_djcelery.errors import UnknownResultError as UnknownResultError
    from pytest_djcelery.errors import UnknownSettingWarning as UnknownSettingWarning
    from pytest_djcelery.errors import WorkerError as WorkerError
    from pytest_djcelery.locations import Location as Location
    from pytest_djcelery.messages import SentTask as SentTask
    from pytest_djcelery.outcomes import Failure as Failure
    from pytest_djcelery.outcomes import Pending as Pending
    from pytest_djcelery.outcomes import Progress as Progress
    from pytest_djcelery.outcomes import Retrying as Retrying
    from pytest_djcelery.outcomes import Revoked as Revoked
    from pytest_djcelery.outcomes import Started as Started
    from pytest_djcelery.outcomes import StateChange as StateChange
    from pytest_djcelery.outcomes import Success as Success
    from pytest_djcelery.reachable import BrokerUnreachableError as BrokerUnreachableError
    from pytest_djcelery.registry import check_registry as check_registry
    from pytest_djcelery.transactions.hooks import Hook as Hook
    from pytest_djcelery.transactions.hooks import OnCommit as OnCommit
    from pytest_djcelery.views.outbox import Outbox as Outbox
    from pytest_djcelery.views.results import Results as Results
    from pytest_djcelery.views.worker import Worker as Worker
    from pytest_djcelery.waiting import WaitTimeoutError as WaitTimeoutError

_MODULES = {
    "contexts": ("app", "eager", "on_commit", "outbox", "results", "worker"),
    "errors": (
        "AppNotFoundError", "BadOptionError", "DjceleryError", "DjceleryWarning",
        "FixtureConflictError", "NotASignatureError", "SentInTransactionError",
        "SentInTransactionWarning", "UnhandledTaskFailureError", "UnhandledTaskFailureWarning",
        "UnknownResultError", "UnknownSettingWarning", "WorkerError",
    ),
    "transactions.hooks": ("Hook", "OnCommit"),
    "locations": ("Location",),
    "messages": ("SentTask",),
    "views.outbox": ("Outbox",),
    "outcomes": (
        "Failure", "Pending", "Progress", "Retrying", "Revoked", "Started", "StateChange", "Success",
    ),
    "reachable": ("BrokerUnreachableError",),
    "registry": ("check_registry",),
    "views.results": ("Results",),
    "waiting": ("WaitTimeoutError",),
    "views.worker": ("Worker",),
}  # fmt: skip
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    # A submodule of the same name (``outbox``) must not take the place of the function.
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return __all__
