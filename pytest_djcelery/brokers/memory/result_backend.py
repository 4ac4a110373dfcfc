"""Results in memory, or in a folder for processes: Celery's key/value backend over either.

Celery's own ``cache+memory://`` keeps at most 5,000 results, for the whole process. This
one keeps all of them, for one app, until they are cleared. Celery's own ``file://`` rewrites
files in place, so that a reader may find half a result. Both count chords as Redis does.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from celery.backends.filesystem import FilesystemBackend

from pytest_djcelery.brokers.memory.chords import ChordBackend

_stores: WeakKeyDictionary[Any, dict[bytes, Any]] = WeakKeyDictionary()
#: Who is told of what is stored, by the key.
_listeners: WeakKeyDictionary[Any, dict[bytes, list[deque[bytes]]]] = WeakKeyDictionary()
_lock = threading.RLock()


def clear(app: Any) -> None:
    """Forget every result of an app."""
    with _lock:
        _stores.get(app, {}).clear()


def share(app: Any, owner: Any) -> None:
    """Let an app keep its results where another has its own."""
    with _lock:
        _stores[app] = _stores.setdefault(owner, {})
        _listeners[app] = _listeners.setdefault(owner, {})


class MemoryBackend(ChordBackend):
    """Encodes and decodes as every key/value backend of Celery does; keeps bytes."""

    supports_autoexpire = True
    supports_native_join = True
    thread_safe = True

    @cached_property
    def _listening(self) -> dict[bytes, list[deque[bytes]]]:
        with _lock:
            return _listeners.setdefault(self.app, {})

    @cached_property
    def _results(self) -> dict[bytes, Any]:
        with _lock:
            return _stores.setdefault(self.app, {})

    def get_key_for_task(self, task_id: Any, key: Any = "") -> bytes:
        """As Celery's, which encodes and joins three parts, twice for each result: 2 µs."""
        if task_id and type(task_id) is str and key == "":
            prefix: bytes = self.task_keyprefix
            return prefix + task_id.encode()
        whole: bytes = super().get_key_for_task(task_id, key)
        return whole

    def get(self, key: bytes) -> Any:
        return self._results.get(key)

    def mget(self, keys: list[bytes]) -> list[Any]:
        return [self._results.get(key) for key in keys]

    def set(self, key: bytes, value: Any) -> None:
        self._results[key] = value
        if self._listening:
            for published in self._listening.get(key, ()):
                published.append(value)

    @contextmanager
    def published(self, task_ids: Iterable[str]) -> Iterator[deque[bytes]]:
        """What is stored of tasks in a block, encoded, oldest first: Redis's ``SUBSCRIBE``."""
        published: deque[bytes] = deque()
        keys = [self.get_key_for_task(task_id) for task_id in task_ids]
        with _lock:
            for key in keys:
                self._listening.setdefault(key, []).append(published)
        try:
            yield published
        finally:
            with _lock:
                for key in keys:
                    self._listening[key].remove(published)
                    if not self._listening[key]:
                        del self._listening[key]

    def delete(self, key: bytes) -> None:
        self._results.pop(key, None)

    def incr(self, key: bytes) -> int:
        with _lock:
            self._results[key] = int(self._results.get(key) or 0) + 1
            return int(self._results[key])

    def chord_locked(self, group_id: str) -> AbstractContextManager[Any]:  # noqa: ARG002 - one lock for all
        return _lock

    def expire(self, key: bytes, value: int) -> None:
        """A test ends before any result expires."""

    def as_uri(self, include_password: bool = False) -> str:  # noqa: ARG002, FBT001, FBT002 - Celery's signature
        return "memory"


class LenientMemoryBackend(MemoryBackend):
    """In the place of a backend that drops what is of no message, as a disabled one does.

    A task that is called as a function has no id: if it calls `update_state`, key/value backends
    raise a `ValueError`, and those don't.
    """

    def store_result(self, task_id: str | None, result: Any, *args: Any, **kwargs: Any) -> Any:
        return result if task_id is None else super().store_result(task_id, result, *args, **kwargs)


class FolderBackend(ChordBackend, FilesystemBackend):
    """Celery's filesystem backend, with files that appear whole, and a way to count in them."""

    supports_native_join = True

    def set(self, key: bytes, value: Any) -> None:
        from pytest_djcelery.brokers import shared_files as files

        data = value if isinstance(value, bytes) else str(value).encode()
        files.write_whole(self._path(key), data)

    def chord_locked(self, group_id: str) -> AbstractContextManager[Any]:
        from pytest_djcelery.brokers import shared_files as files

        return files.locked(self._path(self.get_key_for_group(group_id, ".lock")))

    def expire(self, key: bytes, value: int) -> None:
        """A test ends before any result expires."""

    def delete(self, key: bytes) -> None:
        with suppress(FileNotFoundError):
            super().delete(key)

    def _path(self, key: bytes) -> Path:
        return Path(os.fsdecode(self._filename(key)))
