"""Makes assertions of `unittest` explain a failed comparison as pytest explains ``assert``.

`unittest` has no hook to explain a comparison; what it documents for frameworks that want to say
more is ``TestCase.failureException``, which it calls with its own text. When an assertion of a
test case compares an object of this plugin, another such exception is set on that test case alone.
So it works under pytest, ``manage.py test`` and ``python -m unittest`` alike.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import FrameType
from typing import Any
from unittest import TestCase
from unittest.util import safe_repr

# By the names of the methods, whose first two arguments are compared.
_OPERATORS = {
    "assertEqual": "==",
    "assertListEqual": "==",
    "assertSequenceEqual": "==",
    "assertTupleEqual": "==",
    "assertCountEqual": "==",
    "assertNotEqual": "!=",
    "assertIn": "in",
    "assertNotIn": "not in",
    "assertGreater": ">",
    "assertGreaterEqual": ">=",
    "assertLess": "<",
    "assertLessEqual": "<=",
}

Explain = Callable[[str, object, object], "list[str] | None"]
_explanations: list[Explain] = []


def explain_with(explanation: Explain) -> None:
    """Set the function that explains failed comparisons."""
    _explanations[:] = [explanation]


def compared() -> None:
    """Note that the caller's caller is comparing an object of this plugin."""
    frame: FrameType | None = sys._getframe(2)
    module = frame.f_globals.get("__name__") if frame else None
    if module == "unittest.util" and frame:
        frame, module = frame.f_back, "unittest.case"  # ``assertCountEqual``
    if module == "unittest.case" and frame:
        _prepare(frame.f_locals.get("self"))


def counted() -> None:
    """Note that the caller's caller has counted objects of this plugin."""
    _prepare(sys._getframe(2).f_locals.get("self"))


def _prepare(case: object) -> None:
    if isinstance(case, TestCase) and not issubclass(case.failureException, _Explaining):
        kind: Any = case.failureException
        case.failureException = _explaining(kind)


class _Explaining(BaseException):
    """A failure whose text explains the comparison."""

    kind: type[BaseException]

    def __init__(self, *args: Any) -> None:
        super().__init__(*_explained(args, sys._getframe(1)))

    def __reduce__(self) -> tuple[Any, ...]:
        return self.kind, self.args  # to another process, of ``manage.py test --parallel``


@lru_cache(maxsize=16)
def _explaining(kind: type[BaseException]) -> type[BaseException]:
    """A subclass of an exception that explains comparisons and has the same name."""
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "kind": kind}
    return type(kind.__name__, (_Explaining, kind), names)


def _explained(args: tuple[Any, ...], frame: FrameType | None) -> tuple[Any, ...]:
    found = None
    while frame is not None and frame.f_globals.get("__name__") == "unittest.case":
        found = frame if frame.f_code.co_name in _OPERATORS else found
        frame = frame.f_back
    if found is None or not _explanations:
        return args
    given = found.f_locals
    # ``assertCountEqual`` compares counters rather than its arguments.
    first, second = (
        given.get(f"{name}_seq", given[name]) for name in found.f_code.co_varnames[1:3]
    )
    lines = _explanations[0](_OPERATORS[found.f_code.co_name], first, second)
    if not lines:
        return args
    message = _message(given, args)
    return ("\n".join(lines if message is None else [*lines, message]),)


def _message(given: Mapping[str, Any], args: tuple[Any, ...]) -> str | None:
    """The message that the test itself passed; some assertions put their own text before it."""
    message = given.get("msg")
    if message is None or (message,) != args:
        return None if message is None else str(message)
    own = given.get("standardMsg")
    if own is None:  # ``assertNotEqual``
        own = f"{safe_repr(given['first'])} == {safe_repr(given['second'])}"
    return str(message).partition(f"{own} : ")[2] or None
