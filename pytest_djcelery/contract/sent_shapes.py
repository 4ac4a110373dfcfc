"""Collects the shape of each message that any test sends, and the place that sent it.

It is called for every message of the suite, so it only keeps types that it has not seen yet;
their names are looked up once, at the end.
"""

from __future__ import annotations

import datetime as dt
import decimal
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, Final

from pytest_djcelery import locations
from pytest_djcelery.contract.binding import taker
from pytest_djcelery.contract.embedded_calls import Result, calls_in, calls_of_items
from pytest_djcelery.contract.records import Parameters, Shape, Way, merged_places
from pytest_djcelery.recording.senders import Send, senders_wrapped
from pytest_djcelery.recording.task_signals import task_replaced
from pytest_djcelery.transactions.hooks import WatchedHook

if TYPE_CHECKING:
    from pytest_djcelery.contract.release import Release
    from pytest_djcelery.locations import Location

#: What identifies a shape while the tests run.
_Seen = tuple[str, str | None, Way, tuple[type, ...], tuple[str, ...], tuple[type, ...]]
#: The shapes of each task, and the place that sent each.
SentByTask = dict[str, dict[Shape, str | None]]

_RUN_HOOK: Final = WatchedHook.__call__.__code__
_UNNAMED: Final = frozenset({"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"})
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
        self._shown = shown
        self._seen: dict[_Seen, set[str | None]] = {}
        # By the ids of the code of the frame that sends, and of its caller; both are kept alive.
        self._places: dict[tuple[int, int], tuple[str, CodeType, Any]] = {}
        self._library: dict[str, bool] = {}
        self.troubles: dict[str, None] = {}  # messages that could not be read

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within the ``with``, collect from every app of the process, eager mode included."""
        with senders_wrapped(self._wrapped), self._eager_calls_seen():
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
            self._message(name, body, serializer)
        except Exception as error:  # noqa: BLE001 - whatever a project puts into a message
            self.troubles[f"a message of {name}: {type(error).__name__}: {error}"] = None

    def _message(self, name: str, body: Any, serializer: str | None) -> None:
        if type(body) is tuple:
            args, kwargs, embed = body
        else:  # the first protocol keeps everything in the body
            args, kwargs, embed = body["args"], body["kwargs"], body
        carried = [*calls_in(embed)] if any(embed.values()) else []
        if name.startswith("celery."):
            carried += calls_of_items(name, kwargs)
        place = self._place()
        if name in self._names:
            self._seen_from(_seen(name, args, kwargs, serializer), place)
        for call in carried:
            if call.task in self._names:
                seen = _seen(call.task, call.args, call.kwargs, call.serializer, call.way)
                self._seen_from(seen, place)

    def _seen_from(self, seen: _Seen, place: str | None) -> None:
        places = self._seen.get(seen)
        if places is None:
            places = self._seen.setdefault(seen, set())
        places.add(place)

    def by_task(self) -> SentByTask:
        """The shapes of each task, and the place that sent each: the first in order."""
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
            for place in places:
                found[name] = merged_places(found.get(name, {}), {shape: place})
        return found

    # Where it was sent from ---------------------------------------------------------------

    def _place(self) -> str | None:
        """The file and the function that send, as `locations.of_caller` finds them.

        That takes as long as Celery's own work on a message, so what it found for a function and
        its caller is remembered.
        """
        frame: FrameType | None = sys._getframe(2)
        library = self._library
        while frame is not None:
            code = frame.f_code
            if code is _RUN_HOOK:
                return self._place_of_hook(frame)
            name = code.co_filename
            known = library.get(name)
            if known is None:
                known = library[name] = locations.in_library(name)
            if not known:
                break
            frame = frame.f_back
        if frame is None or frame.f_back is None:
            return self._shown_place(locations.of_caller(frame)) if frame is not None else None
        key = id(frame.f_code), id(frame.f_back.f_code)
        found = self._places.get(key)
        if found is not None:
            return found[0]
        return self._place_of(frame, key)

    def _place_of(self, frame: FrameType, key: tuple[int, int]) -> str | None:
        sender = locations.frame_of_project(frame, locations.is_between)
        if sender is None:
            return None
        place = self._text(sender)
        if sender is frame and frame.f_code.co_name not in _UNNAMED:
            self._places[key] = place, frame.f_code, frame.f_back
        return place

    def _text(self, frame: FrameType) -> str:
        path = frame.f_code.co_filename
        # Python 3.12 has no functions of their own for these any more.
        while frame.f_code.co_name in _UNNAMED and frame.f_back is not None:
            if frame.f_back.f_code.co_filename != path:
                break
            frame = frame.f_back
        return f"{self._shown(path)} in {frame.f_code.co_name}"

    def _place_of_hook(self, frame: FrameType) -> str | None:
        hook: WatchedHook = frame.f_locals["self"]
        return self._shown_place(hook.location)

    def _shown_place(self, location: Location | None) -> str | None:
        if location is None:
            return None
        function = location.function.rpartition(".")[2]
        return f"{self._shown(location.path)} in {function}"
