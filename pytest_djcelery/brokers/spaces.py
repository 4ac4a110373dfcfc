"""This process's own space on a real broker, and on Redis as a result backend.

All names there begin with a prefix that no other process has. What was made is noted in a record
(`records`), so that the end of the run removes it; what a killed run left is removed by the next
one that connects to that broker.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import threading
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from pytest_djcelery.brokers import space_records as records

OPTION: Final = "djcelery"  # the key of ours among the transport options
SHARE: Final = 4  # of a wait may go by in one try: there are others around it

#: The spaces of this process, by prefix. A channel looks its own up here.
spaces: dict[str, Space] = {}


@dataclass(frozen=True, kw_only=True)
class Noted:
    """What a channel needs to know, in a form that another process can be told.

    ``limit`` is in seconds, for an answer of the broker.
    """

    prefix: str
    record: str
    limit: float

    @classmethod
    def of(cls, options: MutableMapping[str, Any]) -> Noted | None:
        """What stands in transport options, and is taken out of them."""
        noted = options.pop(OPTION, None)
        return noted and cls(**noted)


class Space:
    """What this process has in one place.

    Args:
        url: of the place.
        timeout: seconds that any wait of the run may last.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self.url = url
        self.prefix = f"djcelery-{_host()}-{os.getpid()}-{secrets.token_hex(4)}."
        self.timeout = timeout
        self.used = False  # whether there ever was a connection
        self.dirty = False  # whether a message may wait there
        #: Removes what a record tells of.
        self.remove: Callable[[records.Record], None] = _nothing
        self._record: records.Record | None = None
        self._lock = threading.Lock()

    @property
    def record(self) -> records.Record:
        """What was made there."""
        if self._record is None:
            self._record = records.Record.create(self.prefix, self.url)
        return self._record

    def begin(self) -> None:
        """Own it from now on, so that the next run knows of it whatever happens."""
        self.record  # noqa: B018 - it is made when it is first asked for

    def noted(self) -> Noted:
        """What its channels need to know."""
        return Noted(prefix=self.prefix, record=str(self.record.path), limit=self.timeout / SHARE)

    def first_used(self) -> None:
        """There is a connection: if it is the first, remove what dead processes have left."""
        with self._lock:
            if self.used:
                return
            self.used = True
        with records.abandoned(self.url) as found:
            for record in found:
                with suppress(Exception):  # it stays noted, and the next run tries again
                    self.remove(record)
                    record.remove()

    def close(self) -> None:
        """Remove everything.

        A broker that doesn't answer any more keeps it until the next run, which reads the record.
        """
        if self._record is None:
            return
        try:
            if self.used:
                self.remove(self._record)
            self._record.remove()
        except Exception:  # noqa: BLE001 - whatever a lost connection raises
            self._record.release()


def note(option: Noted | None, kind: str, name: str, known: set[tuple[str, str]]) -> None:
    """Remember that something was made, once for each ``known``."""
    if option is not None and (kind, name) not in known:
        records.append(option.record, kind, name)
        known.add((kind, name))


def _nothing(_: records.Record) -> None:
    pass


def _host() -> str:
    """This machine, in letters that no broker gives a meaning to."""
    return re.sub(r"[^A-Za-z0-9]+", "-", socket.gethostname())[:20].strip("-") or "host"
