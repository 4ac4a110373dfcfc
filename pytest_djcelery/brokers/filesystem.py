"""A broker of files in a folder, for a worker in other processes where there is no server.

kombu's filesystem transport, with what it lacks to be relied upon. There a message appears in
the folder before it is written, and whoever reads it meanwhile takes half of it and loses it;
the tables of exchanges are rewritten in place, in the same way; two messages of one millisecond
are in no order; and the exchanges known in one folder are known in all others. So here files
appear whole, by a rename, names are in the order of sending, and each folder is by itself.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from kombu.transport import filesystem, virtual
from kombu.utils.json import dumps, loads

from pytest_djcelery.brokers import shared_files as files

TRANSPORT: Final = "pytest_djcelery.brokers.filesystem:Transport"
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
            # Read where they lay: by default kombu moves them to the system's folder first.
            "store_processed": True,
            "processed_folder": str(folder / "processed"),
            "polling_interval": _POLL,
        },
    }


def forget(folder: Path) -> None:
    """Drop what this process knows of a folder's exchanges."""
    _states.pop(str(folder / "messages"), None)


class Channel(filesystem.Channel):  # type: ignore[misc]  # kombu has no types
    """Writes files that appear whole. The folders' layout is kombu's."""

    def _put(self, queue: str, payload: Any, **_: Any) -> None:
        name = f"{time.monotonic_ns():020}_{uuid.uuid4()}.{queue}.msg"
        files.write_whole(Path(self.data_folder_out) / name, dumps(payload))

    def _restore(self, message: Any) -> None:
        # As kombu's Redis transport; what it writes to is the message's own property.
        message.delivery_info["redelivered"] = True
        super()._restore(message)

    def get_table(self, exchange: str) -> list[Any]:
        try:
            table = loads(self._table_of(exchange).read_text())
        except FileNotFoundError:
            return []
        return [filesystem.exchange_queue_t(*each) for each in table]

    def _queue_bind(self, exchange: str, routing_key: Any, pattern: Any, queue: Any) -> None:
        entry = filesystem.exchange_queue_t(routing_key or "", pattern or "", queue or "")
        self._change_table(exchange, lambda table: [entry, *(e for e in table if e != entry)])

    def _delete(self, queue: str, exchange: str, routing_key: Any, pattern: Any, *_: Any) -> None:
        self._purge(queue)
        entry = filesystem.exchange_queue_t(routing_key or "", pattern or "", queue or "")
        self._change_table(exchange, lambda table: [each for each in table if each != entry])

    def _change_table(self, exchange: str, change: Callable[[list[Any]], list[Any]]) -> None:
        with files.locked(Path(self.control_folder) / ".lock"):
            files.write_whole(self._table_of(exchange), dumps(change(self.get_table(exchange))))

    def _table_of(self, exchange: str) -> Path:
        # The name of an exchange is the project's, and none that leaves the folder.
        safe = "".join(each if each.isalnum() or each in "-_." else "%" for each in exchange)
        return Path(self.control_folder) / f"{safe}.exchange"


class Transport(filesystem.Transport):  # type: ignore[misc]  # kombu has no types
    """Knows the exchanges of its own folder only, and works in an event loop.

    So a worker runs as it does over Redis and RabbitMQ. Without a loop it acknowledges only
    between two waits for messages, and its pool's threads sleep for seconds as they end.
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
