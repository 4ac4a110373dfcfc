"""Shortcuts for a message: how it is encoded, named, dated and handed to the broker in memory.

Each replaces a function that every message passes several times, and says what it saves for each
message. Anything out of the ordinary still goes to the function that was replaced.

Producers for the broker in memory stay connected, since no connection can be lost there. Celery
takes a producer from kombu's pool for each message, and kombu takes a connection for it and binds
the producer to it again: a tenth of what a message costs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from kombu import Connection, Producer, pools

from pytest_djcelery.brokers.memory.addresses import SCHEME
from pytest_djcelery.patching import patches, replaced, standing_while
from pytest_djcelery.project.derived import MISSING

if TYPE_CHECKING:
    from types import TracebackType


_SCALARS: Final = frozenset({int, bool, float, type(None)})
_FOURTH: Final = (4 << 76) | (0b10 << 62)
_RANDOM: Final = (1 << 128) - 1 - (0xF << 76) - (0b11 << 62)
_OF_MESSAGES: Final = frozenset({"lang", "task", "argsrepr", "kwargsrepr", "compression"})


@contextmanager
def message_path_shortened() -> Iterator[None]:
    """Within the ``with``, take all the shortcuts of a message."""
    with (
        _arguments_written_at_once(),
        _json_codec_kept(),
        _serializer_errors_wrapped(),
        _utc_times_kept(),
        _ids_made(),
        _custom_headers_found(),
        _kept_attributes_read_at_once(),
    ):
        yield


@patches(
    "celery.app.amqp:saferepr",
    "celery.app.trace:saferepr",
    why="Speed: 14 µs of a message.",
    checked_on="Celery 5.4 to 5.7",
)
@contextmanager
def _arguments_written_at_once() -> Iterator[None]:
    """Write arguments of plain types as text at once: 14 µs.

    Celery builds the text token by token, to cut off arguments that are long or deep.

    Private API (``saferepr`` as imported by `celery.app.amqp` and `celery.app.trace`), checked on
    Celery 5.4 to 5.7.
    """
    from celery.app import amqp, trace
    from celery.utils.saferepr import saferepr

    def quick(o: Any, maxlen: Any = None, maxlevels: Any = 3, seen: Any = None) -> str:
        text = _written(o)
        # If it reaches the limit, Celery decides what is left out.
        if text is None or (maxlen is not None and len(text) >= maxlen):
            text = str(saferepr(o, maxlen, maxlevels, seen))
        return text

    with ExitStack() as stack:
        for module in (amqp, trace):
            if vars(module)["saferepr"] is saferepr:
                stack.enter_context(replaced(module, saferepr=quick))
        yield


def _written(values: Any) -> str | None:
    """The text that Celery writes; ``None`` if some values are not of plain types."""
    kind = type(values)
    if kind is tuple or kind is list:
        texts = [_scalar(value) for value in values]
        if None in texts:
            return None
        inside = ", ".join(texts)  # type: ignore[arg-type]  # none of them is None
        if kind is list:
            return f"[{inside}]"
        return f"({inside},)" if len(texts) == 1 else f"({inside})"
    if kind is dict:
        pairs = [(_scalar(key), _scalar(value)) for key, value in values.items()]
        if any(None in pair for pair in pairs):
            return None
        return "{{{}}}".format(", ".join(f"{key}: {value}" for key, value in pairs))
    return _scalar(values)


def _scalar(value: Any) -> str | None:
    kind = type(value)
    if kind in _SCALARS:
        return str(value)
    return "'{}'".format(value.replace("'", "\\'")) if kind is str else None


@contextmanager
def _json_codec_kept() -> Iterator[None]:
    """Keep kombu's JSON encoder and decoder, which kombu makes each time: 10 µs.

    A project that has registered a serializer named ``json`` keeps its own.

    Private API (``SerializerRegistry._encoders`` and ``_decoders``), checked on kombu 5.4 to 5.7.
    """
    from json import JSONDecoder

    from kombu import serialization
    from kombu.utils import json as of_kombu

    encoders: dict[str, Any] = serialization.registry._encoders
    decoders: dict[str, Any] = serialization.registry._decoders
    encode = of_kombu.JSONEncoder().encode
    decode = JSONDecoder(object_hook=of_kombu.object_hook).decode

    def loads(s: Any) -> Any:
        if type(s) is bytes:
            s = s.decode("utf-8")
        # For a byte-order mark, kombu raises an error with its own text.
        if type(s) is not str or s.startswith("\ufeff"):
            return of_kombu.loads(s)
        return decode(s)

    codec = encoders.get("json")
    if codec is None or codec.encoder is not of_kombu.dumps:
        yield
        return
    kind = codec.content_type
    if decoders.get(kind) is not of_kombu.loads:
        yield
        return
    ours = encoders["json"] = codec._replace(encoder=encode)
    decoders[kind] = loads
    standing_while(lambda: encoders.get("json") is ours and decoders.get(kind) is loads)
    try:
        yield
    finally:  # if another one has been registered meanwhile, it stays
        if encoders.get("json") is ours:
            encoders["json"] = codec
        if decoders.get(kind) is loads:
            decoders[kind] = of_kombu.loads


@patches(
    "kombu.serialization:_reraise_errors",
    why="Speed: 7 µs of a message.",
    checked_on="kombu 5.4 to 5.7",
)
@contextmanager
def _serializer_errors_wrapped() -> Iterator[None]:
    """Wrap the errors of a serializer without a generator: 7 µs.

    Private API (``kombu.serialization._reraise_errors``), checked on kombu 5.4 to 5.7.
    """
    from kombu import serialization

    with replaced(serialization, _reraise_errors=_Reraised):
        yield


class _Reraised:
    """Does what ``kombu.serialization._reraise_errors`` does."""

    __slots__ = ("_exclude", "_include", "_wrapper")

    def __init__(
        self, wrapper: type[Exception], include: Any = (Exception,), exclude: Any = None
    ) -> None:
        self._wrapper = wrapper
        self._include = include
        self._exclude = exclude

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            return
        from kombu.exceptions import SerializerNotInstalled

        exclude = (SerializerNotInstalled,) if self._exclude is None else self._exclude
        if isinstance(error, self._include) and not isinstance(error, exclude):
            raise self._wrapper(error).with_traceback(traceback)


@patches(
    "celery.app.base:to_utc",
    why="Speed: 2 µs of a message.",
    checked_on="Celery 5.4 to 5.7",
)
@contextmanager
def _utc_times_kept() -> Iterator[None]:
    """Leave a time that is in UTC as it is: 2 µs.

    For each result, Celery has dateutil find out whether such a time is ambiguous.

    Private API (``to_utc`` as imported by `celery.app.base`), checked on Celery 5.4 to 5.7.
    """
    from datetime import datetime
    from datetime import timezone as fixed

    from celery.app import base
    from celery.utils.time import timezone, to_utc

    def quick(dt: datetime) -> datetime:
        if dt.tzinfo is fixed.utc:
            return dt.replace(tzinfo=timezone.utc)
        moment: datetime = to_utc(dt)
        return moment

    with replaced(base, to_utc=quick):
        yield


@patches(
    "celery.app.base:uuid",
    why="Speed: 4 µs of a message.",
    checked_on="Celery 5.4 to 5.7",
)
@contextmanager
def _ids_made() -> Iterator[None]:
    """Make the id of a task without a `UUID` object: 4 µs.

    Private API (``uuid`` as imported by `celery.app.base`), checked on Celery 5.4 to 5.7.
    """
    from celery.app import base
    from kombu.utils.uuid import uuid as of_kombu

    def quick() -> str:
        # Like `uuid.uuid4`, random except for its version and its variant.
        number = int.from_bytes(os.urandom(16), "big") & _RANDOM | _FOURTH
        text = f"{number:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    if base.uuid is not of_kombu:
        yield
        return
    with replaced(base, uuid=quick):
        yield


@patches(
    "celery.app.task:Context._get_custom_headers",
    why="Speed: 3 µs of a message.",
    checked_on="Celery 5.4 to 5.7",
)
@contextmanager
def _custom_headers_found() -> Iterator[None]:
    """Find a message's custom headers among Celery's own: 3 µs.

    Celery removes every name that a request may have, which are three times as many as there are.

    Private API (``Context._get_custom_headers``), checked on Celery 5.4 to 5.7.
    """
    from celery.app.task import Context

    find = vars(Context)["_get_custom_headers"]
    names = vars(Context)
    # Celery's own headers that are not attributes of a request.
    others = _OF_MESSAGES.difference(find(None, dict.fromkeys(_OF_MESSAGES)) or ())

    def quick(self: Any, *args: Any, **kwargs: Any) -> Any:
        own = {
            name: value
            for name, value in dict(*args, **kwargs).items()
            if name not in names and name not in others
        }
        # Few messages have any. For those, Celery decides whether it removes any more.
        return find(self, own) if own else None

    with replaced(Context, _get_custom_headers=quick):
        yield


@patches(
    "kombu.utils.objects:cached_property.__get__",
    why="Speed: 4 µs of a message.",
    checked_on="kombu 5.4 to 5.7",
)
@contextmanager
def _kept_attributes_read_at_once() -> Iterator[None]:
    """Read what a `cached_property` has kept without taking its lock: 4 µs.

    A message reads eleven such attributes, of the app, its producer and its result.
    """
    from kombu.utils.objects import cached_property

    read: Any = vars(cached_property)["__get__"]

    def __get__(self: Any, instance: Any, owner: Any = None) -> Any:  # noqa: N807 - what it replaces
        if instance is not None:
            value = instance.__dict__.get(self.attrname, MISSING)
            if value is not MISSING:
                return value
        return read(self, instance, owner)

    with replaced(cached_property, __get__=__get__):
        yield


class ConnectedProducers(pools.ProducerPool):
    """A pool in which each producer keeps a connection.

    It has as many producers as are ever in use at one time, so that nothing waits for one.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._idle: list[Producer] = []
        super().__init__(*args, **kwargs)

    def setup(self) -> None:
        """Do nothing: producers are made when they are needed."""

    def acquire(self, block: bool = False, timeout: float | None = None) -> Producer:
        try:
            return self._idle.pop()
        except IndexError:
            return self._made()

    def _made(self) -> Producer:
        producer = self.Producer(self.connections.connection.clone())
        producer.release = partial(self.release, producer)
        return producer

    def release(self, resource: Producer) -> None:
        self._idle.append(resource)

    def force_close_all(self, close_pool: bool = True) -> None:
        while self._idle:
            self._idle.pop().connection.release()


@patches(
    "kombu.pools:producers.create",
    why="Speed: 30 µs of a message.",
    checked_on="kombu 5.4 to 5.7",
)
@contextmanager
def producers_kept_connected() -> Iterator[None]:
    """Within the ``with``, have kombu make such pools for the broker in memory."""
    create = pools.producers.create

    def create_connected(connection: Connection, limit: int) -> pools.ProducerPool:
        if connection.transport_cls != SCHEME:
            return create(connection, limit)
        return ConnectedProducers(pools.connections[connection], limit=limit)

    with replaced(pools.producers, create=create_connected):
        yield
