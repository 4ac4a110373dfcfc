"""Records the calls that reach a mock in place of ``delay``, ``apply_async`` and ``send_task``.

A replacement is noticed where it is made: by `unittest.mock` (and its backport, and pytest-mock,
which uses it) and by pytest's `MonkeyPatch`. Mocks have no hook for their calls, so the private
``_patch`` and ``CallableMixin._increment_mock_call`` are wrapped by functions that pass everything
on. A mock's parent and its name there (also private) show what it stands for.
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

from pytest_djcelery.audit.call_faults import is_mock
from pytest_djcelery.audit.listeners.mocked_calls import (
    APP,
    METHODS,
    SEND_TASK,
    SENDS_ON_COMMIT,
    SIGNATURE,
    TASK,
    Call,
    SignatureContents,
    is_class,
    is_on_commit,
    may_be,
    sent,
    task_of,
)
from pytest_djcelery.patching import patches, replaced
from pytest_djcelery.transactions.stand_in import stand_in_for

if TYPE_CHECKING:
    from pytest_djcelery.audit.recorder import Recorder

_SIGNATURES = ("s", "si")
# Iterators whose copy advances independently of the original.
_ITERATORS: tuple[type, ...] = (type(iter([])), type(iter(())))
_RESULT = "()"  # what a call of a mock returns, as `unittest.mock` names it


@dataclass(frozen=True, slots=True, kw_only=True)
class Replaced:
    """What a mock stands for: what ``path`` leads to from a task, an app, a class or a module."""

    owner: Any
    path: tuple[str, ...] = ()


_HOOK_RUNNER = Replaced(owner=None)


class Mocks:
    """The mocks that at present stand for tasks or for `on_commit`."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        recorder.hook_runner = self.hook_runner
        # By the identity of the mock, or of a function's code; both are kept alive.
        self._known: dict[int, tuple[Any, Replaced]] = {}
        self._by_patcher: dict[int, list[int]] = {}  # the mocks that a patcher has put in place

    def attribute_replaced(self, patcher: Any, owner: Any, name: str, original: Any) -> None:
        """Note that a patcher has replaced an attribute."""
        with self._recorder.errors_contained():
            stands_for = _stands_for(owner, name, original)
            if stands_for is None:
                return
            known = self._recordable(owner, name, stands_for)
            if known is not None:
                self._known[id(known)] = known, stands_for
                self._by_patcher.setdefault(id(patcher), []).append(id(known))

    def _recordable(self, owner: Any, name: str, stands_for: Replaced) -> Any:
        """What is in the attribute now, with its calls recorded; ``None`` if they can't be."""
        value = getattr(owner, name)
        is_function = type(value) is FunctionType
        mock = vars(value).get("mock") if is_function else value  # autospec makes a function
        if is_mock(mock):
            return mock
        if stands_for is _HOOK_RUNNER and is_function:
            return value.__code__  # it is looked for among the frames
        if stands_for is not _HOOK_RUNNER and not stands_for.path:
            return None  # nothing is known of whatever else stands for a whole task
        in_class = issubclass(type(owner), type)
        if not callable(value) or (in_class and type(vars(owner).get(name)) is not FunctionType):
            return None
        recorded = _recording_call(value, partial(self._record, stands_for, ()))
        setattr(owner, name, recorded)
        return recorded

    def attributes_restored(self, patcher: Any) -> None:
        """Note that a patcher has put back what it found."""
        for mock_id in self._by_patcher.pop(id(patcher), ()):
            self._known.pop(mock_id, None)

    def hook_runner(self) -> FrameType | None:
        """The frame of a test's replacement for `on_commit` that runs a hook in this thread."""
        runners = {id(mock) for mock, known in list(self._known.values()) if known is _HOOK_RUNNER}
        frame = sys._getframe(1) if runners else None
        while frame is not None:
            if id(frame.f_code) in runners or id(frame.f_locals.get("self")) in runners:
                return frame
            frame = frame.f_back
        return None

    def called(self, mock: Any, args: Any, kwargs: Any) -> None:
        """Note a call of any mock."""
        if not self._known:
            return
        with self._recorder.errors_contained():
            lineage = [mock]  # and its parents: that of ``task.s().delay`` leads to ``task``
            names: list[str] = []
            while id(lineage[-1]) not in self._known:
                names.insert(0, vars(lineage[-1]).get("_mock_new_name"))
                lineage.append(vars(lineage[-1]).get("_mock_new_parent"))
                if lineage[-1] is None:
                    return
            _, known = self._known[id(lineage[-1])]
            if known is not _HOOK_RUNNER and not _only_watches(mock):
                stands_for = Replaced(owner=known.owner, path=(*known.path, *names))
                self._record(stands_for, lineage, args, kwargs)

    def _record(self, stands_for: Replaced, lineage: Sequence[Any], args: Any, kwargs: Any) -> None:
        with self._recorder.errors_contained():
            call = _call(stands_for, lineage, args, kwargs)
            if call is None:
                return
            if lineage:
                call = replace(call, raises=_raised_next(lineage[0]))
            message = sent(self._recorder, call)
            if call.method in SENDS_ON_COMMIT:
                self._recorder.journal.append(message)
            else:
                self._recorder.check_race_and_append(message)


def _recording_call(function: Callable[..., Any], record: Callable[[Any, Any], None]) -> Any:
    """Make a function that takes another's place and records its calls.

    `sys.monitoring` would need no replacement, but shows the parameters rather than the call:
    neither which were passed by name or left to their defaults, nor for which of two tasks one
    function stands.
    """

    def called(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        record(args, kwargs)
        return function(*args, **kwargs)

    return stand_in_for(function, called)


def _stands_for(owner: Any, name: str, original: Any) -> Replaced | None:
    """What a mock that replaces an attribute stands for."""
    if is_on_commit(owner, name, original):
        return _HOOK_RUNNER
    if _sends(owner, name) or (name in _SIGNATURES and may_be(owner, TASK)):
        return Replaced(owner=owner, path=(name,))
    if may_be(original, TASK) or may_be(original, APP) or issubclass(type(original), ModuleType):
        return Replaced(owner=original)
    return None


def _sends(owner: Any, name: str) -> bool:
    """Whether an attribute is one of the methods that send."""
    if name == SEND_TASK:
        return may_be(owner, APP) or is_class(owner, APP)
    return name in METHODS and (
        may_be(owner, TASK) or is_class(owner, TASK) or is_class(owner, SIGNATURE)
    )


def _call(stands_for: Replaced, lineage: Sequence[Any], args: Any, kwargs: Any) -> Call | None:
    """The call, if it would send; ``lineage`` is the mock, its parent, and so on."""
    owner, path = stands_for.owner, stands_for.path
    while issubclass(type(owner), ModuleType) and path:
        owner, path = vars(owner).get(path[0]), path[1:]
    if len(path) == 1 and _sends(owner, path[0]):
        return Call(owner=owner, method=path[0], args=args, kwargs=kwargs)
    match path:
        case ("s" | "si" as shortcut, result, method) if (
            result == _RESULT and method in METHODS and may_be(owner, TASK)
        ):
            # All signatures of the task are one mock, which only remembers the last call.
            given = lineage[2].call_args
            contents = SignatureContents(
                args=given.args, kwargs=given.kwargs, immutable=shortcut == "si"
            )
            return Call(owner=owner, method=method, args=args, kwargs=kwargs, signature=contents)
    return None


def _only_watches(mock: Any) -> bool:
    """Whether a mock only watches, as with ``wraps=`` and pytest-mock's ``spy``."""
    if vars(mock).get("_mock_wraps") is not None:
        return True
    effect = mock.side_effect
    spied = vars(effect).get("__wrapped__") if type(effect) is FunctionType else None
    return ismethod(spied) and spied.__name__ in METHODS and task_of(spied.__self__) is not None


def _raised_next(mock: Any) -> type[BaseException] | None:
    """The type of what a mock would raise if it were called now; ``None`` if unknown."""
    effect = mock.side_effect
    if type(effect).__name__ == "_MockIter":  # private; autospec wraps the iterator in it
        effect = vars(effect).get("obj")
    if type(effect) in _ITERATORS:  # the next value of a copy is what the mock will use
        effect = next(copy(effect), None)
    kind = effect if issubclass(type(effect), type) else type(effect)
    return kind if issubclass(kind, BaseException) else None


@patches(
    "unittest.mock:_patch.__enter__",
    "unittest.mock:_patch.__exit__",
    "unittest.mock:CallableMixin._increment_mock_call",
    why="Mock libraries report neither what a mock stands for nor that it was called.",
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
    """Record what pytest's `MonkeyPatch` replaces; its list of replacements is private."""
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
