"""Hooks that ``captureOnCommitCallbacks`` captures, or pytest-django's fixture, stay Django's."""

from __future__ import annotations

from contextlib import contextmanager
from functools import update_wrapper
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from pytest_djcelery.patching import patches, replaced

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.db.backends.base.base import BaseDatabaseWrapper


class Captures:
    """Knows the connections on which a block of ``captureOnCommitCallbacks`` is open.

    When it ends, such a block finds its hooks in ``connection.run_on_commit`` by their positions:
    until then they have to stay there.
    """

    def __init__(self) -> None:
        self._open: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        self._noted = False

    def open_on(self, connection: BaseDatabaseWrapper) -> bool:
        """Whether the hooks of a connection are being captured."""
        return bool(self._open) and underlying(connection) in self._open

    @patches(
        "django.test.testcases:TestCase.captureOnCommitCallbacks",
        why="Hooks inside such a block are Django's to keep, list and execute.",
        checked_on="Django 4.2, 5.2, 6.0 and 6.1",
    )
    @contextmanager
    def capture_blocks_noted(self) -> Iterator[None]:
        """Within the ``with``, note each such block that this process opens."""
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
        """What replaces the class method, which is public in Django."""

        @contextmanager
        def noting(cls: type, *, using: str = "default", **options: Any) -> Iterator[Any]:
            __tracebackhide__ = True
            with (
                self._block_noted(using),
                capture.__get__(None, cls)(using=using, **options) as hooks,
            ):
                yield hooks

        method: Any = update_wrapper(noting, capture.__func__)
        return classmethod(method)

    @contextmanager
    def _block_noted(self, using: str) -> Iterator[None]:
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
    """The connection behind a proxy in ``connections``, found by what its methods are bound to."""
    return getattr(connection.validate_thread_sharing, "__self__", connection)
