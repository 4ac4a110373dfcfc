"""Collects the shape of each message that any test sends, and the place that sent it.

It is called for every message of the suite, so it only keeps types that it has not seen yet;
their names are looked up once, at the end.
"""

from __future__ import annotations

import datetime as dt
import decimal
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from pytest_djcelery import locations
from pytest_djcelery.contract.places import Places
from pytest_djcelery.contract.records import Parameters, Shape, Way, merged_places, misfits, taker
from pytest_djcelery.messages.django_tasks import enqueueing
from pytest_djcelery.patching import Current
from pytest_djcelery.recording.django_events import enqueues_recorded
from pytest_djcelery.recording.publishing import Send, senders_wrapped
from pytest_djcelery.recording.task_signals import NOWHERE, task_replaced

if TYPE_CHECKING:
    from pytest_djcelery.contract.release import Release


# The messages that a message carries: the rest of its chain, its links, its chord, its items.


class Result:
    """Stands for what an earlier task returns."""


RESULT: Final = Result()
_ITEMS: Final = frozenset({"celery.map", "celery.starmap"})


@dataclass(frozen=True, slots=True, kw_only=True)
class LaterCall:
    """A call that a worker makes later on."""

    task: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    way: Way = "call"
    serializer: str | None = None


def calls_in(embed: Mapping[str, Any]) -> Iterator[LaterCall]:
    """The calls that the body of a message carries beside its own arguments."""
    for link in _listed(embed.get("callbacks")):
        yield from _calls(link, (RESULT,))
    for link in _listed(embed.get("errbacks")):
        yield from _error_link(link)
    for step in _listed(embed.get("chain")):
        yield from _calls(step, (RESULT,))
    if embed.get("chord"):
        yield from _calls(embed["chord"], ([],))


def calls_of_items(name: str, kwargs: Mapping[str, Any]) -> Iterator[LaterCall]:
    """The calls that `Task.map`, ``starmap`` and ``chunks`` make: one for each item."""
    task, items = kwargs.get("task"), kwargs.get("it")
    if name not in _ITEMS or not isinstance(task, Mapping) or not isinstance(items, Iterable):
        return
    for item in items:
        args = item if name == "celery.starmap" else (item,)
        yield LaterCall(task=task["task"], args=args, kwargs={})


def _calls(signature: Any, before: tuple[Any, ...]) -> Iterator[LaterCall]:
    """The calls of a signature as it is inside a message, and of its links.

    Args:
        signature: A task, a chain, a group or a chord.
        before: The arguments that Celery puts before its own, unless it is immutable.
    """
    if not isinstance(signature, Mapping) or not signature.get("task"):
        return
    yield from _own_calls(signature, () if signature.get("immutable") else before)
    options = signature.get("options") or {}
    yield from calls_in(
        {
            "callbacks": options.get("link"),
            "errbacks": options.get("link_error"),
            "chord": options.get("chord"),
        }
    )


def _own_calls(signature: Mapping[str, Any], given: tuple[Any, ...]) -> Iterator[LaterCall]:
    kwargs, kind = signature.get("kwargs") or {}, signature.get("subtask_type")
    if kind == "chain":
        for step in _listed(kwargs.get("tasks")):
            yield from _calls(step, given)
            given = (RESULT,)
    elif kind in ("group", "chord"):
        for member in _listed(kwargs.get("tasks" if kind == "group" else "header")):
            yield from _calls(member, given)
        yield from _calls(kwargs.get("body"), ([],))
    elif signature["task"] in _ITEMS:
        yield from calls_of_items(signature["task"], kwargs)
    else:
        yield LaterCall(
            task=signature["task"],
            args=(*given, *(signature.get("args") or ())),
            kwargs=kwargs,
            serializer=(signature.get("options") or {}).get("serializer"),
        )


def _error_link(signature: Any) -> Iterator[LaterCall]:
    for call in _calls(signature, ()):
        yield LaterCall(
            task=call.task,
            args=call.args,
            kwargs=call.kwargs,
            way="call" if signature.get("immutable") else "error link",
            serializer=call.serializer,
        )


def _listed(value: Any) -> Iterable[Any]:
    if value is None:
        return ()
    return (value,) if isinstance(value, Mapping) else value


#: What identifies a shape while the tests run.
_Seen = tuple[str, str | None, Way, tuple[type, ...], tuple[str, ...], tuple[type, ...]]
#: The shapes of each task, and the place that sent each.
SentByTask = dict[str, dict[Shape, str | None]]

# As a worker gets them by JSON, YAML or MessagePack, whatever class of theirs was sent.
_NAMES: Final[Sequence[tuple[type | tuple[type, ...], str]]] = (
    (bool, "bool"),
    (int, "int"),
    (float, "float"),
    (str, "str"),
    (bytes, "bytes"),
    (dt.datetime, "datetime"),
    (dt.date, "date"),
    (dt.time, "time"),
    (dt.timedelta, "timedelta"),
    (decimal.Decimal, "Decimal"),
    (uuid.UUID, "UUID"),
    ((list, tuple), "list"),
    (dict, "dict"),
    (type(None), "None"),
    (Result, "result"),
)


def type_name(kind: type) -> str:
    """The name of a type as a contract has it."""
    for known, name in _NAMES:
        if issubclass(kind, known):
            return name
    functional = sys.modules.get("django.utils.functional")
    if functional is not None and issubclass(kind, functional.Promise):
        return "str"  # a text that is translated as it is sent
    return f"{kind.__module__}.{kind.__qualname__}"


def named_shape(
    args: Sequence[type],
    kwargs: Mapping[str, type],
    parameters: Parameters | None,
    *,
    way: Way = "call",
    serializer: str | None = None,
) -> Shape:
    """The shape of a call, with the names of the parameters that take its arguments."""
    names = [""] * len(args)
    if parameters is not None and way == "call":
        takers = [taker(position, parameters) for position in range(len(args))]
        names = [
            "" if each is None else each.name if each.takes_positions else f"*{each.name}"
            for each in takers
        ]
    return Shape(
        args=tuple(zip(names, map(type_name, args), strict=True)),
        kwargs=tuple(sorted((name, type_name(kind)) for name, kind in kwargs.items())),
        way=way,
        serializer=serializer,
    )


def _seen(
    name: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    serializer: str | None,
    way: Way = "call",
) -> _Seen:
    kinds = tuple(map(type, args)), tuple(kwargs), tuple(map(type, kwargs.values()))
    return name, serializer, way, *kinds


class SentShapes:
    """The shapes of the messages that the tests of this process send.

    Args:
        release: What this code publishes.
        shown: Shortens the path of a file.
    """

    def __init__(self, release: Release, shown: Callable[[str], str]) -> None:
        self._release = release
        self._names = release.names
        self._seen: dict[_Seen, set[str | None]] = {}
        self._known: set[tuple[Any, ...]] = set()  # and the way that leads to their place
        self._places = Places(shown)
        self.troubles: dict[str, None] = {}  # messages that could not be read

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within the ``with``, collect from every app of the process, eager mode included."""
        with (
            senders_wrapped(self._wrapped),
            self._eager_calls_seen(),
            enqueues_recorded(Current(NOWHERE)),  # it is only asked while a message is sent
        ):
            yield

    def _wrapped(self, amqp: Any, send: Send) -> Send:
        serializer_of_app = amqp.app.conf.task_serializer

        def send_task_message(producer: Any, name: str, message: Any, **options: Any) -> Any:
            sent = send(producer, name, message, **options)
            self.message(name, message.body, options.get("serializer") or serializer_of_app)
            return sent

        return send_task_message

    @contextmanager
    def _eager_calls_seen(self) -> Iterator[None]:
        from celery.app.task import Task

        original = vars(Task)["apply"]

        def apply(
            self: Any, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any
        ) -> Any:
            __tracebackhide__ = True
            if locations.publishing_frame() is not None:  # else a test runs the task by itself
                embed = {
                    "callbacks": rest[0] if rest else options.get("link"),
                    "errbacks": rest[1] if rest[1:] else options.get("link_error"),
                }
                seen(self.name, (args or (), kwargs or {}, embed), options.get("serializer"))
            return original(self, args, kwargs, *rest, **options)

        seen = self.message
        with task_replaced(apply=apply):
            yield

    def message(self, name: str, body: Any, serializer: str | None) -> None:
        """Note the shape of a message, and of those that it carries; never fail the sender."""
        try:
            running = enqueueing()
            if running is not None:  # the message of a Django task is not that of the bridge
                call = running.call
                seen = _seen(call.path, call.args, call.kwargs, None)
                self._seen.setdefault(seen, set()).add(self._places.shown(call.location))
                return
            nearest = self._places.nearest(3)
            if nearest is not None and type(body) is tuple and nearest.f_back is not None:
                # What most messages come to: a shape that this function has sent before.
                args, kwargs, embed = body
                known = (
                    name,
                    serializer,
                    tuple(map(type, args)),
                    (tuple(kwargs), tuple(map(type, kwargs.values()))) if kwargs else None,
                    id(nearest.f_code),
                    id(nearest.f_back.f_code),
                )
                if known in self._known and not any(embed.values()):
                    return
            self._message(name, body, serializer, nearest)
        except Exception as error:  # noqa: BLE001 - whatever a project puts into a message
            self.troubles[f"a message of {name}: {type(error).__name__}: {error}"] = None

    def _message(
        self, name: str, body: Any, serializer: str | None, nearest: FrameType | None
    ) -> None:
        if type(body) is tuple:
            args, kwargs, embed = body
        else:  # the first protocol keeps everything in the body
            args, kwargs, embed = body["args"], body["kwargs"], body
        carried = [*calls_in(embed)]
        if name.startswith("celery."):
            carried += calls_of_items(name, kwargs)
        place, way = self._places.of(nearest)
        if name in self._names:
            seen = _seen(name, args, kwargs, serializer)
            self._seen.setdefault(seen, set()).add(place)
            if way is not None:
                named = (tuple(kwargs), seen[5]) if kwargs else None
                self._known.add((name, serializer, seen[3], named, *way))
        for call in carried:
            if call.task in self._names:
                seen = _seen(call.task, call.args, call.kwargs, call.serializer, call.way)
                self._seen.setdefault(seen, set()).add(place)

    def by_task(self) -> SentByTask:
        """The shapes of each task, and the place that sent each: the first in order.

        What this code itself can't run, as some test may want to see, is no part of a contract.
        """
        found: SentByTask = {}
        for (name, serializer, way, args, names, kinds), places in list(self._seen.items()):
            record = self._release.record(name)
            shape = named_shape(
                args,
                dict(zip(names, kinds, strict=True)),
                record.parameters,
                way=way,
                serializer=None if serializer in (None, record.serializer) else serializer,
            )
            if misfits(shape, record.parameters, record):
                continue
            for place in places:
                found[name] = merged_places(found.get(name, {}), {shape: place})
        return found
