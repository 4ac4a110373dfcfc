"""What a value is, judged by its type: asking a lazy object for its class would evaluate it."""

from __future__ import annotations

import sys
from types import FunctionType
from typing import Any

ON_COMMIT = "on_commit"
_APP = "celery.app.base", "Celery"
_TASK = "celery.app.task", "Task"
_SIGNATURE = "celery.canvas", "Signature"


def may_be_app(value: Any) -> bool:
    """Whether a value is an app, or a proxy that may be one."""
    return _is_instance(value, *_APP) or _is_proxy(value)


def may_be_task(value: Any) -> bool:
    """Whether a value is a task, or a proxy that may be a ``shared_task``; a call shows which."""
    return _is_instance(value, *_TASK) or _is_proxy(value)


def is_app(value: Any) -> bool:
    """Whether a value is an app."""
    return _is_instance(value, *_APP)


def is_app_class(value: Any) -> bool:
    """Whether a value is the class of apps."""
    return _is_class(value, *_APP)


def is_task_class(value: Any) -> bool:
    """Whether a value is a class of tasks."""
    return _is_class(value, *_TASK)


def is_signature(value: Any) -> bool:
    """Whether a value is a signature, or a workflow of them."""
    return _is_instance(value, *_SIGNATURE)


def is_signature_class(value: Any) -> bool:
    """Whether a value is the class of signatures, or of a kind of workflow."""
    return _is_class(value, *_SIGNATURE)


def is_on_commit(owner: Any, name: str, original: Any) -> bool:
    """Whether an attribute is Django's `on_commit`: the function, or the method of a connection."""
    if type(original) is FunctionType and original.__module__ == "django.db.transaction":
        return original.__name__ == ON_COMMIT
    wrapper = "django.db.backends.base.base", "BaseDatabaseWrapper"
    return name == ON_COMMIT and (
        _is_class(owner, *wrapper)
        or _is_instance(owner, *wrapper)
        or _is_instance(owner, "django.utils.connection", "ConnectionProxy")
    )


def task_of(value: Any) -> Any:
    """The task that a value is or stands for, or ``None``."""
    if _is_proxy(value):
        value = value._get_current_object()
    return value if _is_instance(value, *_TASK) else None


def app_of(owner: Any) -> Any:
    """The app that a value is or stands for; for the class of apps, the current default app."""
    return sys.modules["celery._state"].default_app if is_app_class(owner) else owner


def _is_proxy(value: Any) -> bool:
    return _is_instance(value, "celery.local", "Proxy")


def _is_instance(value: Any, module: str, name: str) -> bool:
    return _is_class(type(value), module, name)


def _is_class(value: Any, module: str, name: str) -> bool:
    cls = getattr(sys.modules.get(module), name, None)
    return cls is not None and issubclass(type(value), type) and issubclass(value, cls)
