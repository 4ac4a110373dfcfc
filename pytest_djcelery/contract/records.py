"""What a contract records: tasks, their parameters, and the shapes of their messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

if TYPE_CHECKING:
    import inspect


Kind = Literal[
    "positional only", "positional or keyword", "any positional", "keyword only", "any keyword"
]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)  # in the order of `inspect.Parameter`
#: How a message came about: by a call, or as the error link of another message.
Way = Literal["call", "error link"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskParameter:
    """A parameter of a task.

    ``schema`` is the JSON schema of its model, where the task validates it (``pydantic=True``).
    """

    name: str
    kind: Kind = "positional or keyword"
    has_default: bool = False
    schema: Mapping[str, Any] | None = field(default=None, hash=False)

    @classmethod
    def of(cls, parameter: inspect.Parameter, schema: Mapping[str, Any] | None) -> TaskParameter:
        """The record of a parameter."""
        return cls(
            name=parameter.name,
            kind=KINDS[parameter.kind],
            has_default=parameter.default is not parameter.empty,
            schema=schema,
        )

    @property
    def takes_positions(self) -> bool:
        """Whether it takes one positional argument, and no more."""
        return self.kind in ("positional only", "positional or keyword")

    @property
    def takes_its_name(self) -> bool:
        """Whether an argument can be passed by its name."""
        return self.kind in ("positional or keyword", "keyword only")

    @property
    def is_required(self) -> bool:
        """Whether a call has to pass it."""
        return not self.has_default and self.kind not in ("any positional", "any keyword")


Parameters = tuple[TaskParameter, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One way to call a task: the types of the arguments, and no values.

    ``args`` has a name and a type for each positional argument. The name is that of the parameter
    that took it when it was sent; it is empty where that is not known, and begins with a star for
    ``*args``. ``serializer`` is only there where it is not the task's own.
    """

    args: tuple[tuple[str, str], ...] = ()
    kwargs: tuple[tuple[str, str], ...] = ()  # by name
    way: Way = "call"
    serializer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """What a release has published about one task.

    ``parameters`` is ``None`` where they can't be known, ``queue`` where no queue is named.
    ``function`` is where its code is, unless the name of the task says that. ``has_self``: it is
    bound, or a class; Celery then calls it as an error link by the id of what failed.
    ``is_django``: it is a task of `django.tasks`. ``sent`` has the place that sent each shape.
    """

    parameters: Parameters | None
    queue: str | None
    serializer: str
    function: str | None = None
    has_self: bool = False
    is_django: bool = False
    sent: Mapping[Shape, str | None] = field(default_factory=dict)

    def with_sent(self, sent: Mapping[Shape, str | None]) -> TaskRecord:
        """The same with more shapes; of several places the first in order is kept."""
        return replace(self, sent=merged_places(self.sent, sent))


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """What a release has published: its tasks, by name, and the queues that it declares."""

    tasks: Mapping[str, TaskRecord] = field(default_factory=dict)
    queues: tuple[str, ...] = ()
    retired: Mapping[str, str] = field(default_factory=dict)

    def updated(self, now: Contract) -> Contract:
        """The same with what this code publishes: nothing is taken away."""
        tasks = dict(self.tasks)
        for name, task in now.tasks.items():
            before = tasks.get(name)
            tasks[name] = task if before is None else task.with_sent(before.sent)
        queues = tuple(sorted({*self.queues, *now.queues}))
        return Contract(tasks=tasks, queues=queues, retired=self.retired)


def merged_places(
    *several: Mapping[Shape, str | None],
) -> dict[Shape, str | None]:
    """All shapes, each with the first in order of the places that sent it."""
    found: dict[Shape, str | None] = {}
    for sent in several:
        for shape, place in sent.items():
            found[shape] = first_place((found.get(shape), place))
    return found


def first_place(places: Iterable[str | None]) -> str | None:
    """The first in order of some places, if any is known; an installed package's comes last."""
    known = (place for place in places if place is not None)
    return min(known, key=lambda place: (place.startswith("site-packages/"), place), default=None)


def parameters_text(task: str, parameters: Parameters | None) -> str:
    """How a person writes the head of a function: ``ship(order_id, *, express=…)``."""
    name = task.rpartition(".")[2]
    if parameters is None:
        return f"{name}(…)"
    texts: list[str] = []
    starred = False
    for position, parameter in enumerate(parameters):
        if parameter.kind == "keyword only" and not starred:
            texts.append("*")
            starred = True
        if parameter.kind == "any positional":
            starred = True
        stars = {"any positional": "*", "any keyword": "**"}.get(parameter.kind, "")
        texts.append(f"{stars}{parameter.name}{'=…' if parameter.has_default else ''}")
        later = parameters[position + 1 : position + 2]
        if parameter.kind == "positional only" and not (
            later and later[0].kind == "positional only"
        ):
            texts.append("/")
    return f"{name}({', '.join(texts)})"


def shape_text(task: str, shape: Shape) -> str:
    """A shape as a call with types in place of values: ``ship(int, express=bool)``."""
    arguments = [kind for _, kind in shape.args]
    arguments += [f"{name}={kind}" for name, kind in shape.kwargs]
    text = f"{task.rpartition('.')[2]}({', '.join(arguments)})"
    if shape.way == "error link":
        text += " as an error link"
    return f"{text} by {shape.serializer}" if shape.serializer else text


# Whether a shape still calls a task, and gives values to the same parameters --------------

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
