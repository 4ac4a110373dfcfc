"""The outcomes of tasks, as values to compare with."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import Any

from pytest_djcelery.messages import unittest_failures


@dataclass(frozen=True, slots=True)
class StateChange:
    """A state that was stored in the result backend, as ``celery_results.history()`` lists them.

    ``state`` is one of Celery's, or a custom one; ``meta`` is what was stored with it: a value, an
    exception, or the ``meta`` of ``update_state``.
    """

    state: str
    meta: Any = None


class History(list[StateChange]):
    """The states that a task passed through; a failed comparison of it is explained."""


class Outcome:
    """The base class of all outcomes. One that really happened has its ``task``, for texts."""

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
    """Final outcomes: the number of retries is only compared if a test gives it."""

    __slots__ = ()
    retries: int | None

    def _same_retries(self, other: _WithRetries) -> bool:
        return None in (self.retries, other.retries) or self.retries == other.retries


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Success(_WithRetries):
    """The task returned ``value``: ``assert celery_results[result] == Success(8)``.

    Args:
        value: What it returned, as the caller of ``get()`` would see it.
        retries: How often it was retried; not compared if it isn't given.
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
    """The task raised: ``assert celery_results[result] == Failure(ValueError, match="empty")``.

    Args:
        exception: The expected type, or a tuple of types, or an instance to compare with. In an
            outcome that really happened, the exception that ``get()`` raises.
        match: A regular expression to search for in ``str(exception)``, as in `pytest.raises`.
        retries: How often it was retried; not compared if it isn't given.
        traceback: In an outcome that really happened, the traceback as text.
        raised: In an outcome that really happened, the exception that the task itself raised, if
            this process knows it; the result backend may keep less of it.
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
    """The task was revoked, or had expired when a worker received it.

    Args:
        retries: How often it was retried; not compared if it isn't given.
    """

    retries: int | None = field(default=None, kw_only=True)
    task: str | None = field(default=None, kw_only=True, repr=False, compare=False)

    def __eq__(self, other: object) -> bool:
        unittest_failures.compared()
        if not isinstance(other, Revoked):
            return False if isinstance(other, Outcome) else NotImplemented
        return self._same_retries(other)


class Outcomes(list["Outcome | Outcomes"]):
    """The outcomes of a group, in the group's order.

    Compare it with a list of outcomes, or with a single one for the whole group, as ``get()`` would
    see it: `Success` of the list of values, or the first `Failure`.
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
    """Nothing is known of the task yet: ``celery_results.now(result) == Pending()``."""

    task: str | None = field(default=None, kw_only=True, repr=False, compare=False)


@dataclass(frozen=True, slots=True, repr=False)
class Started(Outcome):
    """A worker has begun to run the task (only with ``task_track_started``)."""

    task: str | None = field(default=None, kw_only=True, repr=False, compare=False)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Retrying(Outcome):
    """The task waits for its next attempt.

    Args:
        exception: Why it is retried: a type or an instance; not compared if it isn't given.
    """

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
    """A custom state that the task set with ``update_state``.

    Args:
        meta: What was stored with the state.
        state: The name of the state.
    """

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
