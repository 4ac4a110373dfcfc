"""This process's own space on a real broker, and on Redis as a result backend.

All names there begin with a prefix that no other process has. What was made is noted in a
`Record`, a file that outlives a killed run: the end of the run removes what it names, or else the
next run that connects to that broker. It stands in a folder that only this user can open, and has
no password in it. The owner holds a lock on it for as long as it lives: the system lets go of the
lock when the process ends, however it ends, and no process id that was given out again can be taken
for a living owner.
"""

from __future__ import annotations

import fcntl
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

from pytest_djcelery.errors import DjceleryError

OPTION: Final = "djcelery"  # the key of ours among the transport options
SHARE: Final = 4  # of a wait may go by in one try: there are others around it

#: The spaces of this process, by prefix. A channel looks its own up here.
spaces: dict[str, Space] = {}


@dataclass(frozen=True, kw_only=True)
class SpaceOptions:
    """What a channel needs to know, in a form that can be passed to another process.

    ``limit`` is in seconds, for an answer of the broker.
    """

    prefix: str
    record: str
    limit: float

    @classmethod
    def of(cls, options: MutableMapping[str, Any]) -> SpaceOptions | None:
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
        #: Removes what a record names.
        self.remove: Callable[[Record], None] = _nothing
        self._record: Record | None = None
        self._lock = threading.Lock()

    @property
    def record(self) -> Record:
        """What was made there."""
        if self._record is None:
            self._record = Record.create(self.prefix, self.url)
        return self._record

    def begin(self) -> None:
        """Own it from now on, so that the next run knows of it whatever happens."""
        self._record = self.record

    def options(self) -> SpaceOptions:
        """What its channels need to know."""
        return SpaceOptions(
            prefix=self.prefix, record=str(self.record.path), limit=self.timeout / SHARE
        )

    def first_used(self) -> None:
        """There is a connection: if it is the first, remove what dead processes have left."""
        with self._lock:
            if self.used:
                return
            self.used = True
        with abandoned_records(self.url) as found:
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


def note(option: SpaceOptions | None, kind: str, name: str, known: set[tuple[str, str]]) -> None:
    """Remember that something was made, once for each ``known``."""
    if option is not None and (kind, name) not in known:
        _append(option.record, kind, name)
        known.add((kind, name))


def _nothing(_: Record) -> None:
    pass


def _host() -> str:
    """This machine, in letters that no broker gives a meaning to."""
    return re.sub(r"[^A-Za-z0-9]+", "-", socket.gethostname())[:20].strip("-") or "host"


def _place(url: str) -> str:
    """What a URL points to, without passwords: the same for everyone who uses that place."""
    parts = [urlsplit(part) for part in url.split(";")]
    return ";".join(
        f"{part.scheme}://{part.username or ''}@{part.hostname or ''}:{part.port or ''}{part.path}"
        for part in parts
    )


class Record:
    """What one process has made in one place.

    Args:
        path: of the file.
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
            record.path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600
        )
        fcntl.flock(record._lock, fcntl.LOCK_EX)
        _append(str(record.path), "place", _place(url))
        return record

    @property
    def prefix(self) -> str:
        """What all names begin with that the owner has given."""
        return self.path.name.removesuffix("record")

    def names(self, kind: str) -> list[str]:
        """What is recorded of a kind, in the order in which it was made."""
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
        """There is nothing left to remember."""
        self.path.unlink(missing_ok=True)
        self.release()

    def release(self) -> None:
        """Leave it to the next run."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _append(path: str, kind: str, name: str) -> None:
    """Add a line. Several processes may do so at once: each line is one write."""
    # The folder of a run that has ended is gone, and nobody will ask.
    with suppress(FileNotFoundError):
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            os.write(file, json.dumps([kind, name]).encode() + b"\n")
        finally:
            os.close(file)


@contextmanager
def abandoned_records(url: str) -> Iterator[list[Record]]:
    """The records of dead processes for that place, which are this process's for the block."""
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
    """Take the record over, if nobody holds it."""
    try:
        lock = os.open(record.path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return False
    record._lock = lock
    return record.path.exists()  # whoever had it may have just finished


def _folder() -> Path:
    """The user's own folder for records.

    Raises:
        DjceleryError: when somebody else has made it.
    """
    user: Any = os.getuid()
    folder = Path(tempfile.gettempdir()) / f"pytest-djcelery-{user}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != user or found.st_mode & 0o077:
        msg = (
            f"{folder} should be a folder that only this user can open, but is not.\n"
            "pytest-djcelery notes there what it makes on a broker. Remove it, or set TMPDIR."
        )
        raise DjceleryError(msg)
    return folder
