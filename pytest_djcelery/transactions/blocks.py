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
from pytest_djcelery.transactions.captures import underlying
from pytest_djcelery.transactions.openers import Opener, opener_of
from pytest_djcelery.transactions.writes import Rows, savepoint_of, wrote

if TYPE_CHECKING:
    from types import FrameType

    from django.db.backends.base.base import BaseDatabaseWrapper

    from pytest_djcelery.locations import Location
    from pytest_djcelery.messages.task_message import Message
    from pytest_djcelery.transactions.hooks import WatchedHook
    from pytest_djcelery.transactions.writes import Savepoint

# Blocks, scopes and hooks are numbered from one series: a later one has a greater number.
serials = count(1)


@dataclass(slots=True, kw_only=True, eq=False)
class Running:
    """A hook or an eager task that is running: only blocks with a greater serial are its own."""

    hook: WatchedHook | None  # None for an eager task
    serial: int = field(default_factory=lambda: next(serials))


@dataclass(slots=True, eq=False)
class ThreadBlocks:
    """The blocks of the code under test that a thread has open, and what runs in the thread."""

    ident: int = field(default_factory=threading.get_ident)
    blocks: list[Block] = field(default_factory=list)
    scopes: list[Running] = field(default_factory=list)

    @property
    def task_began(self) -> int:
        """The serial of the running eager task; blocks opened before it are its sender's."""
        return next((scope.serial for scope in reversed(self.scopes) if not scope.hook), 0)

    @property
    def hooks_running(self) -> list[int]:
        """The serials of the hooks that are running."""
        return [scope.serial for scope in self.scopes if scope.hook]

    @property
    def transactions(self) -> list[OpenTransaction]:
        """The open transactions, outermost first, as a running eager task sees them."""
        if not self.blocks:
            return []
        began = self.task_began
        return [block.transaction for block in self.blocks if block.begins and block.serial > began]


class EagerTask(AbstractContextManager[None]):
    """Entered around an eager task: the blocks that its thread has open are not the task's."""

    def __init__(self, thread: ThreadBlocks) -> None:
        self._scopes = thread.scopes
        self._scope = Running(hook=None, serial=next(serials))

    def __enter__(self) -> None:
        self._scopes.append(self._scope)

    def __exit__(self, *_: object) -> None:
        self._scopes.remove(self._scope)


@dataclass(slots=True, kw_only=True, eq=False)
class Block:
    """An atomic block that the code under test opened."""

    serial: int
    depth: int  # of ``connection.atomic_blocks``, itself included
    thread: ThreadBlocks
    transaction: OpenTransaction
    begins: bool  # the outermost of its transaction


@dataclass(slots=True, kw_only=True, eq=False)
class OpenTransaction:
    """What would be a transaction in production."""

    using: str  # the alias that the code named
    opener: Opener
    thread: ThreadBlocks
    wrote: bool = False
    wrote_at: Location | None = None  # where it first wrote
    sent_before_write: list[Message] = field(default_factory=list)
    rows: Rows = field(default_factory=Rows)
    _savepoints: list[tuple[str, bool]] = field(default_factory=list)  # name, `wrote` at the time

    def savepoint(self, savepoint: Savepoint) -> None:
        """Note that a savepoint was set, or that everything since it was undone."""
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
    """An execute wrapper that notes writes made in the code's own blocks of a connection.

    A write belongs to the innermost block, and a block to the alias that the code named: in tests,
    two aliases may share one connection.
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
        """Note a call of `CursorWrapper.callproc`, which bypasses the execute wrappers."""
        __tracebackhide__ = True
        transaction = self._transaction()
        if transaction is not None and not transaction.wrote:
            self._wrote(transaction)

    def _wrote(self, transaction: OpenTransaction) -> None:
        __tracebackhide__ = True
        transaction.wrote = True
        self._on_write(transaction)

    def _transaction(self) -> OpenTransaction | None:
        # In production neither a thread that was lent the connection nor an eager task, which
        # stands for a worker, would write in this transaction.
        ident = threading.get_ident()
        for block in reversed(self._own):
            if block.thread.ident == ident:
                return block.transaction if block.serial > block.thread.task_began else None
        return None


@dataclass(slots=True, eq=False)
class WatchedConnection:
    """What the watch knows of a connection.

    It must not refer to the connection, which is the weak key under which it is kept.
    """

    stack: list[Any]  # the connection's ``atomic_blocks``, which ``connect()`` replaces
    own: list[Block] = field(default_factory=list)  # opened by the code under test
    pending: dict[int, WatchedHook] = field(default_factory=dict)
    running: list[int] = field(default_factory=list)  # serials at which runs of hooks began
    writes: WriteListener | None = None  # while own blocks are open
    due: set[int] = field(default_factory=set)  # in an audit: hooks production would have run


class OpenBlocks:
    """Knows the threads and the connections that a watch has seen, and their open blocks.

    Args:
        counts: Whether a block with this opener belongs to the code under test.
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
        """Every connection that was seen and still exists, with what is known of it."""
        with self._lock:
            return list(self._connections.items())

    def find(self, connection: BaseDatabaseWrapper) -> WatchedConnection | None:
        """What is known of a connection, if it was seen."""
        return self._connections.get(underlying(connection))

    def of(self, connection: BaseDatabaseWrapper) -> WatchedConnection:
        """What is known of a connection, which counts as seen from now on."""
        known = self.find(connection)
        if known is None:
            stack = connection.atomic_blocks
            with self._lock:
                shared = [known for _, known in self.connections() if known.stack is stack]
                known = shared[0] if shared else WatchedConnection(stack)
                self._connections[underlying(connection)] = known
        elif known.stack is not connection.atomic_blocks:  # ``connect()``: all its blocks are gone
            self.forget(connection, known)
            known.stack = connection.atomic_blocks
        return known

    @contextmanager
    def set_aside(self, connection: BaseDatabaseWrapper) -> Iterator[None]:
        """Within the ``with``, treat a connection as new: its blocks and their hooks wait."""
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
    ) -> Block | None:
        """Note a block that this thread has entered, and return it if it counts.

        Args:
            connection: The connection of the block.
            using: The alias that the code named, which may share another alias's connection.
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
                return None
            transaction = OpenTransaction(using=using, opener=opener, thread=thread)
        if known.writes is None:
            known.writes = WriteListener(known.own, on_write)
            # In front: ``connection.execute_wrapper()`` removes the last one when it ends.
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
        return block

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
    why="Django has no signal for the start and the end of a transaction.",
    checked_on="Django 4.2, 5.2, 6.0 and 6.1",
)
@contextmanager
def atomic_replaced(enter: Callable[..., Any], leave: Callable[..., Any]) -> Iterator[None]:
    """Have these enter and leave every ``atomic()`` block; they call what was there before.

    Private API: only the function ``atomic`` is documented, not the class `Atomic`.
    """
    from django.db.transaction import Atomic

    with replaced(Atomic, __enter__=enter, __exit__=leave):
        yield
