"""What the watch keeps of atomic blocks while they are open, by thread and by connection."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

from pytest_djcelery.transactions.rows import Rows
from pytest_djcelery.transactions.sql import savepoint as savepoint_of
from pytest_djcelery.transactions.sql import wrote

if TYPE_CHECKING:
    from pytest_djcelery.locations import Location
    from pytest_djcelery.messages.sent_task import Message
    from pytest_djcelery.transactions.hooks import WatchedHook
    from pytest_djcelery.transactions.openers import Opener
    from pytest_djcelery.transactions.sql import Savepoint

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
        many: bool,  # noqa: FBT001 - Django's signature
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
