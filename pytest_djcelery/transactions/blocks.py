"""Which of the code's own atomic blocks are open, by thread and by connection."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from pytest_djcelery.patching import patches, replaced
from pytest_djcelery.transactions.hooks import underlying
from pytest_djcelery.transactions.openers import Opener, opener_of
from pytest_djcelery.transactions.writes import Rows, savepoint_of, wrote

if TYPE_CHECKING:
    from types import FrameType

    from django.db.backends.base.base import BaseDatabaseWrapper

    from pytest_djcelery.locations import Location
    from pytest_djcelery.messages.task_message import Message
    from pytest_djcelery.transactions.hooks import WatchedHook
    from pytest_djcelery.transactions.writes import Savepoint

# Blocks, scopes and hooks are numbered from one series: what is later is greater.
serials = count(1)


@dataclass(slots=True, kw_only=True, eq=False)
class Running:
    """A hook or an eager task that runs: only blocks with a later serial are its own."""

    hook: WatchedHook | None  # None for an eager task
    serial: int = field(default_factory=lambda: next(serials))


@dataclass(slots=True, eq=False)
class ThreadBlocks:
    """The own blocks that a thread has open, and what runs in it."""

    ident: int = field(default_factory=threading.get_ident)
    blocks: list[Block] = field(default_factory=list)
    scopes: list[Running] = field(default_factory=list)

    @property
    def task_began(self) -> int:
        """The serial of the eager task that runs; blocks opened before it are its sender's."""
        return next((scope.serial for scope in reversed(self.scopes) if not scope.hook), 0)

    @property
    def hooks_running(self) -> list[int]:
        """The serials at which the hooks that run now began."""
        return [scope.serial for scope in self.scopes if scope.hook]

    @property
    def transactions(self) -> list[OpenTransaction]:
        """The open transactions, outermost first, as the eager task that runs sees them."""
        if not self.blocks:
            return []
        began = self.task_began
        return [block.transaction for block in self.blocks if block.begins and block.serial > began]


class EagerTask(AbstractContextManager[None]):
    """Around an eager task that runs in a thread."""

    def __init__(self, thread: ThreadBlocks) -> None:
        self._scopes = thread.scopes
        self._scope = Running(hook=None, serial=next(serials))

    def __enter__(self) -> None:
        self._scopes.append(self._scope)

    def __exit__(self, *_: object) -> None:
        self._scopes.remove(self._scope)


@dataclass(slots=True, kw_only=True, eq=False)
class Block:
    """An atomic block of the code's own."""

    serial: int
    depth: int  # of ``connection.atomic_blocks``, itself included
    thread: ThreadBlocks
    transaction: OpenTransaction
    begins: bool  # the outermost of its transaction


@dataclass(slots=True, kw_only=True, eq=False)
class OpenTransaction:
    """What would be a transaction in production."""

    using: str  # the alias that the code has named
    opener: Opener
    thread: ThreadBlocks
    wrote: bool = False
    wrote_at: Location | None = None  # the first time
    unjudged: list[Message] = field(default_factory=list)  # sent before any write
    rows: Rows = field(default_factory=Rows)
    _savepoints: list[tuple[str, bool]] = field(default_factory=list)  # had it written before?

    def savepoint(self, savepoint: Savepoint) -> None:
        """A savepoint was set, or what came after it has been undone."""
        if savepoint.set:
            self._savepoints.append((savepoint.name, self.wrote))
            return
        while self._savepoints:
            name, wrote = self._savepoints[-1]
            if name == savepoint.name:
                self.wrote = wrote
                return
            self._savepoints.pop()


class WriteListener:
    """An execute wrapper: notes what is written in the own blocks of a connection.

    A write belongs to the innermost block, and a block to the alias that the code has named: in
    tests, two aliases may stand for one connection.
    """

    def __init__(self, own: list[Block], on_write: Callable[[OpenTransaction], None]) -> None:
        self._own = own
        self._on_write = on_write

    def __call__(
        self,
        execute: Callable[[str, Any, bool, dict[str, Any]], Any],
        sql: str,
        params: Any,
        many: bool,
        context: dict[str, Any],
    ) -> Any:
        __tracebackhide__ = True
        result = execute(sql, params, many, context)  # one that fails has written nothing
        transaction = self._transaction()
        if transaction is None:
            pass
        elif (savepoint := savepoint_of(sql)) is not None:
            transaction.savepoint(savepoint)
        elif not transaction.wrote and wrote(sql, context.get("cursor")):
            self._wrote(transaction)
        return result

    def procedure_called(self) -> None:
        """A procedure was called by `CursorWrapper.callproc`, which knows no execute wrapper."""
        __tracebackhide__ = True
        transaction = self._transaction()
        if transaction is not None and not transaction.wrote:
            self._wrote(transaction)

    def _wrote(self, transaction: OpenTransaction) -> None:
        __tracebackhide__ = True
        transaction.wrote = True
        self._on_write(transaction)

    def _transaction(self) -> OpenTransaction | None:
        # A connection may be lent to other threads, and an eager task stands for a worker:
        # neither would write in this transaction in production.
        ident = threading.get_ident()
        for block in reversed(self._own):
            if block.thread.ident == ident:
                return block.transaction if block.serial > block.thread.task_began else None
        return None


@dataclass(slots=True, eq=False)
class WatchedConnection:
    """What the watch knows of a connection. It must not refer to it: it is a weak key."""

    stack: list[Any]  # its ``atomic_blocks``, which ``connect()`` replaces
    own: list[Block] = field(default_factory=list)
    pending: dict[int, WatchedHook] = field(default_factory=dict)
    running: list[int] = field(default_factory=list)  # serials at which runs of hooks began
    writes: WriteListener | None = None  # while own blocks are open
    due: set[int] = field(default_factory=set)  # hooks that production would have run, if audited


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


@patches(
    "django.db.transaction:Atomic.__enter__",
    "django.db.transaction:Atomic.__exit__",
    why="Django has no signal for the begin and the end of a transaction.",
    checked_on="Django 4.2, 5.2, 6.0 and 6.1",
)
@contextmanager
def atomic_replaced(enter: Callable[..., Any], leave: Callable[..., Any]) -> Iterator[None]:
    """Have every ``atomic()`` block entered and left by these, which call what was there before.

    Private API (`Atomic` is documented as the function ``atomic`` alone).
    """
    from django.db.transaction import Atomic

    with replaced(Atomic, __enter__=enter, __exit__=leave):
        yield
