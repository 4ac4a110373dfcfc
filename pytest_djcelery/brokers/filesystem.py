"""A broker and results in a folder, for workers in other processes where there is no server.

This is kombu's filesystem transport, made reliable. In kombu's, a message appears in the folder
before it is completely written, so a reader may take half of it and lose it; the tables of
exchanges are rewritten in place, with the same effect; two messages of one millisecond have no
order; and exchanges declared in one folder are known in all others. Here files appear complete, by
a rename, names are in the order of sending, and folders share nothing. Celery's ``file://``
results are rewritten in place too; here they appear complete, and chords are counted as by Redis.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from celery.backends.filesystem import FilesystemBackend
from kombu.transport import filesystem, virtual
from kombu.utils.json import dumps, loads

from pytest_djcelery.brokers.chords import ChordBackend
from pytest_djcelery.brokers.file_locks import lock

TRANSPORT: Final = "pytest_djcelery.brokers.filesystem:Transport"
BACKEND: Final = "pytest_djcelery.brokers.filesystem:FolderBackend"
URL: Final = "filesystem://localhost/"
_POLL: Final = 0.01  # seconds

_states: dict[str, virtual.BrokerState] = {}


def settings(folder: Path) -> dict[str, Any]:
    """Celery's settings for a broker in ``folder``, which must exist."""
    for name in ("messages", "control", "processed"):
        (folder / name).mkdir(exist_ok=True)
    return {
        "broker_url": URL,
        "broker_read_url": None,
        "broker_write_url": None,
        "broker_transport": TRANSPORT,
        "broker_transport_options": {
            "data_folder_in": str(folder / "messages"),
            "data_folder_out": str(folder / "messages"),
            "control_folder": str(folder / "control"),
            # Read messages where they are: by default kombu first moves them to a system folder.
            "store_processed": True,
            "processed_folder": str(folder / "processed"),
            "polling_interval": _POLL,
        },
    }


def forget(folder: Path) -> None:
    """Drop what this process knows of a folder's exchanges."""
    _states.pop(str(folder / "messages"), None)


def give_back(folder: Path, ids: Collection[str]) -> None:
    """Redeliver messages that a worker has taken, and which was lost with them.

    Args:
        folder: The folder of the broker.
        ids: Of the tasks.
    """
    for path in sorted((folder / "processed").glob("*.msg")):
        payload = loads(path.read_text())
        if payload["headers"].get("id") in ids:
            payload["properties"]["delivery_info"]["redelivered"] = True
            path.unlink()
            _write_whole(folder / "messages" / path.name, dumps(payload))


class Channel(filesystem.Channel):
    """Writes files that appear complete. The layout of the folders is kombu's."""

    def _put(self, queue: str, payload: Any, **_: Any) -> None:
        name = f"{time.monotonic_ns():020}_{uuid.uuid4()}.{queue}.msg"
        _write_whole(Path(self.data_folder_out) / name, dumps(payload))

    def _restore(self, message: Any) -> None:
        # As kombu's Redis transport does; `delivery_info` is a property of the message.
        message.delivery_info["redelivered"] = True
        super()._restore(message)

    def get_table(self, exchange: str) -> list[Any]:
        try:
            table = loads(self._table_of(exchange).read_text())
        except FileNotFoundError:
            return []
        return [filesystem.exchange_queue_t(*row) for row in table]

    def _queue_bind(self, exchange: str, routing_key: Any, pattern: Any, queue: Any) -> None:
        entry = filesystem.exchange_queue_t(routing_key or "", pattern or "", queue or "")
        self._change_table(exchange, lambda table: [entry, *(row for row in table if row != entry)])

    def _delete(self, queue: str, exchange: str, routing_key: Any, pattern: Any, *_: Any) -> None:
        self._purge(queue)
        entry = filesystem.exchange_queue_t(routing_key or "", pattern or "", queue or "")
        self._change_table(exchange, lambda table: [row for row in table if row != entry])

    def _change_table(self, exchange: str, change: Callable[[list[Any]], list[Any]]) -> None:
        with _lock_held(Path(self.control_folder) / ".lock"):
            _write_whole(self._table_of(exchange), dumps(change(self.get_table(exchange))))

    def _table_of(self, exchange: str) -> Path:
        # The project chooses the names of exchanges: none may lead out of the folder.
        safe = "".join(
            letter if letter.isalnum() or letter in "-_." else "%" for letter in exchange
        )
        return Path(self.control_folder) / f"{safe}.exchange"


class Transport(filesystem.Transport):
    """Knows only the exchanges of its folder, and works in an event loop.

    With the loop, a worker runs as it does over Redis and RabbitMQ. Without it a worker would
    acknowledge only between two waits for messages, and the threads of its pool would sleep for
    seconds as they end.
    """

    Channel = Channel
    implements = filesystem.Transport.implements.extend(asynchronous=True)

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        folder = client.transport_options["data_folder_in"]
        self.state = _states.setdefault(folder, virtual.BrokerState())

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Look for messages as often as without a loop."""
        loop.call_repeatedly(self.polling_interval, self._deliver_all, connection)

    def _deliver_all(self, connection: Any) -> None:
        with suppress(TimeoutError):
            while True:
                self.drain_events(connection, timeout=0)


class FolderBackend(ChordBackend, FilesystemBackend):
    """Celery's filesystem backend, with files that appear complete, and able to count chords."""

    supports_native_join = True

    def set(self, key: bytes, value: Any) -> None:
        data = value if isinstance(value, bytes) else str(value).encode()
        _write_whole(self._path(key), data)

    def chord_locked(self, group_id: str) -> AbstractContextManager[Any]:
        return _lock_held(self._path(self.get_key_for_group(group_id, ".lock")))

    def expire(self, key: bytes, value: int) -> None:
        """A test ends before any result expires."""

    def delete(self, key: bytes) -> None:
        with suppress(FileNotFoundError):
            super().delete(key)

    def _path(self, key: bytes) -> Path:
        return Path(os.fsdecode(self._filename(key)))


def _write_whole(path: Path, text: str | bytes) -> None:
    """Write a file so that no reader finds it half written."""
    unfinished = path.with_name(f".{uuid.uuid4()}.part")
    unfinished.write_bytes(text.encode() if isinstance(text, str) else text)
    unfinished.replace(path)


@contextmanager
def _lock_held(path: Path) -> Iterator[None]:
    """Within the ``with``, keep other processes out by a lock file."""
    with path.open("a") as file:
        lock(file.fileno())  # until it is closed
        yield
