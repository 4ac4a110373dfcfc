"""What became of a task: values to compare with."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import Any

from pytest_djcelery.messages import unittest_failures


@dataclass(frozen=True, slots=True)
class StateChange:
    """A state that was stored in the result backend, and what came with it."""

    state: str
    meta: Any = None


class History(list[StateChange]):
    """The states that a task passed through; a failed comparison of it is explained."""


class Outcome:
    """Base of all outcomes. One that really happened names its ``task``, for texts."""

    __slots__ = ()
    task: str | None

    def __repr__(self) -> str:
        """As a test would write it."""
        outcome: Any = self  # every subclass is a dataclass
        first, *others = fields(outcome)
        shown = [] if first.kw_only else [_written(getattr(self, first.name))]
        for other in others if shown else (first, *others):
            value = getattr(self, other.name)
            if other.repr and value not in (None, other.default):
                shown.append(f"{other.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


class _WithRetries(Outcome):
    """Final outcomes: how often the task was retried counts only where a test names it."""

    __slots__ = ()
    retries: int | None

    def _same_retries(self, other: _WithRetries) -> bool:
        return None in (self.retries, other.retries) or self.retries == other.retries


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Success(_WithRetries):
    """The task returned ``value``.

    Args:
        value: what it returned, as the caller of ``get()`` would see it.
        retries: how often it was retried; not compared where it isn't given.
    """

    value: Any
    retries: int | None = field(default=None, kw_only=True)
    task: str | None = field(default=None, kw_only=True, repr=False, compare=False)

    def __eq__(self, other: object) -> bool:
        unittest_failures.compared()
        if not isinstance(other, Success):
            return False if isinstance(other, Outcome) else NotImplemented
        return bool(self.value == other.value) and self._same_retries(other)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Failure(_WithRetries):
    """The task raised.

    Args:
        exception: the type expected (or a tuple of them, or an instance to be equal to); in an
            outcome that really happened, the exception itself.
        match: a regular expression that ``str(exception)`` must contain, as in `pytest.raises`.
        retries: how often it was retried; not compared where it isn't given.
        traceback: of one that really happened, as text.
        raised: what the task itself raised, where this process knows; the result backend may keep
            less of it, and ``exception`` is what ``get()`` raises.
    """

    exception: Any
    match: str | None = field(default=None, kw_only=True)
    retries: int | None = field(default=None, kw_only=True)
    traceback: str | None = field(default=None, kw_only=True, repr=False)
    raised: BaseException | None = field(default=None, kw_only=True, repr=False, compare=False)
    task: str | None = field(default=None, kw_only=True, repr=False, compare=False)

    def __eq__(self, other: object) -> bool:
        unittest_failures.compared()
        if not isinstance(other, Failure):
            return False if isinstance(other, Outcome) else NotImplemented
        return (
            _same_exception(self.exception, other.exception)
            and _matches(self.match, other.exception)
            and _matches(other.match, self.exception)
            and self._same_retries(other)
        )


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Revoked(_WithRetries):
    """The task was revoked, or had expired when a worker came to it."""

    retries: int | None = field(default=None, kw_only=True)
    task: str | None = field(default=None, kw_only=True, repr=False, compare=False)

    def __eq__(self, other: object) -> bool:
        unittest_failures.compared()
        if not isinstance(other, Revoked):
            return False if isinstance(other, Outcome) else NotImplemented
        return self._same_retries(other)


class Outcomes(list["Outcome | Outcomes"]):
    """The outcomes of a group, in its order.

    Compare it with a list of outcomes, or with one for the whole as ``get()`` would see it:
    `Success` of the list of values, or the first `Failure`.
    """

    def __eq__(self, other: object) -> bool:
        unittest_failures.compared()
        if isinstance(other, Outcome):
            return bool(self.as_one == other)
        return super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    @property
    def as_one(self) -> Outcome:
        """One outcome for the whole group."""
        for outcome in self:
            if not isinstance(outcome, Success | Outcomes):
                return outcome
        return Success([part.value if isinstance(part, Success) else part for part in self])


@dataclass(frozen=True, slots=True, repr=False)
class Pending(Outcome):
    """Nothing is known of the task yet."""

    task: str | None = field(default=None, kw_only=True, repr=False, compare=False)


@dataclass(frozen=True, slots=True, repr=False)
class Started(Outcome):
    """A worker has begun (only with ``task_track_started``)."""

    task: str | None = field(default=None, kw_only=True, repr=False, compare=False)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Retrying(Outcome):
    """The task waits for its next attempt; ``exception`` is why."""

    exception: Any = None
    task: str | None = field(default=None, kw_only=True, repr=False, compare=False)

    def __eq__(self, other: object) -> bool:
        unittest_failures.compared()
        if not isinstance(other, Retrying):
            return False if isinstance(other, Outcome) else NotImplemented
        return None in (self.exception, other.exception) or _same_exception(
            self.exception, other.exception
        )


@dataclass(frozen=True, slots=True, repr=False)
class Progress(Outcome):
    """A custom state that the task set with ``update_state``, and its meta."""

    meta: Any = None
    state: str = "PROGRESS"
    task: str | None = field(default=None, kw_only=True, repr=False, compare=False)

    __hash__ = None  # type: ignore[assignment]  # its meta need not be hashable


def _same_exception(one: Any, other: Any) -> bool:
    if _is_type(one):
        one, other = other, one
    if _is_type(other):
        if _is_type(one):
            return bool(one == other)
        return isinstance(one, other)
    return type(one) is type(other) and one.args == other.args


def _written(value: Any) -> str:
    if isinstance(value, tuple) and value and all(isinstance(kind, type) for kind in value):
        return f"({', '.join(map(_written, value))})"
    return value.__qualname__ if isinstance(value, type) else repr(value)


def _is_type(value: Any) -> bool:
    return isinstance(value, type | tuple)


def _matches(pattern: str | None, exception: Any) -> bool:
    return pattern is None or _is_type(exception) or re.search(pattern, str(exception)) is not None
