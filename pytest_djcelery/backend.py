"""Results in memory, or in a folder for processes: Celery's key/value backend over either.

Celery's own ``cache+memory://`` keeps at most 5,000 results, for the whole process. This
one keeps all of them, for one app, until they are cleared. Celery's own ``file://`` rewrites
files in place, so that a reader may find half a result, and can't count, so that a chord is
polled for.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from celery.backends.base import KeyValueStoreBackend
from celery.backends.filesystem import FilesystemBackend

_stores: WeakKeyDictionary[Any, dict[bytes, Any]] = WeakKeyDictionary()
_lock = threading.RLock()


def clear(app: Any) -> None:
    """Forget every result of an app."""
    with _lock:
        _stores.pop(app, None)


class MemoryBackend(KeyValueStoreBackend):
    """Encodes and decodes as every key/value backend of Celery does; keeps bytes."""

    supports_autoexpire = True
    supports_native_join = True
    implements_incr = True
    thread_safe = True

    def _store(self) -> dict[bytes, Any]:
        with _lock:
            return _stores.setdefault(self.app, {})

    def get(self, key: bytes) -> Any:
        return self._store().get(key)

    def mget(self, keys: list[bytes]) -> list[Any]:
        store = self._store()
        return [store.get(key) for key in keys]

    def set(self, key: bytes, value: Any) -> None:
        self._store()[key] = value

    def delete(self, key: bytes) -> None:
        self._store().pop(key, None)

    def incr(self, key: bytes) -> int:
        with _lock:
            store = self._store()
            store[key] = int(store.get(key) or 0) + 1
            return int(store[key])

    def expire(self, key: bytes, value: int) -> None:
        """A test ends before any result expires."""

    def as_uri(self, include_password: bool = False) -> str:  # noqa: ARG002, FBT001, FBT002 - Celery's signature
        return "memory"


class FolderBackend(FilesystemBackend):
    """Celery's filesystem backend, with files that appear whole, and a way to count in them."""

    supports_native_join = True
    implements_incr = True

    def set(self, key: bytes, value: Any) -> None:
        from pytest_djcelery import files

        data = value if isinstance(value, bytes) else str(value).encode()
        files.write_whole(self._path(key), data)

    def incr(self, key: bytes) -> int:
        from pytest_djcelery import files

        with files.locked(self._path(key + b".lock")):
            count = int(self.get(key) or 0) + 1
            self.set(key, count)
        return count

    def expire(self, key: bytes, value: int) -> None:
        """A test ends before any result expires."""

    def delete(self, key: bytes) -> None:
        with suppress(FileNotFoundError):
            super().delete(key)

    def _path(self, key: bytes) -> Path:
        return Path(os.fsdecode(self._filename(key)))
