"""Whether a recorded shape still calls a task, and gives each value to the same parameter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pytest_djcelery.contract.records import Parameters, Shape, TaskParameter, TaskRecord

Fault = Literal["missing", "surplus", "unexpected", "twice", "moved", "inserted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """One way in which a shape does not fit the parameters of a task.

    ``parameter`` is at fault, as is ``other``, where a value goes to another parameter.
    ``position`` is that of the argument, from one.
    """

    fault: Fault
    parameter: str
    other: str | None = None
    position: int | None = None

    @property
    def parameters(self) -> tuple[str, ...]:
        """The parameters by which a planned break may be named."""
        named = (self.parameter.lstrip("*"), (self.other or "").lstrip("*"))
        return tuple(dict.fromkeys(name for name in named if name))


def misfits(shape: Shape, recorded: Parameters | None, now: TaskRecord) -> list[Misfit]:
    """Why a shape does not call a task any more, or calls it with another meaning.

    Args:
        shape: The shape, as it was sent.
        recorded: The parameters of the release that sent it.
        now: The task of the release that runs it.
    """
    if now.parameters is None:
        return []
    shape = as_called(shape, now.parameters, has_self=now.has_self)
    return [
        *_other_meanings(shape, recorded or (), now.parameters),
        *_unbound(shape, now.parameters),
    ]


def as_called(shape: Shape, now: Parameters, *, has_self: bool) -> Shape:
    """The call that a worker makes: an error link gets what its task is able to take.

    `celery.backends.base.Backend._call_task_errbacks`: a function with more than one parameter
    left is called with the request, the exception and the traceback, any other task with the id of
    the one that failed.
    """
    if shape.way == "call":
        return shape
    takes = sum(each.takes_positions for each in now) - len(shape.args)
    is_open = any(each.kind == "any positional" for each in now)
    full = not has_self and (is_open or takes > 1)
    before = ("request", "exc", "traceback") if full else ("task_id",)
    return Shape(args=(*(("", name) for name in before), *shape.args), kwargs=shape.kwargs)


def taker(position: int, parameters: Sequence[TaskParameter]) -> TaskParameter | None:
    """The parameter that takes a positional argument."""
    positional = [each for each in parameters if each.takes_positions]
    if position < len(positional):
        return positional[position]
    return next((each for each in parameters if each.kind == "any positional"), None)


def _unbound(shape: Shape, now: Parameters) -> Iterator[Misfit]:
    """Why `inspect.Signature.bind` would refuse a call of this shape."""
    passed: set[str] = set()
    for position, (name, _) in enumerate(shape.args):
        parameter = taker(position, now)
        if parameter is None:
            yield Misfit(fault="surplus", parameter=name, position=position + 1)
        elif parameter.takes_positions:
            passed.add(parameter.name)
    by_name = {each.name: each for each in now if each.takes_its_name}
    takes_any = any(each.kind == "any keyword" for each in now)
    for name, _ in shape.kwargs:
        if name in by_name:
            if name in passed:
                yield _passed_twice(name, shape, now)
            passed.add(name)
        elif not takes_any:
            yield Misfit(fault="unexpected", parameter=name)
    for parameter in now:
        if parameter.is_required and parameter.name not in passed:
            yield Misfit(fault="missing", parameter=parameter.name)


def _passed_twice(name: str, shape: Shape, now: Parameters) -> Misfit:
    position = next(
        position
        for position in range(len(shape.args))
        if (parameter := taker(position, now)) is not None and parameter.name == name
    )
    other = shape.args[position][0] or None
    return Misfit(fault="twice", parameter=name, other=other, position=position + 1)


def _other_meanings(shape: Shape, recorded: Parameters, now: Parameters) -> Iterator[Misfit]:
    """The positional arguments that another parameter takes than the one that was meant.

    A parameter that was only renamed takes the same argument as before.
    """
    names_now = {each.name for each in now if each.kind not in ("any positional", "any keyword")}
    names_then = {each.name for each in recorded}
    still_open = any(each.kind == "any positional" for each in now)
    for position, (meant, _) in enumerate(shape.args):
        parameter = taker(position, now)
        if not meant or parameter is None or parameter.name == meant.lstrip("*"):
            continue
        takes_rest = parameter.kind == "any positional"
        found = f"*{parameter.name}" if takes_rest else parameter.name
        if meant.startswith("*"):
            # A value of ``*args``: it has a name now, or something has come before it.
            if not takes_rest and (still_open or parameter.name in names_then):
                yield Misfit(fault="inserted", parameter=found, other=meant, position=position + 1)
        elif meant in names_now or (not takes_rest and parameter.name in names_then):
            fault: Fault = "moved" if parameter.name in names_then else "inserted"
            yield Misfit(fault=fault, parameter=found, other=meant, position=position + 1)
