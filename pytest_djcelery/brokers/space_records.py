"""Who owns what on a broker: files that outlive a killed run, so that the next one can tidy up.

A record stands in a folder that only this user can open, and has no password in it. The owner
holds a lock on it for as long as it lives: the system lets go of the lock when the process ends,
however it ends, and no process id that was given out again can be taken for a living owner.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pytest_djcelery.errors import DjceleryError


def place(url: str) -> str:
    """What a URL points to, without passwords: the same for everyone who uses that place."""
    parts = [urlsplit(each) for each in url.split(";")]
    return ";".join(
        f"{each.scheme}://{each.username or ''}@{each.hostname or ''}:{each.port or ''}{each.path}"
        for each in parts
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
        append(str(record.path), "place", place(url))
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
        """Leave it to whoever comes next."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def append(path: str, kind: str, name: str) -> None:
    """Add a line. Several processes may do so at once: each line is one write."""
    # The folder of a run that has ended is gone, and nobody will ask.
    with suppress(FileNotFoundError):
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            os.write(file, json.dumps([kind, name]).encode() + b"\n")
        finally:
            os.close(file)


@contextmanager
def abandoned(url: str) -> Iterator[list[Record]]:
    """The records of dead processes for that place, which are this process's for the block."""
    found = []
    for path in sorted(_folder().glob("djcelery-*record")):
        record = Record(path)
        if record.names("place") == [place(url)] and _owned(record):
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
