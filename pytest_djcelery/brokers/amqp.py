"""kombu's AMQP transport, in this process's own space.

Virtual hosts can only be created where the broker's management plugin is installed, so instead
names have a prefix on the wire, which the project never sees. If a run ends without cleaning up,
the broker itself forgets what the run has made: queues expire, and exchanges are deleted with a
queue that does (see `Channel._anchored`).
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

from amqp.abstract_channel import AbstractChannel
from kombu import Connection as KombuConnection
from kombu.transport import pyamqp

from pytest_djcelery.brokers.spaces import Record, SpaceOptions, note, spaces

#: Milliseconds, longer than any run: for what other machines have left behind.
_EXPIRES: Final = 12 * 60 * 60 * 1000
_ANCHOR: Final = "djcelery-anchor"
_SILENT: Final = "the broker is connected, but does not answer"
#: Exchanges that every virtual host has: without a prefix all runs would share them.
_PREDECLARED: Final = {
    "amq.direct": "direct",
    "amq.fanout": "fanout",
    "amq.topic": "topic",
    "amq.headers": "headers",
    "amq.match": "headers",
}

# The name of the transport in texts for people, instead of its import path.
KombuConnection.resolve_aliases.update(
    {f"{__name__}:Transport": "amqp", f"{__name__}:SSLTransport": "amqps"}
)


def options(limit: float) -> dict[str, Any]:
    """Transport options that limit how long an answer may take: kombu's transport has none."""
    del limit
    return {}


def empty(connection: Any, record: Record) -> None:
    """Drop the messages of a space."""
    for queue in record.names("queue"):
        _lenient(connection, lambda channel, name: channel.queue_purge(name), queue)


def remove(connection: Any, record: Record) -> None:
    """Remove the queues and exchanges of a space."""
    for queue in record.names("queue"):
        _lenient(connection, lambda channel, name: channel.queue_delete(name), queue)
    for exchange in record.names("exchange"):
        _lenient(connection, lambda channel, name: channel.exchange_delete(name), exchange)


def _lenient(connection: Any, act: Any, name: str) -> None:
    """Act on a queue or exchange, which may be gone or exclusive to another connection."""
    with suppress(*connection.channel_errors):
        act(connection.default_channel, name)


class _Bounded(AbstractChannel):
    """Waits for an answer no longer than the run waits for anything."""

    _limit: float | None = None

    def wait(
        self, method: Any, callback: Any = None, timeout: Any = None, returns_tuple: bool = False
    ) -> Any:
        connection = self.connection
        limit = self._limit if timeout is None else timeout
        if getattr(connection, "silent", False):
            # While it is being closed, don't wait for each of the remaining answers.
            raise TimeoutError(_SILENT)  # this makes py-amqp close the socket
        try:
            return super().wait(method, callback, limit, returns_tuple)
        except TimeoutError:
            if timeout is None and connection is not None:
                connection.silent = True
                raise TimeoutError(_SILENT) from None
            raise


class Channel(_Bounded, pyamqp.Channel):
    """A channel whose names have a prefix on the wire."""

    def __init__(self, connection: Any, *args: Any, **kwargs: Any) -> None:
        self._noted: SpaceOptions | None = connection.noted
        self._limit = connection._limit
        self._known: set[tuple[str, str]] = connection.known
        super().__init__(connection, *args, **kwargs)

    # Names ------------------------------------------------------------------------------

    def _queue(self, name: str) -> str:
        """A queue's name on the wire. Names that the broker makes (``amq.gen-…``) are unique."""
        if self._noted is None or not name or name.startswith("amq."):
            return name
        return self._noted.prefix + name

    def _exchange(self, name: str) -> str:
        """An exchange's name on the wire; one that every virtual host has is replaced by ours."""
        if self._noted is None or not name:
            return name
        if name in _PREDECLARED and ("exchange", self._noted.prefix + name) not in self._known:
            self.exchange_declare(name, _PREDECLARED[name], durable=True, auto_delete=False)
        return self._noted.prefix + name

    def _bare(self, name: Any) -> Any:
        if self._noted is None or not isinstance(name, str):
            return name
        return name.removeprefix(self._noted.prefix)

    def _arguments(self, arguments: Any, *, queue: bool) -> Any:
        """Put prefixes on the names among a declaration's arguments, and let a queue expire."""
        if self._noted is None:
            return arguments
        given = dict(arguments or {})
        if queue and given.get("x-queue-type") != "stream":  # a stream can't expire
            given.setdefault("x-expires", _EXPIRES)
        for key in ("x-dead-letter-exchange", "alternate-exchange"):
            if given.get(key):
                given[key] = self._exchange(given[key])
        if given.get("x-dead-letter-exchange") == "" and given.get("x-dead-letter-routing-key"):
            given["x-dead-letter-routing-key"] = self._queue(given["x-dead-letter-routing-key"])
        return given

    # Exchanges --------------------------------------------------------------------------

    def exchange_declare(
        self, exchange: str, type: str, passive: bool = False, durable: bool = False,
        auto_delete: bool = True, nowait: bool = False, arguments: Any = None, **kwargs: Any,
    ) -> Any:  # fmt: skip
        if self._noted is None or not exchange:
            return super().exchange_declare(
                exchange, type, passive, durable, auto_delete, nowait, arguments, **kwargs
            )
        name = self._noted.prefix + exchange
        anchored = not passive and not auto_delete
        arguments = None if passive else self._arguments(arguments, queue=False)
        note(None if passive else self._noted, "exchange", name, self._known)
        if anchored:
            return self._anchored(self._noted, name, type, durable, arguments, **kwargs)
        return super().exchange_declare(
            name, type, passive, durable, auto_delete, nowait, arguments, **kwargs
        )

    def _anchored(
        self, noted: SpaceOptions, name: str, type: str, durable: Any, arguments: Any, **kwargs: Any
    ) -> Any:
        """Declare an exchange that stays, as the project wants, until the broker forgets it.

        An exchange can't expire, but an auto-delete one goes with its last binding. So each is
        auto-delete and bound to an exchange of ours, which routes nothing on and is itself bound
        to a queue that expires. As long as that queue exists, all of them stay.
        """
        anchor = noted.prefix + _ANCHOR
        if ("exchange", anchor) not in self._known:
            note(noted, "exchange", anchor, self._known)
            note(noted, "queue", anchor, self._known)
            super().exchange_declare(anchor, "direct", durable=True, auto_delete=True)
            super().queue_declare(
                anchor, durable=True, auto_delete=False, arguments={"x-expires": _EXPIRES}
            )
            super().queue_bind(anchor, anchor, _ANCHOR)
        declared = super().exchange_declare(
            name, type, durable=durable, auto_delete=True, arguments=arguments, **kwargs
        )
        # A headers exchange matches by a binding's arguments; without any it matches everything.
        never = {"x-match": "all", _ANCHOR: "none"} if type == "headers" else None
        super().exchange_bind(anchor, name, f"{_ANCHOR}-none", arguments=never)
        return declared

    def exchange_delete(self, exchange: str, *args: Any, **kwargs: Any) -> Any:
        return super().exchange_delete(self._exchange(exchange), *args, **kwargs)

    def exchange_bind(self, destination: str, source: str = "", *args: Any, **kwargs: Any) -> Any:
        return super().exchange_bind(
            self._exchange(destination), self._exchange(source), *args, **kwargs
        )

    def exchange_unbind(self, destination: str, source: str = "", *args: Any, **kwargs: Any) -> Any:
        return super().exchange_unbind(
            self._exchange(destination), self._exchange(source), *args, **kwargs
        )

    # Queues -----------------------------------------------------------------------------

    def queue_declare(
        self, queue: str = "", passive: bool = False, durable: bool = False,
        exclusive: bool = False, auto_delete: bool = True, nowait: bool = False,
        arguments: Any = None, **kwargs: Any,
    ) -> Any:  # fmt: skip
        name = self._queue(queue)
        if not passive:
            arguments = self._arguments(arguments, queue=True)
            # An exclusive queue ends with its connection, and no other can delete it.
            if name and not exclusive:
                note(self._noted, "queue", name, self._known)
        declared = super().queue_declare(
            name, passive, durable, exclusive, auto_delete, nowait, arguments, **kwargs
        )
        if declared is None:  # nowait
            return None
        if not (name or passive or exclusive):
            note(self._noted, "queue", declared.queue, self._known)
        return declared._replace(queue=self._bare(declared.queue))

    def queue_bind(self, queue: str, exchange: str = "", *args: Any, **kwargs: Any) -> Any:
        return super().queue_bind(self._queue(queue), self._exchange(exchange), *args, **kwargs)

    def queue_unbind(self, queue: str, exchange: str, *args: Any, **kwargs: Any) -> Any:
        return super().queue_unbind(self._queue(queue), self._exchange(exchange), *args, **kwargs)

    def queue_delete(self, queue: str = "", *args: Any, **kwargs: Any) -> Any:
        return super().queue_delete(self._queue(queue), *args, **kwargs)

    def queue_purge(self, queue: str, *args: Any, **kwargs: Any) -> Any:
        return super().queue_purge(self._queue(queue), *args, **kwargs)

    def basic_consume(self, queue: str = "", *args: Any, **kwargs: Any) -> Any:
        return super().basic_consume(self._queue(queue), *args, **kwargs)

    def basic_get(self, queue: str = "", *args: Any, **kwargs: Any) -> Any:
        return super().basic_get(self._queue(queue), *args, **kwargs)

    # Messages ---------------------------------------------------------------------------

    def _basic_publish(
        self, msg: Any, exchange: str = "", routing_key: str = "", *args: Any, **kwargs: Any
    ) -> Any:
        """Also called by a publish with confirmation. Checked on amqp 5.3 and 5.4."""
        space = spaces.get(self._noted.prefix) if self._noted else None
        if space is not None:
            space.dirty = True
        if exchange:
            exchange = self._exchange(exchange)
        else:  # the default exchange, whose routing keys are names of queues
            routing_key = self._queue(routing_key)
        return super()._basic_publish(msg, exchange, routing_key, *args, **kwargs)

    basic_publish = _basic_publish

    def message_to_python(self, raw_message: Any) -> Any:
        delivered = raw_message.delivery_info
        for key in ("exchange", "routing_key"):
            if key in delivered:
                delivered[key] = self._bare(delivered[key])
        headers = raw_message.properties.get("application_headers") or {}
        for death in headers.get("x-death") or ():
            death.update({key: self._bare(death[key]) for key in ("queue", "exchange")})
            death["routing-keys"] = [self._bare(key) for key in death.get("routing-keys") or ()]
        for key in headers.keys() & {"x-first-death-queue", "x-first-death-exchange"}:
            headers[key] = self._bare(headers[key])
        return super().message_to_python(raw_message)

    def _on_basic_return(
        self, reply_code: Any, reply_text: Any, exchange: Any, routing_key: Any, message: Any
    ) -> Any:
        """Private method of py-amqp, checked on 5.3 and 5.4."""
        return super()._on_basic_return(
            reply_code, reply_text, self._bare(exchange), self._bare(routing_key), message
        )


class Connection(_Bounded, pyamqp.Connection):
    """A connection whose channels share a space."""

    Channel = Channel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.noted: SpaceOptions | None = SpaceOptions.of(kwargs)
        kwargs.pop("global_keyprefix", None)  # for Redis
        if self.noted is not None:
            self._limit = self.noted.limit
            self.silent = False  # whether an answer has failed to come in time
            # A message counts as sent only once it is in its queue, and a lost one is an error.
            kwargs.setdefault("confirm_publish", True)
        self.known: set[tuple[str, str]] = set()
        super().__init__(*args, **kwargs)


class Transport(pyamqp.Transport):
    """The transport of an ``amqp://`` URL."""

    Connection = Connection

    def establish_connection(self) -> Any:
        established = super().establish_connection()
        noted = established.noted
        space = spaces.get(noted.prefix) if noted else None
        if space is not None:
            space.first_used()
        return established


class SSLTransport(Transport, pyamqp.SSLTransport):
    """The transport of an ``amqps://`` URL."""
