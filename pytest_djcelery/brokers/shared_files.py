"""Files that several processes write and read at a time."""

from __future__ import annotations

import fcntl
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(path: Path, text: str | bytes) -> None:
    """Write a file that no reader finds half written."""
    unfinished = path.with_name(f".{uuid.uuid4()}.part")
    unfinished.write_bytes(text.encode() if isinstance(text, str) else text)
    unfinished.replace(path)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes out of a block by a lock file."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed
        yield
