"""Which of the code's own atomic blocks are open, by thread and by connection."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from pytest_djcelery.transactions.blocks import (
    Block,
    OpenTransaction,
    ThreadBlocks,
    WatchedConnection,
    WriteListener,
    serials,
)
from pytest_djcelery.transactions.captures import underlying
from pytest_djcelery.transactions.openers import Opener, opener_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from django.db.backends.base.base import BaseDatabaseWrapper


class OpenBlocks:
    """Knows the threads and the connections that a watch has seen.

    Args:
        counts: whether a block that something has opened is of the code under test.
    """

    def __init__(self, counts: Callable[[Opener], bool] = lambda _: True) -> None:
        self._counts = counts
        self._lock = threading.RLock()
        self.clear()

    def clear(self) -> None:
        """Forget every thread and connection."""
        self._connections: WeakKeyDictionary[Any, WatchedConnection] = WeakKeyDictionary()
        self._local = threading.local()

    @property
    def thread(self) -> ThreadBlocks:
        """What is open in this thread."""
        thread: ThreadBlocks | None = getattr(self._local, "thread", None)
        if thread is None:
            thread = self._local.thread = ThreadBlocks()
        return thread

    def connections(self) -> list[tuple[Any, WatchedConnection]]:
        """Every connection that was seen and still lives, with what is known of it."""
        with self._lock:
            return list(self._connections.items())

    def find(self, connection: BaseDatabaseWrapper) -> WatchedConnection | None:
        """What is known of a connection, if it was seen."""
        return self._connections.get(underlying(connection))

    def of(self, connection: BaseDatabaseWrapper) -> WatchedConnection:
        """What is known of a connection, now that it is seen."""
        known = self.find(connection)
        if known is None:
            stack = connection.atomic_blocks
            with self._lock:
                shared = [each for _, each in self.connections() if each.stack is stack]
                known = shared[0] if shared else WatchedConnection(stack)
                self._connections[underlying(connection)] = known
        elif known.stack is not connection.atomic_blocks:  # ``connect()``: all its blocks are gone
            self.forget(connection, known)
            known.stack = connection.atomic_blocks
        return known

    @contextmanager
    def set_aside(self, connection: BaseDatabaseWrapper) -> Iterator[None]:
        """Know nothing of a connection for a while: its blocks, and their hooks, wait."""
        key, known = underlying(connection), self.of(connection)
        apart = self._connections[key] = WatchedConnection(connection.atomic_blocks)
        try:
            yield
        finally:
            self.forget(connection, apart)
            self._connections[key] = known

    def entered(
        self,
        connection: BaseDatabaseWrapper,
        using: str,
        frame: FrameType,
        on_write: Callable[[OpenTransaction], None],
    ) -> None:
        """Note a block that this thread has entered.

        Args:
            connection: The block's.
            using: The alias that the code has named, which may stand for another's connection.
            frame: The frame that called ``Atomic.__enter__``.
            on_write: Called when a transaction of the connection first writes.
        """
        known, thread = self.of(connection), self.thread
        began, serial = thread.task_began, next(serials)
        transaction = next(
            (
                block.transaction
                for block in known.own
                if block.thread is thread
                and block.serial > began
                and block.transaction.using == using
            ),
            None,
        )
        begins = transaction is None
        if transaction is None:
            requests = bool(connection.settings_dict.get("ATOMIC_REQUESTS"))
            opener = opener_of(frame, atomic_requests=requests)
            if not self._counts(opener):
                return
            transaction = OpenTransaction(using=using, opener=opener, thread=thread)
        if known.writes is None:
            known.writes = WriteListener(known.own, on_write)
            # In front: ``connection.execute_wrapper()`` takes the last away when it ends.
            connection.execute_wrappers.insert(0, known.writes)
        block = Block(
            serial=serial,
            depth=len(connection.atomic_blocks),
            thread=thread,
            transaction=transaction,
            begins=begins,
        )
        known.own.append(block)
        thread.blocks.append(block)

    def leave_innermost(self, connection: BaseDatabaseWrapper, known: WatchedConnection) -> Block:
        """Forget the innermost block of a connection, and return it."""
        block = known.own.pop()
        _forget(block)
        if not known.own:
            _stop_listening(connection, known)
        return block

    def forget(self, connection: BaseDatabaseWrapper, known: WatchedConnection) -> None:
        """Forget every block of a connection."""
        for block in known.own:
            _forget(block)
        known.own.clear()
        _stop_listening(connection, known)


def _forget(block: Block) -> None:
    if block in block.thread.blocks:
        block.thread.blocks.remove(block)


def _stop_listening(connection: BaseDatabaseWrapper, known: WatchedConnection) -> None:
    wrappers = connection.execute_wrappers
    wrappers[:] = [wrapper for wrapper in wrappers if wrapper is not known.writes]
    known.writes = None
