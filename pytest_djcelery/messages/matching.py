"""Compares a message with a Celery signature, and says in what it differs.

A signature is compiled once and then compared with any number of messages: the task's name
first, then the call bound to the task's own signature, then each option that the signature
sets. What it does not set is not compared.

The later steps of a chain and the body of a chord travel as signatures inside a message. They
compare by the same rules, through the same code: either is an `ActualCall`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from celery import current_app
from celery.canvas import Signature

from pytest_djcelery.errors import NotASignatureError
from pytest_djcelery.messages.arguments import bound_call, parameters_of, signature_of
from pytest_djcelery.messages.descriptions import describe_call, describe_difference
from pytest_djcelery.messages.django_tasks import (
    WrittenCall,
    function_of,
    is_django_task,
)
from pytest_djcelery.messages.option_rules import (
    ActualCall,
    call_in_message,
    option_differences,
)
from pytest_djcelery.messages.signature_types import check_signature, is_canvas, kind_of
from pytest_djcelery.messages.task_message import DjangoCall, TaskMessage
from pytest_djcelery.messages.wire import ABSENT, can_be_sent, differing, equal, shown


class _PreviousResult:
    """The first argument of a later step of a chain, which comes from the previous step."""

    def __repr__(self) -> str:
        return "<the result before>"

    def __deepcopy__(self, memo: object) -> _PreviousResult:
        return self


PREVIOUS: Final = _PreviousResult()


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A property that is not what was expected, as text."""

    property: str
    expected: str
    actual: str
    option: bool = False  # whether it is an option, which a signature need not set


class Expectation(Protocol):
    """Something a message can be compared with, compiled."""

    written: object  # what the test wrote

    def matches(self, message: TaskMessage) -> bool: ...

    def differences(self, message: TaskMessage) -> list[Difference]: ...


def matches(signature: object, message: TaskMessage) -> bool:
    """Whether ``message`` is what publishing ``signature`` sends.

    Raises:
        NotASignatureError: ``signature`` can't be compared with a message.
    """
    return expectation(signature).matches(message)


def differences(signature: object, message: TaskMessage) -> list[Difference]:
    """Every property of ``message`` that is not what ``signature`` says.

    Raises:
        NotASignatureError: ``signature`` can't be compared with a message.
    """
    return expectation(signature).differences(message)


def expectation(written: object) -> Expectation:
    """Compile what a test wrote, to compare it with many messages.

    Raises:
        NotASignatureError: It can't be compared with a message.
    """
    if is_django_task(written):
        return ExpectedDjangoCall(WrittenCall(task=written, kwargs={}))
    check_signature(written)
    if not isinstance(written, Signature):
        return Alike(written)
    if is_canvas(written):
        raise NotASignatureError(
            f"expected the signature of one task, got {describe_call(written)}.\n"
            f"A {kind_of(written)} is sent as several messages, or as one that contains the rest. "
            f"Compare it with celery_outbox.canvas:\n"
            f"    assert celery_outbox.canvas == [{kind_of(written)}(...)]"
        )
    return Expected(written)


class ExpectedDjangoCall:
    """Expects a message that was sent for a task of `django.tasks`.

    Args:
        written: What the test expects of the task. What ``using()`` has changed of it counts, the
            time as the message's ETA.
    """

    def __init__(self, written: WrittenCall) -> None:
        self.written: object = written
        self._call = written
        self._run = function_of(written.task)

    def matches(self, message: TaskMessage) -> bool:
        call = message.django_call
        if call is None or call.path != self._call.path:
            return False
        return next(self._differing(message, call), None) is None

    def differences(self, message: TaskMessage) -> list[Difference]:
        call = message.django_call
        if call is None:
            return [Difference(property="task", expected=self._call.path, actual=message.task)]
        return list(self._differing(message, call))

    def _differing(self, message: TaskMessage, call: DjangoCall) -> Iterator[Difference]:
        if call.path != self._call.path:
            yield Difference(property="task", expected=self._call.path, actual=call.path)
        if self._call.args is not None:
            args, kwargs = self._call.args, self._call.kwargs
            mine = bound_call(self._run, args, kwargs)
            theirs = bound_call(self._run, call.args, call.kwargs)
            if mine is None or theirs is None:
                mine, theirs = (
                    {"args": args, "kwargs": kwargs},
                    {"args": call.args, "kwargs": call.kwargs},
                )
            yield from _call_difference(mine, theirs, message.serializer, "argument ")
        options = dict(self._call.options)
        moment = options.pop("run_after", None)
        if moment is not None:
            actual = call_in_message(message)
            for found in option_differences({"eta": moment}, actual, current_app):
                expected, sent = describe_difference(found, {"eta": moment}, actual)
                yield Difference(property="run_after", expected=expected, actual=sent, option=True)
        for name, value in options.items():
            if (sent := getattr(call, name)) != value:
                yield Difference(
                    property=name, expected=shown(value), actual=shown(sent), option=True
                )


class Alike:
    """Expects a message that equals something: another message, or a wildcard."""

    __slots__ = ("written",)

    def __init__(self, written: object) -> None:
        self.written = written

    def matches(self, message: TaskMessage) -> bool:
        return equal(self.written, message)

    def differences(self, message: TaskMessage) -> list[Difference]:
        if self.matches(message):
            return []
        if isinstance(self.written, TaskMessage):
            return [
                Difference(property=name, expected=shown(mine), actual=shown(theirs))
                for name in ("task", "id", "retries", "sent_at")
                if (mine := getattr(self.written, name)) != (theirs := getattr(message, name))
            ]
        return [Difference(property="message", expected=shown(self.written), actual=message.task)]


class Expected:
    """Expects a message, or a signature inside one, that agrees with a signature.

    Args:
        written: A signature of one task.
        after_result: Whether it is a later step: unless it is immutable, the worker then puts the
            result of the previous step in front of its arguments.
    """

    __slots__ = ("_app", "_args", "_bound", "_kwargs", "_prefix", "_run", "written")

    def __init__(self, written: Signature, *, after_result: bool = False) -> None:
        self.written = written
        self._app = written.app
        task = getattr(written, "_type", None) or self._app.tasks.get(written["task"])
        self._run: Callable[..., object] | None = getattr(task, "run", None)
        args, kwargs = tuple(written.args or ()), dict(written.kwargs or {})
        if written["task"] in ("celery.map", "celery.starmap"):
            kwargs["it"] = list(kwargs["it"])  # lazy until it is published
        dump = getattr(task, "_dump_pydantic_arguments", None)  # Celery 5.7 sends models as dicts
        if dump is not None:
            args, kwargs = dump(args, kwargs)
        self._args, self._kwargs = args, kwargs
        self._prefix = (PREVIOUS,) if after_result and not written.immutable else ()
        self._bound: Mapping[str, object] | _PreviousResult | None = PREVIOUS  # not bound yet

    def matches(self, message: TaskMessage) -> bool:
        if message.task != self.written["task"]:
            return False  # before anything that costs time
        return next(self.differing(call_in_message(message)), None) is None

    def differences(self, message: TaskMessage) -> list[Difference]:
        return list(self.differing(call_in_message(message)))

    def differing(self, actual: ActualCall) -> Iterator[Difference]:
        """Every property in which ``actual`` is not what was expected."""
        if actual.task != self.written["task"]:
            yield Difference(property="task", expected=self.written["task"], actual=actual.task)
        yield from self._differing_call(actual)
        yield from self.differing_options(self.written.options or {}, actual)

    def differing_options(
        self, options: Mapping[str, object], actual: ActualCall
    ) -> Iterator[Difference]:
        """Each of these options that is different in ``actual``."""
        for found in option_differences(options, actual, self._app):
            expected, sent = describe_difference(found, options, actual)
            yield Difference(property=found.path, expected=expected, actual=sent, option=True)

    @property
    def misfit(self) -> str | None:
        """Why the call doesn't fit the task's own signature; ``None`` if it does."""
        if self._run is None:
            return None
        try:
            signature_of(self._run).bind(*self._prefix, *self._args, **self._kwargs)
        except TypeError as error:
            return f"{error}; the task is {self.written['task']}{parameters_of(self._run)}"
        return None

    @property
    def registered(self) -> bool:
        """Whether the signature's app knows the task."""
        return self._run is not None

    @property
    def known(self) -> list[str]:
        """The tasks that the signature's app knows."""
        return [name for name in self._app.tasks if not name.startswith("celery.")]

    def unsendable(self, serializer: str) -> list[tuple[str, object]]:
        """The arguments that ``serializer`` can't encode, each with its name."""
        named = [(f"argument {index}", value) for index, value in enumerate(self._args)]
        named += [(f"argument {name}", value) for name, value in self._kwargs.items()]
        return [(name, value) for name, value in named if not can_be_sent(value, serializer)]

    def _differing_call(self, actual: ActualCall) -> Iterator[Difference]:
        if equal(self._args, actual.args) and equal(self._kwargs, actual.kwargs):
            return
        mine = self._bound_call() if actual.task == self.written["task"] else None
        theirs = None
        if mine is not None:
            theirs = bound_call(self._run, (*self._prefix, *actual.args), actual.kwargs)
        if mine is None or theirs is None:
            yield from _call_difference(
                {"args": self._args, "kwargs": self._kwargs},
                {"args": actual.args, "kwargs": actual.kwargs},
                actual.serializer,
                "",
            )
        else:
            yield from _call_difference(mine, theirs, actual.serializer, "argument ")

    def _bound_call(self) -> Mapping[str, object] | None:
        if isinstance(self._bound, _PreviousResult):
            self._bound = bound_call(self._run, (*self._prefix, *self._args), self._kwargs)
        return self._bound


def _call_difference(
    mine: Mapping[str, object], theirs: Mapping[str, object], serializer: str, prefix: str
) -> Iterator[Difference]:
    for name, value in mine.items():
        other = theirs.get(name, ABSENT)
        for leaf in differing(value, other, serializer):
            yield Difference(
                property=f"{prefix}{name}{leaf.path}",
                expected=shown(leaf.expected),
                actual=shown(leaf.actual),
            )
    for name in [name for name in theirs if name not in mine]:
        yield Difference(
            property=f"{prefix}{name}", expected=repr(ABSENT), actual=shown(theirs[name])
        )
