"""What a worker would learn about a canvas that eager mode unrolls at the call.

Celery's eager mode runs a chain, a group or a chord task by task (`apply`), and no task learns
what comes after it. A broker would get the first tasks, each with the rest of the canvas inside.
`eager_canvases_followed` knows for each task where in the canvas it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from celery.canvas import Signature, _chain, _chord, group, maybe_signature

from pytest_djcelery.patching import patches, replaced


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a part of a canvas is: what runs after it, and which group or chord that ends in."""

    later: tuple[Signature, ...] = ()
    group_id: str | None = None
    chord: Signature | None = None
    parent_id: str | None = None
    root_id: str | None = None

    def lineage(self) -> dict[str, Any]:
        """The ids of parent and root, as Celery publishes them."""
        return {"parent_id": self.parent_id, "root_id": self.root_id}

    def options(self) -> dict[str, Any]:
        """The whole place, as Celery publishes it."""
        end = {"group_id": self.group_id, "chord": self.chord}
        if not self.later:
            return {**self.lineage(), **end, "chain": None}
        # In a chain inside a group, it is the last step that knows the group. Celery pops the
        # next step off the end.
        chain = [*self.later[:-1], _ending(self.later[-1], end)][::-1]
        return {**self.lineage(), "group_id": None, "chord": None, "chain": chain}


class _Part:
    """A canvas, a signature or a task that is being applied."""

    def __init__(self, place: Place, around: _Part | None) -> None:
        self.place = place
        self.around = around

    def place_of(self, part: Signature, options: Mapping[str, Any]) -> Place:
        """The place of the part of it that is applied next."""
        return self.place

    def ended(self, task_id: str, root_id: str) -> None:
        """Note that a task of it is over."""
        if self.around is not None:
            self.around.ended(task_id, root_id)


class _Sequence(_Part):
    """A chain, or a chord, whose second step is its body."""

    def __init__(self, place: Place, around: _Part | None, steps: Iterable[Signature]) -> None:
        super().__init__(place, around)
        self._steps = list(steps)

    def place_of(self, part: Signature, options: Mapping[str, Any]) -> Place:
        while self._steps and _is_empty(self._steps[0]) and not _is_empty(part):
            del self._steps[0]  # since Celery 5.7 a chain skips an empty group
        del self._steps[:1]
        later = (step for step in self._steps if not _is_empty(step))
        return replace(self.place, later=(*later, *self.place.later))

    def ended(self, task_id: str, root_id: str) -> None:
        self.place = replace(self.place, parent_id=task_id, root_id=root_id)
        super().ended(task_id, root_id)


class _Group(_Part):
    """A group, whose members know its id; what comes after it is the body of a chord."""

    def place_of(self, part: Signature, options: Mapping[str, Any]) -> Place:
        place, chord = self.place, self.place.chord
        if place.later:
            end = {"group_id": place.group_id, "chord": place.chord}
            *rest, last = place.later
            last = _ending(last, end)
            chord = _chain(*rest, last, app=last.app) if rest else last
        return replace(place, later=(), group_id=options.get("group_id"), chord=chord)


class _Task(_Part):
    """A running task: its next attempt is part of the canvas, what it sends is not."""

    def __init__(self, place: Place, task_id: str) -> None:
        super().__init__(place, None)
        self._task_id = task_id

    def place_of(self, part: Signature, options: Mapping[str, Any]) -> Place:
        if part.options.get("task_id") == self._task_id:
            return self.place
        return self.place_of_sent(options)

    def place_of_sent(self, options: Mapping[str, Any]) -> Place:
        """The place of what the task sends. In eager mode the task itself has no root id."""
        return Place(
            parent_id=options.get("parent_id") or self._task_id,
            root_id=self.place.root_id or self._task_id,
        )


#: The part of a canvas that eager mode is applying.
applied_part: ContextVar[_Part | None] = ContextVar("applied_part", default=None)


@contextmanager
def placed_in_canvas(task_id: str, options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Enter around a task that eager mode runs; yields the options it would be published with."""
    part = applied_part.get()
    if part is None:
        place, published = _outside_canvas(options), dict(options)
    elif isinstance(part, _Task):
        place = part.place_of_sent(options)
        published = {**options, **place.lineage()}
    else:
        place = part.place
        published = {**options, **place.options()}
    token = applied_part.set(_Task(place, task_id))
    try:
        yield published
    finally:
        applied_part.reset(token)
        if part is not None:
            part.ended(task_id, place.root_id or task_id)


def _outside_canvas(options: Mapping[str, Any]) -> Place:
    """The place of what no task sends."""
    return Place(parent_id=options.get("parent_id"), root_id=options.get("root_id"))


@patches(
    "celery.canvas:Signature.apply",
    "celery.canvas:group.apply",
    "celery.canvas:_chain.apply",
    "celery.canvas:_chord.apply",
    why="Eager mode unrolls a canvas at the call, and no task learns which part of it it is.",
    checked_on="Celery 5.4 to 5.7",
)
@contextmanager
def eager_canvases_followed(wanted: Callable[[], bool]) -> Iterator[None]:
    """Wrap ``apply`` of signatures and canvases, which eager mode calls for each part.

    Args:
        wanted: Whether anyone asks where in its canvas a task is.

    Checked on Celery 5.4 to 5.7.
    """
    parts: dict[type[Signature], Callable[[Any, Place, _Part | None, Any], _Part]] = {
        Signature: lambda _, place, around, __: _Part(place, around),
        group: lambda _, place, around, __: _Group(place, around),
        _chain: lambda chain, place, around, options: _Sequence(
            place, around, _steps(chain, options)
        ),
        _chord: lambda chord, place, around, options: _Sequence(
            # The header, whose members may come from a generator, never comes later.
            place,
            around,
            [chord, options.get("body") or chord.body],
        ),
    }

    def following(kind: type[Signature]) -> Callable[..., Any]:
        apply = vars(kind)["apply"]

        def followed_apply(self: Any, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
            if not wanted():
                return apply(self, args, kwargs, **options)
            around = applied_part.get()
            place = around.place_of(self, options) if around else _outside_canvas(options)
            token = applied_part.set(parts[kind](self, place, around, options))
            try:
                return apply(self, args, kwargs, **options)
            finally:
                applied_part.reset(token)

        return followed_apply

    with ExitStack() as stack:
        for kind in parts:
            stack.enter_context(replaced(kind, apply=following(kind)))
        yield


def _is_empty(signature: Mapping[str, Any]) -> bool:
    return isinstance(signature, group) and not signature.tasks


def _steps(chain: Any, options: Mapping[str, Any]) -> list[Signature]:
    """The tasks of a chain, with the links that Celery would add to each, or to the last."""
    options = {**chain.options, **options}
    steps = [maybe_signature(step, app=chain.app).clone() for step in chain.tasks]
    for step in steps:
        for errback in _listed(options.get("link_error")):
            step.link_error(errback)
    for callback in _listed(options.get("link")):
        steps[-1].link(callback)
    return steps


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value] if value else []


def _ending(signature: Signature, options: Mapping[str, Any]) -> Signature:
    """A signature whose last task has these options."""
    given = {name: value for name, value in options.items() if value is not None}
    if not given:
        return signature
    signature = signature.clone()
    if isinstance(signature, _chord):
        signature.body = _ending(signature.body, given)
    elif isinstance(signature, _chain):
        *rest, last = signature.tasks
        signature.tasks = [*rest, _ending(maybe_signature(last, app=signature.app), given)]
    else:
        signature.set(**given)
    return signature
