"""kombu's Redis transport, in this process's own space.

kombu itself puts a prefix on the keys (``global_keyprefix``), except in one command. When it closes
a channel, it also waits up to a second for the channel's ``BRPOP``; here it does not.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

from kombu import Connection
from kombu.transport import redis

from pytest_djcelery.brokers.spaces import Record, SpaceOptions, note, spaces

_SOME: Final = 500  # keys at a time
_OWN_KEYS: Final = ("unacked", "unacked_index", "unacked_mutex")

# The name of the transport in texts for people, instead of its import path.
Connection.resolve_aliases.update(
    {f"{__name__}:Transport": "redis", f"{__name__}:SentinelTransport": "sentinel"}
)


def options(limit: float) -> dict[str, Any]:
    """Transport options that limit the wait for each answer to ``limit`` seconds."""
    return {"socket_timeout": limit, "socket_connect_timeout": limit}


def empty(connection: Any, record: Record) -> None:
    """Drop the messages of a space, unacknowledged ones included."""
    channel = connection.default_channel
    client = _client(channel)
    prefix = record.prefix
    # There is a key for each priority, and the project chooses the priorities.
    steps = {int(name) for name in record.names("step")}
    keys = [
        f"{prefix}{queue}{channel.sep}{step}" if step else prefix + queue
        for queue in record.names("queue")
        for step in {0, *channel.priority_steps, *steps}
    ]
    client.delete(*keys, *(prefix + name for name in _OWN_KEYS))


def remove(connection: Any, record: Record) -> None:
    """Remove all keys of a space."""
    remove_keys(_client(connection.default_channel), record.prefix)


def remove_keys(client: Any, prefix: str) -> None:
    """Remove all keys with a prefix, some at a time, since others use that server too."""
    batch: list[Any] = []
    for key in client.scan_iter(match=f"{prefix}*", count=_SOME):
        batch.append(key)
        if len(batch) >= _SOME:
            client.delete(*batch)
            batch.clear()
    if batch:
        client.delete(*batch)


def _client(channel: Any) -> Any:
    """Private API (``Channel._create_client``), checked on kombu 5.4 to 5.7."""
    return channel._create_client()


class _PrefixesExists(redis.GlobalKeyPrefixMixin):
    """Adds the prefix to ``EXISTS``, where kombu forgets it. Checked on kombu 5.4 to 5.7."""

    def _prefix_args(self, args: Any) -> Any:
        prefixed: Any = super()._prefix_args(args)
        if prefixed[0] == "EXISTS":
            return ["EXISTS", *(self.global_keyprefix + str(key) for key in prefixed[1:])]
        return prefixed


class _Pipeline(_PrefixesExists, redis.PrefixedRedisPipeline):
    pass


class _Client(_PrefixesExists, redis.PrefixedStrictRedis):
    def pipeline(self, transaction: Any = True, shard_hint: Any = None) -> Any:
        return _Pipeline(
            self.connection_pool,
            self.response_callbacks,
            transaction,
            shard_hint,
            global_keyprefix=self.global_keyprefix,
        )


class Channel(redis.Channel):
    """A channel that notes its queues. Private API, checked on kombu 5.4 to 5.7."""

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        self._noted = SpaceOptions.of(dict(connection.client.transport_options))
        self._known: set[tuple[str, str]] = set()
        self._poll_id: tuple[Any, Any] = (None, None)
        super().__init__(connection, **kwargs)
        for step in set(self.priority_steps) - set(redis.PRIORITY_STEPS):
            note(self._noted, "step", str(step), self._known)

    def _get_client(self) -> Any:
        plain: Any = super()._get_client()
        if not self.global_keyprefix:
            return plain
        return lambda **given: _Client(global_keyprefix=self.global_keyprefix, **given)

    def _put(self, queue: str, message: Any, **kwargs: Any) -> Any:
        self._sends(queue)
        return super()._put(queue, message, **kwargs)

    def _new_queue(self, queue: str, *args: Any, **kwargs: Any) -> Any:
        note(self._noted, "queue", queue, self._known)
        return super()._new_queue(queue, *args, **kwargs)

    def _sends(self, queue: str) -> None:
        note(self._noted, "queue", queue, self._known)
        space = spaces.get(self._noted.prefix) if self._noted else None
        if space is not None:
            space.dirty = True

    def _brpop_start(self, *args: Any, **kwargs: Any) -> Any:
        connection = self.client.connection
        if connection is not None and self._poll_id[0] is not connection._sock:
            connection.send_command("CLIENT", "ID")
            self._poll_id = connection._sock, connection.read_response()
        return super()._brpop_start(*args, **kwargs)

    def close(self) -> None:
        # It would wait until its BRPOP, which may have taken a message, returns by itself.
        if getattr(self, "_in_poll", None) and self._poll_id[1] is not None:
            with suppress(Exception):
                _client(self).execute_command("CLIENT", "UNBLOCK", self._poll_id[1])
        super().close()


class SentinelChannel(Channel, redis.SentinelChannel):
    """The same, for servers that Sentinel watches."""


class Transport(redis.Transport):
    """The transport of a ``redis://`` URL."""

    Channel = Channel

    def establish_connection(self) -> Any:
        established = super().establish_connection()
        noted = SpaceOptions.of(dict(self.client.transport_options))
        space = spaces.get(noted.prefix) if noted else None
        if space is not None:
            space.first_used()
        return established


class SentinelTransport(Transport, redis.SentinelTransport):
    """The transport of a ``sentinel://`` URL."""

    Channel = SentinelChannel
