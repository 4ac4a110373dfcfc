"""This process's own space on a real broker, and on Redis as a result backend.

All names in it begin with a prefix that no other process has. What was made there is noted in a
`Record`, a file that outlives a killed run: what it names is removed at the end of the run, or else
by the next run that connects to that broker. The file is in a folder that only this user can open,
and contains no password. Its owner holds a lock on it while it lives: the system releases the lock
when the process ends, however that happens, so a reused process id is never taken for a living
owner.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import secrets
import socket
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from pytest_djcelery.brokers.file_locks import NOT_INHERITED, lock, lock_now
from pytest_djcelery.errors import DjceleryError

OPTION: Final = "djcelery"  # our key among the transport options
SHARE: Final = 4  # one attempt may take a quarter of a wait, which makes several attempts

#: The spaces of this process, by prefix. A channel looks its own up here.
spaces: dict[str, Space] = {}


@dataclass(frozen=True, kw_only=True)
class SpaceOptions:
    """What a channel needs to know, in a form that can be passed to another process.

    ``limit`` is how many seconds an answer of the broker may take.
    """

    prefix: str
    record: str
    limit: float

    @classmethod
    def of(cls, options: MutableMapping[str, Any]) -> SpaceOptions | None:
        """Take them out of transport options, where they may be."""
        noted = options.pop(OPTION, None)
        return noted and cls(**noted)


class Space:
    """What this process has made on one server.

    Args:
        url: The URL of the server.
        timeout: Seconds that any wait of the run may last.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self.url = url
        self.prefix = f"djcelery-{_host()}-{os.getpid()}-{secrets.token_hex(4)}."
        self.timeout = timeout
        self.used = False  # whether there ever was a connection
        self.dirty = False  # whether a message may wait there
        #: Removes what a record names.
        self.remove: Callable[[Record], None] = lambda _: None
        self._record: Record | None = None
        self._lock = threading.Lock()

    @property
    def record(self) -> Record:
        """What was made there."""
        if self._record is None:
            self._record = Record.create(self.prefix, self.url)
        return self._record

    def begin(self) -> None:
        """Begin its record now, so that the next run knows of it whatever happens."""
        self._record = self.record

    def options(self) -> SpaceOptions:
        """What its channels need to know."""
        return SpaceOptions(
            prefix=self.prefix, record=str(self.record.path), limit=self.timeout / SHARE
        )

    def first_used(self) -> None:
        """Upon the first connection, remove what dead processes have left."""
        with self._lock:
            if self.used:
                return
            self.used = True
        with abandoned_records(self.url) as found:
            for record in found:
                with suppress(Exception):  # it stays recorded, and the next run tries again
                    self.remove(record)
                    record.remove()

    def close(self) -> None:
        """Remove everything.

        If the broker no longer answers, the next run does so, since it reads the record.
        """
        if self._record is None:
            return
        try:
            if self.used:
                self.remove(self._record)
            self._record.remove()
        except Exception:  # noqa: BLE001 - whatever a lost connection raises
            self._record.release()


def note(option: SpaceOptions | None, kind: str, name: str, known: set[tuple[str, str]]) -> None:
    """Record that something was made, unless it is in ``known``, and add it there."""
    if option is not None and (kind, name) not in known:
        _append(option.record, kind, name)
        known.add((kind, name))


def _host() -> str:
    """The name of this machine, in characters that have no meaning to any broker."""
    return re.sub(r"[^A-Za-z0-9]+", "-", socket.gethostname())[:20].strip("-") or "host"


def _place(url: str) -> str:
    """What a URL points to, without passwords: the same for everyone who uses that server."""
    parts = [urlsplit(part) for part in url.split(";")]
    return ";".join(
        f"{part.scheme}://{part.username or ''}@{part.hostname or ''}:{part.port or ''}{part.path}"
        for part in parts
    )


class Record:
    """What one process has made on one server.

    Args:
        path: The path of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None
        self._read = 0
        self._names: dict[tuple[str, str], None] = {}

    @classmethod
    def create(cls, prefix: str, url: str) -> Record:
        """Begin a record, and own it."""
        record = cls(_folder() / f"{prefix}record")
        record._lock = os.open(
            record.path, os.O_CREAT | os.O_EXCL | os.O_RDWR | NOT_INHERITED, 0o600
        )
        lock(record._lock)
        _append(str(record.path), "place", _place(url))
        return record

    @property
    def prefix(self) -> str:
        """The prefix of all names that the owner has made."""
        return self.path.name.removesuffix("record")

    def names(self, kind: str) -> list[str]:
        """The recorded names of a kind, in the order in which they were made."""
        with suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):  # another process is writing it
                    break
                self._read += len(line)
                found_kind, name = json.loads(line)
                self._names[found_kind, name] = None
        return [name for found_kind, name in self._names if found_kind == kind]

    def remove(self) -> None:
        """Delete the record: nothing is left that it names."""
        if os.name == "nt":  # where a file that is open can't be deleted
            self.release()
        self.path.unlink(missing_ok=True)
        self.release()

    def release(self) -> None:
        """Leave it to the next run."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _append(path: str, kind: str, name: str) -> None:
    """Add a line in a single write, since several processes may do so at once."""
    # When a run has ended its record is gone, and nobody will read it.
    with suppress(FileNotFoundError):
        file = os.open(path, os.O_WRONLY | os.O_APPEND | NOT_INHERITED)
        try:
            os.write(file, json.dumps([kind, name]).encode() + b"\n")
        finally:
            os.close(file)


@contextmanager
def abandoned_records(url: str) -> Iterator[list[Record]]:
    """Within the ``with``, own the records that dead processes have left for a server."""
    found = []
    for path in sorted(_folder().glob("djcelery-*record")):
        record = Record(path)
        if record.names("place") == [_place(url)] and _owned(record):
            found.append(record)
    try:
        yield found
    finally:
        for record in found:
            record.release()


def _owned(record: Record) -> bool:
    """Take the record over, if no process holds it, and return whether that worked."""
    try:
        file = os.open(record.path, os.O_RDWR | NOT_INHERITED)
    except FileNotFoundError:
        return False
    if not lock_now(file):
        os.close(file)
        return False
    record._lock = file
    return record.path.exists()  # its owner may have just finished


def _folder() -> Path:
    """The user's own folder for records.

    Raises:
        DjceleryError: Another user has made it, or others can open it.
    """
    user: Any = os.getuid() if hasattr(os, "getuid") else getpass.getuser()
    folder = Path(tempfile.gettempdir()) / f"pytest-djcelery-{user}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if not hasattr(os, "getuid"):  # Windows, where the folder for temporary files is the user's
        return folder
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != user or found.st_mode & 0o077:
        msg = (
            f"{folder} should be a folder that only this user can open, but is not.\n"
            "pytest-djcelery notes there what it makes on a broker. Remove it, or set TMPDIR."
        )
        raise DjceleryError(msg)
    return folder
