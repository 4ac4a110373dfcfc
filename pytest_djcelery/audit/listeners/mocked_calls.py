"""Finds out what a call that reached a mock would have sent."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import FunctionType
from typing import TYPE_CHECKING, Any

from pytest_djcelery.audit.call_faults import fault_of, is_empty, is_of_the_test, parts
from pytest_djcelery.audit.recorder import Sent
from pytest_djcelery.messages.arguments import is_lazy

if TYPE_CHECKING:
    from pytest_djcelery.audit.recorder import Recorder


SENDS_ON_COMMIT = ("delay_on_commit", "apply_async_on_commit")
METHODS = ("delay", "apply_async", *SENDS_ON_COMMIT)
SEND_TASK = "send_task"
_APPLIES = ("apply_async", "apply_async_on_commit")  # they take ``args`` and ``kwargs``
_BROKERS = ("amqp", "kombu", "redis")  # whose errors mean a broken broker
_MOCKING = ("pytest_djcelery", "unittest", "mock")


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureContents:
    """The arguments and options that a signature already has."""

    args: Any = ()
    kwargs: Any = None
    serializer: Any = None
    immutable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call of a mock, or of what a test has put in the place of a function.

    ``owner`` is a real task or app, or one of Celery's classes; ``signature`` is set if the method
    called is that of a signature of the task rather than of the task itself. ``raises`` is the
    type of what the mock raises.
    """

    owner: Any
    method: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    signature: SignatureContents | None = None
    raises: type[BaseException] | None = None


@dataclass(slots=True)
class _Message:
    """What the real method would have sent, as far as it is known."""

    mocked: str
    name: str = "a task"  # if the mock stands for a method of every task
    task: Any = None
    app: Any = None
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    serializer: Any = None
    fault: str | None = None


class _RefusedError(Exception):
    """Celery would refuse the call."""


class _UnknownError(Exception):
    """It is unknown what the arguments would be."""


def sent(recorder: Recorder, call: Call) -> Sent:
    """The message that the real method would have sent, whatever is wrong with it."""
    message = _Message(mocked=call.method)
    with recorder.errors_contained(), suppress(_UnknownError):
        try:
            if call.method == SEND_TASK:
                _read_send_task(message, call)
            else:
                _read_send(message, call)
            message.fault = fault_of(
                message.task, message.args, message.kwargs, _serializer(message)
            )
        except _RefusedError as error:
            message.fault = str(error)
    return Sent(
        task=message.name,
        args=message.args,
        kwargs=message.kwargs,
        location=recorder.caller(),
        way="mock",
        mocked=message.mocked,
        fault=message.fault,
        simulates=None if call.raises is None else _simulated(call.raises),
    )


def _simulated(raised: type[BaseException]) -> str:
    """What a mock that raises simulates, judged by where the type of the error comes from."""
    of_broker = issubclass(raised, OSError) or any(
        cls.__module__.partition(".")[0] in _BROKERS for cls in raised.__mro__
    )
    what = "a broken broker" if of_broker else "a call that fails"
    return f"{what}: it raises {raised.__qualname__}"


def _read_send_task(message: _Message, call: Call) -> None:
    owner, args = call.owner, call.args
    if args and is_a(args[0], APP):  # autospec passes ``self``
        owner, args = args[0], args[1:]
    name, given, named, message.serializer = _bound(send_task, args, call.kwargs)
    if not issubclass(type(name), str):
        raise _UnknownError
    message.name = str.__str__(name)
    message.app = app_of(owner)
    if message.app is not None:
        message.task = message.app.tasks.get(message.name)
    _fill(message, given, named, SignatureContents())


def _read_send(message: _Message, call: Call) -> None:
    subject, given, named = task_of(call.owner), call.args, call.kwargs
    if subject is None and given and _sends(given[0]):  # autospec passes ``self``
        subject, given = given[0], given[1:]
    elif subject is None:
        subject = _sender()
    contents, of_signature = call.signature, is_class(call.owner, SIGNATURE)
    if is_a(subject, SIGNATURE):
        message.name = dict.get(subject, "task", message.name)
        with suppress(KeyError):  # a task that is not registered here
            message.task = subject.type
    elif subject is not None:
        message.task, message.name = subject, subject.name
    message.mocked = f"{message.name}{'.s()' if contents or of_signature else ''}.{call.method}"
    if of_signature:
        contents = _contents_of(subject)
    if call.method in _APPLIES:
        given, named, message.serializer = _bound(apply_async, given, named)
    _fill(message, given, named, contents or SignatureContents())


def _contents_of(signature: Any) -> SignatureContents:
    """What a signature holds. A workflow holds others, which are not looked into."""
    if type(signature) is not sys.modules["celery.canvas"].Signature:
        raise _UnknownError
    return SignatureContents(
        args=signature["args"],
        kwargs=signature["kwargs"],
        serializer=signature["options"].get("serializer"),
        immutable=signature["immutable"],
    )


def _fill(message: _Message, given: Any, named: Any, contents: SignatureContents) -> None:
    """Combine the arguments, as `Signature.apply_async` does."""
    own, own_named = _positional(contents.args), _by_keyword(contents.kwargs)
    if contents.immutable:
        message.args, message.kwargs = own, own_named
    else:
        message.args = _positional(given) + own
        message.kwargs = {**own_named, **_by_keyword(named)}
    if message.serializer is None:
        message.serializer = contents.serializer


def _serializer(message: _Message) -> Any:
    """The name of the serializer, if it can be read without loading the configuration."""
    if message.serializer is not None:
        return message.serializer
    if message.task is not None:
        return message.task.serializer or "json"
    if message.app is not None and message.app.configured:
        return message.app.conf.task_serializer
    return None


def _sends(value: Any) -> bool:
    return task_of(value) is not None or is_a(value, SIGNATURE)


def _sender() -> Any:
    """The task or signature whose own method, such as `Task.delay`, has called the mock."""
    frame = sys._getframe(1)
    while frame.f_back is not None and _module(frame).partition(".")[0] in _MOCKING:
        frame = frame.f_back
    if _module(frame) in ("celery.app.task", "celery.canvas") and frame.f_code.co_name in METHODS:
        found = frame.f_locals.get("self")
        return found if _sends(found) else None
    return None


def _module(frame: Any) -> str:
    return str(frame.f_globals.get("__name__"))


# Arguments, as Celery takes them --------------------------------------------------------


def send_task(
    name: Any, args: Any = None, kwargs: Any = None, *_: Any, serializer: Any = None, **__: Any
) -> tuple[Any, ...]:
    """Take the arguments of `Celery.send_task`; Python's error for wrong ones has this name."""
    return name, args, kwargs, serializer


def apply_async(
    args: Any = None, kwargs: Any = None, *_: Any, serializer: Any = None, **__: Any
) -> tuple[Any, ...]:
    """Take the arguments of `Task.apply_async`, in the same way."""
    return args, kwargs, serializer


def _bound(method: Callable[..., tuple[Any, ...]], args: Any, kwargs: Any) -> tuple[Any, ...]:
    try:
        return method(*args, **kwargs)
    except TypeError as error:
        raise _RefusedError(str(error)) from None


def _positional(value: Any) -> tuple[Any, ...]:
    """``args or ()``, as `Task.apply_async` takes it and `AMQP.as_task_v2` refuses it."""
    if is_empty(value):
        return ()
    if issubclass(type(value), list | tuple):
        return tuple(parts(value))
    if is_of_the_test(value) or is_lazy(type(value)):
        raise _UnknownError
    raise _RefusedError("task args must be a list or tuple")


def _by_keyword(value: Any) -> dict[str, Any]:
    """``kwargs or {}``, as `Task.apply_async` takes it and `AMQP.as_task_v2` refuses it."""
    if is_empty(value):
        return {}
    if issubclass(type(value), dict):
        if not all(issubclass(type(name), str) for name in dict.keys(value)):
            raise _RefusedError("keywords must be strings")
        return dict(dict.items(value))
    if is_of_the_test(value) or is_lazy(type(value)) or issubclass(type(value), Mapping):
        raise _UnknownError
    raise _RefusedError("task keyword arguments must be a mapping")


# Values by their types: asking a lazy object for its class would evaluate it --------------

ON_COMMIT = "on_commit"
# Classes, by the names of their modules and their own: they may not be loaded.
APP = "celery.app.base", "Celery"
TASK = "celery.app.task", "Task"
SIGNATURE = "celery.canvas", "Signature"
_PROXY = "celery.local", "Proxy"


def is_a(value: Any, name: tuple[str, str]) -> bool:
    """Whether a value is an instance of a class."""
    return is_class(type(value), name)


def may_be(value: Any, name: tuple[str, str]) -> bool:
    """Whether a value is an instance of a class, or a proxy that may stand for one."""
    return is_a(value, name) or is_a(value, _PROXY)


def is_class(value: Any, name: tuple[str, str]) -> bool:
    """Whether a value is a class, or derives from it."""
    cls = getattr(sys.modules.get(name[0]), name[1], None)
    return cls is not None and issubclass(type(value), type) and issubclass(value, cls)


def is_on_commit(owner: Any, name: str, original: Any) -> bool:
    """Whether an attribute is Django's `on_commit`: the function, or the method of a connection."""
    if type(original) is FunctionType and original.__module__ == "django.db.transaction":
        return original.__name__ == ON_COMMIT
    wrapper = "django.db.backends.base.base", "BaseDatabaseWrapper"
    return name == ON_COMMIT and (
        is_class(owner, wrapper)
        or is_a(owner, wrapper)
        or is_a(owner, ("django.utils.connection", "ConnectionProxy"))
    )


def task_of(value: Any) -> Any:
    """The task that a value is or stands for, or ``None``."""
    if is_a(value, _PROXY):
        value = value._get_current_object()
    return value if is_a(value, TASK) else None


def app_of(owner: Any) -> Any:
    """The app that a value is or stands for; for the class of apps, the current default app."""
    return sys.modules["celery._state"].default_app if is_class(owner, APP) else owner
