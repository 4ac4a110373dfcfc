"""Notices messages that other threads publish: no schedule decides when they do."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery.signals import before_task_publish

from pytest_djcelery.recording.task_threads import in_task

if TYPE_CHECKING:
    import pytest


@contextmanager
def publishes_watched(item: pytest.Item) -> Iterator[list[str]]:
    """Yield the names of the threads, other than the test's, that publish within the ``with``.

    An async test does so by its nature: what is synchronous runs in Django's thread for that.
    """
    found: list[str] = []
    own = threading.get_ident()
    if inspect.iscoroutinefunction(getattr(item, "obj", None)):
        yield found
        return

    def note(**_: Any) -> None:
        if threading.get_ident() != own and not in_task():
            found.append(threading.current_thread().name)

    before_task_publish.connect(note, weak=False)
    try:
        yield found
    finally:
        before_task_publish.disconnect(note)
