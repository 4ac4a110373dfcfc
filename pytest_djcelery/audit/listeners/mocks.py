"""Record the calls that reach a mock in place of ``delay``, ``apply_async`` and ``send_task``.

What is replaced is seen where it is replaced: by `unittest.mock` (and its backport, and
pytest-mock, which use it) and by pytest's `MonkeyPatch`. Mocks have no hook for their calls, so
``_patch`` and ``CallableMixin._increment_mock_call`` (private) are wrapped, by functions that pass
everything on. A mock's parent and its name there (private, too) show what it stands for.
Checked on Python 3.10 to 3.13 and pytest 8 and 9.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from inspect import ismethod
from types import FrameType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from pytest_djcelery.audit import celery_types
from pytest_djcelery.audit.call_faults import is_mock
from pytest_djcelery.audit.listeners.mocked_calls import (
    METHODS,
    SEND_TASK,
    SENDS_ON_COMMIT,
    Call,
    Made,
    sent,
)
from pytest_djcelery.patching import patches, replaced
from pytest_djcelery.transactions.stand_in import stand_in_for

if TYPE_CHECKING:
    from pytest_djcelery.audit.recorder import Recorder

_SIGNATURES = ("s", "si")
# Of which a copy has a place in them that is not the original's.
_ITERATORS: tuple[type, ...] = (type(iter([])), type(iter(())))
_RESULT = "()"  # what a call of a mock returns, as `unittest.mock` names it


@dataclass(frozen=True, slots=True, kw_only=True)
class StandIn:
    """What a mock stands for: what ``path`` leads to from a task, an app, a class or a module."""

    owner: Any
    path: tuple[str, ...] = ()


_HOOK_RUNNER = StandIn(owner=None)


class Mocks:
    """The mocks that stand for tasks, and for `on_commit`, now."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        recorder.hook_runner = self.hook_runner
        # By the identity of the mock, or of a function's code; both are kept alive.
        self._known: dict[int, tuple[Any, StandIn]] = {}
        self._held: dict[int, list[int]] = {}  # those that a patcher has put in place

    def attribute_replaced(self, holder: Any, owner: Any, name: str, original: Any) -> None:
        """A patcher has put something else in an attribute's place."""
        with self._recorder.errors_kept():
            stands_for = _stands_for(owner, name, original)
            if stands_for is None:
                return
            known = self._recordable_there(owner, name, stands_for)
            if known is not None:
                self._known[id(known)] = known, stands_for
                self._held.setdefault(id(holder), []).append(id(known))

    def _recordable_there(self, owner: Any, name: str, stands_for: StandIn) -> Any:
        """What is there now, with its calls recorded; ``None`` if they can't be."""
        value = getattr(owner, name)
        is_function = type(value) is FunctionType
        mock = vars(value).get("mock") if is_function else value  # as autospec makes it
        if is_mock(mock):
            return mock
        if stands_for is _HOOK_RUNNER and is_function:
            return value.__code__  # found among the frames
        if stands_for is not _HOOK_RUNNER and not stands_for.path:
            return None  # what else stands for a whole task is not known
        in_class = issubclass(type(owner), type)
        if not callable(value) or (in_class and type(vars(owner).get(name)) is not FunctionType):
            return None
        recorded = _recording_call(value, partial(self._record, stands_for, ()))
        setattr(owner, name, recorded)
        return recorded

    def attributes_restored(self, holder: Any) -> None:
        """A patcher has put back what it found."""
        for mock_id in self._held.pop(id(holder), ()):
            self._known.pop(mock_id, None)

    def hook_runner(self) -> FrameType | None:
        """What a test has in the place of `on_commit`, where it runs a hook in this thread."""
        runners = {id(mock) for mock, known in list(self._known.values()) if known is _HOOK_RUNNER}
        frame = sys._getframe(1) if runners else None
        while frame is not None:
            if id(frame.f_code) in runners or id(frame.f_locals.get("self")) in runners:
                return frame
            frame = frame.f_back
        return None

    def called(self, mock: Any, args: Any, kwargs: Any) -> None:
        """A mock, any mock, is called."""
        if not self._known:
            return
        with self._recorder.errors_kept():
            line = [mock]  # and what has made it: ``task.s().delay`` is one of ``task``
            names: list[str] = []
            while id(line[-1]) not in self._known:
                names.insert(0, vars(line[-1]).get("_mock_new_name"))
                line.append(vars(line[-1]).get("_mock_new_parent"))
                if line[-1] is None:
                    return
            _, known = self._known[id(line[-1])]
            if known is not _HOOK_RUNNER and not _passes_on(mock):
                stands_for = StandIn(owner=known.owner, path=(*known.path, *names))
                self._record(stands_for, line, args, kwargs)

    def _record(self, stands_for: StandIn, line: Sequence[Any], args: Any, kwargs: Any) -> None:
        with self._recorder.errors_kept():
            call = _call(stands_for, line, args, kwargs)
            if call is None:
                return
            if line:
                call = replace(call, raises=_raised_next(line[0]))
            message = sent(self._recorder, call)
            if call.method in SENDS_ON_COMMIT:
                self._recorder.journal.append(message)
            else:
                self._recorder.judge_and_append(message)


def _recording_call(function: Callable[..., Any], record: Callable[[Any, Any], None]) -> Any:
    """A function in the place of another, which records its calls.

    `sys.monitoring` would need no replacement, but shows the parameters and not the call: neither
    which were given by name, nor by default, nor which of two tasks one function stands for.
    """

    def called(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        record(args, kwargs)
        return function(*args, **kwargs)

    return stand_in_for(function, called)


def _stands_for(owner: Any, name: str, original: Any) -> StandIn | None:
    """What a mock stands for that has taken the place of an attribute."""
    if celery_types.is_on_commit(owner, name, original):
        return _HOOK_RUNNER
    if _sends(owner, name) or (name in _SIGNATURES and celery_types.may_be_task(owner)):
        return StandIn(owner=owner, path=(name,))
    if (
        celery_types.may_be_task(original)
        or celery_types.may_be_app(original)
        or issubclass(type(original), ModuleType)
    ):
        return StandIn(owner=original)
    return None


def _sends(owner: Any, name: str) -> bool:
    """Whether an attribute of something is one of the methods that send."""
    if name == SEND_TASK:
        return celery_types.may_be_app(owner) or celery_types.is_app_class(owner)
    return name in METHODS and (
        celery_types.may_be_task(owner)
        or celery_types.is_task_class(owner)
        or celery_types.is_signature_class(owner)
    )


def _call(stands_for: StandIn, line: Sequence[Any], args: Any, kwargs: Any) -> Call | None:
    """The call of something that sends; ``line`` is the mock, what has made it, and so on."""
    owner, path = stands_for.owner, stands_for.path
    while issubclass(type(owner), ModuleType) and path:
        owner, path = vars(owner).get(path[0]), path[1:]
    if len(path) == 1 and _sends(owner, path[0]):
        return Call(owner=owner, method=path[0], args=args, kwargs=kwargs)
    match path:
        case ("s" | "si" as shortcut, result, method) if (
            result == _RESULT and method in METHODS and celery_types.may_be_task(owner)
        ):
            # Several signatures are one mock, which knows the last call.
            given = line[2].call_args
            made = Made(args=given.args, kwargs=given.kwargs, immutable=shortcut == "si")
            return Call(owner=owner, method=method, args=args, kwargs=kwargs, made=made)
    return None


def _passes_on(mock: Any) -> bool:
    """Whether a mock only watches: as ``wraps=`` and pytest-mock's ``spy`` do."""
    if vars(mock).get("_mock_wraps") is not None:
        return True
    effect = mock.side_effect
    spied = vars(effect).get("__wrapped__") if type(effect) is FunctionType else None
    return (
        ismethod(spied)
        and spied.__name__ in METHODS
        and celery_types.task_of(spied.__self__) is not None
    )


def _raised_next(mock: Any) -> type[BaseException] | None:
    """The type of what a mock raises when it is called now; ``None`` if unknown."""
    effect = mock.side_effect
    if type(effect).__name__ == "_MockIter":  # private, around that of a function by autospec
        effect = vars(effect).get("obj")
    if type(effect) in _ITERATORS:  # a copy: its next value is the mock's
        effect = next(copy(effect), None)
    kind = effect if issubclass(type(effect), type) else type(effect)
    return kind if issubclass(kind, BaseException) else None


@patches(
    "unittest.mock:_patch.__enter__",
    "unittest.mock:_patch.__exit__",
    "unittest.mock:CallableMixin._increment_mock_call",
    why="Mock libraries tell nobody what they stand for, nor that they were called.",
    checked_on="Python 3.10 to 3.13 and mock 5",
)
@contextmanager
def _library_recorded(mocks: Mocks, name: str) -> Iterator[None]:
    """Record the patchers and the calls of a mock library."""
    module = sys.modules[name]
    enter, leave = vars(module._patch)["__enter__"], vars(module._patch)["__exit__"]
    increment = vars(module.CallableMixin)["_increment_mock_call"]

    def recorded_enter(patcher: Any) -> Any:
        __tracebackhide__ = True
        value = enter(patcher)
        mocks.attribute_replaced(patcher, patcher.target, patcher.attribute, patcher.temp_original)
        return value

    def recorded_exit(patcher: Any, *exc_info: object) -> Any:
        __tracebackhide__ = True
        mocks.attributes_restored(patcher)
        return leave(patcher, *exc_info)

    def _increment_mock_call(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        mocks.called(self, args, kwargs)
        return increment(self, *args, **kwargs)

    with (
        replaced(module._patch, __enter__=recorded_enter, __exit__=recorded_exit),
        replaced(module.CallableMixin, _increment_mock_call=_increment_mock_call),
    ):
        yield


@patches(
    "_pytest.monkeypatch:MonkeyPatch.setattr",
    "_pytest.monkeypatch:MonkeyPatch.undo",
    why="pytest keeps what it has replaced in a private list, and has no hook for it.",
    checked_on="pytest 8 and 9",
)
@contextmanager
def monkeypatches_recorded(mocks: Mocks) -> Iterator[None]:
    """Record what pytest's `MonkeyPatch` puts in the place of something; its list is private."""
    put, undo = vars(pytest.MonkeyPatch)["setattr"], vars(pytest.MonkeyPatch)["undo"]

    def recorded_setattr(self: pytest.MonkeyPatch, *args: Any, **kwargs: Any) -> None:
        __tracebackhide__ = True
        put(self, *args, **kwargs)
        mocks.attribute_replaced(self, *self._setattr[-1])

    def recorded_undo(self: pytest.MonkeyPatch) -> None:
        __tracebackhide__ = True
        mocks.attributes_restored(self)
        undo(self)

    with replaced(pytest.MonkeyPatch, setattr=recorded_setattr, undo=recorded_undo):
        yield


def by_module(mocks: Mocks) -> dict[str, Callable[[], Any]]:
    """Listeners, by the module whose import they wait for."""
    return {
        name: partial(_library_recorded, mocks, name) for name in ("unittest.mock", "mock.mock")
    }
