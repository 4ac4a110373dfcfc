"""What ``captureOnCommitCallbacks``, and so pytest-django's fixture, captures is Django's."""

from __future__ import annotations

from contextlib import contextmanager
from functools import update_wrapper
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from pytest_djcelery.patching import replaced

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.db.backends.base.base import BaseDatabaseWrapper


class Captures:
    """Knows the connections on which a block of ``captureOnCommitCallbacks`` is open.

    The block takes the hooks out of ``connection.run_on_commit`` when it ends, by their places in
    that list: until then they have to stay there.
    """

    def __init__(self) -> None:
        self._open: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        self._noted = False

    def open_on(self, connection: BaseDatabaseWrapper) -> bool:
        """Whether hooks of a connection are being captured."""
        return bool(self._open) and underlying(connection) in self._open

    @contextmanager
    def blocks_noted(self) -> Iterator[None]:
        """Note each such block that is opened from now on, in this process."""
        if self._noted:
            yield
            return
        from django.test.testcases import TestCase

        capture = vars(TestCase)["captureOnCommitCallbacks"]
        self._noted = True
        try:
            with replaced(TestCase, captureOnCommitCallbacks=self._of(capture)):
                yield
        finally:
            self._noted = False

    def _of(self, capture: Any) -> Any:
        """What stands in for the class method, which is public in Django."""

        @contextmanager
        def noting(cls: type, *, using: str = "default", **options: Any) -> Iterator[Any]:
            __tracebackhide__ = True
            with self._opened(using), capture.__get__(None, cls)(using=using, **options) as hooks:
                yield hooks

        method: Any = update_wrapper(noting, capture.__func__)
        return classmethod(method)

    @contextmanager
    def _opened(self, using: str) -> Iterator[None]:
        from django.db import connections

        connection = underlying(connections[using])
        self._open[connection] = self._open.get(connection, 0) + 1
        try:
            yield
        finally:
            self._open[connection] -= 1
            if not self._open[connection]:
                del self._open[connection]


def underlying(connection: BaseDatabaseWrapper) -> Any:
    """The connection that a proxy in ``connections`` stands for: its methods are bound to it."""
    return getattr(connection.validate_thread_sharing, "__self__", connection)
