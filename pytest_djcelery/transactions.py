"""Watch Django's transactions: when on_commit hooks run, what is sent before the commit."""

from __future__ import annotations

import re
import sys
import threading
import warnings
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count, groupby
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

from pytest_djcelery import locations
from pytest_djcelery.errors import (
    DjceleryError,
    SentInTransactionError,
    SentInTransactionWarning,
)
from pytest_djcelery.hooks import WatchedHook, run_as_committed, run_in_autocommit
from pytest_djcelery.journal import HookDiscarded, HookFinished, HookRegistered, HookStarted
from pytest_djcelery.openers import Opener, function_text, opener_of, sent_in_transaction
from pytest_djcelery.patching import replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from types import FrameType, TracebackType

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.transaction import Atomic
    from typing_extensions import Self

    from pytest_djcelery.journal import Journal
    from pytest_djcelery.locations import Location
    from pytest_djcelery.messages import SentTask, Transaction

Policy = Literal["warn", "error", "ignore"]

# Blocks, scopes and hooks are numbered from one series: what is later is greater.
_serials = count(1)
_only_one = threading.Lock()

_HOOK_RAISED = "an earlier hook of the same transaction raised"
_ROLLED_BACK = "the transaction was rolled back"
_SAVEPOINT = "a savepoint was rolled back"
_LOST = "its savepoint or transaction was rolled back, or the connection was closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Publishing:
    """The situation a message is published in."""

    transaction: Transaction
    hook: int | None  # the on_commit hook now running in this thread, if that is innermost
    hook_location: Location | None


@dataclass(slots=True, kw_only=True, eq=False)
class _Scope:
    """A hook or an eager task that runs: only blocks with a later serial are its own."""

    hook: WatchedHook | None  # None for an eager task
    serial: int = field(default_factory=lambda: next(_serials))


@dataclass(slots=True, eq=False)
class _Thread:
    ident: int = field(default_factory=threading.get_ident)
    blocks: list[_Block] = field(default_factory=list)
    scopes: list[_Scope] = field(default_factory=list)

    @property
    def task_began(self) -> int:
        """The serial of the eager task that runs; blocks opened before it are its sender's."""
        return next((scope.serial for scope in reversed(self.scopes) if not scope.hook), 0)

    @property
    def hooks_running(self) -> list[int]:
        """The serials at which the hooks that run now began."""
        return [scope.serial for scope in self.scopes if scope.hook]

    @property
    def transactions(self) -> list[_Transaction]:
        """The open transactions, outermost first, as the eager task that runs sees them."""
        began = self.task_began
        return [block.transaction for block in self.blocks if block.begins and block.serial > began]


@dataclass(slots=True, kw_only=True, eq=False)
class _Block:
    """An atomic block of the code's own."""

    serial: int
    depth: int  # of ``connection.atomic_blocks``, itself included
    thread: _Thread
    transaction: _Transaction
    begins: bool  # the outermost of its transaction
    had_written: bool  # what the transaction had done before this block


@dataclass(slots=True, kw_only=True, eq=False)
class _Transaction:
    """What would be a transaction in production, and an execute wrapper that sees its writes."""

    serial: int
    using: str
    opener: Opener
    thread: _Thread
    on_write: Callable[[_Transaction], None]
    wrote: bool = False
    unjudged: list[SentTask] = field(default_factory=list)  # sent before any write

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
        if (
            not self.wrote
            # A connection may be lent to other threads, and an eager task stands for a worker:
            # neither would write in this transaction in production.
            and self.thread.ident == threading.get_ident()
            and self.serial > self.thread.task_began
            and wrote(sql, context.get("cursor"))
        ):
            self.wrote = True
            self.on_write(self)
        return result


@dataclass(slots=True, eq=False)
class _Connection:
    """What the watch knows of a connection. It must not refer to it: it is a weak key."""

    stack: list[Any]  # its ``atomic_blocks``, which ``connect()`` replaces
    own: list[_Block] = field(default_factory=list)
    pending: dict[int, WatchedHook] = field(default_factory=dict)
    running: list[int] = field(default_factory=list)  # serials at which runs of hooks began


class TransactionWatch:
    """Runs hooks at the commit that production would have, and judges messages sent before it.

    The code's *own* blocks are the atomic blocks it opened since the watch began, less those
    of ``django.test.TestCase``. Where other blocks lie under them nothing is ever committed:
    there the exit of the outermost own block takes the place of the commit. Elsewhere Django
    runs the hooks and the watch only looks on.
    """

    around_hook: Callable[[], AbstractContextManager[None]]

    def __init__(self, journal: Journal, *, policy: Callable[[], Policy]) -> None:
        self.around_hook = nullcontext
        self._journal = journal
        self._policy = policy
        self._connections: WeakKeyDictionary[Any, _Connection] = WeakKeyDictionary()
        self._lock = threading.RLock()
        self._local = threading.local()
        self._patches = ExitStack()
        self._on = False
        self._holds = 0
        self._held: list[WatchedHook] = []

    def __enter__(self) -> Self:
        if not _only_one.acquire(blocking=False):
            raise DjceleryError(
                "Only one TransactionWatch can be on at a time, but one is on already: "
                "use that one, or leave its `with` first."
            )
        self._on = True
        try:
            self._patch()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._patches.close()
            self._on = False  # hooks that are still to come run as if never wrapped
            for connection, known in self._known():
                self._settle(connection, known, _LOST)
                connection.run_on_commit[:] = [
                    (entry[0], entry[1].__wrapped__, *entry[2:]) if self._is_ours(entry) else entry
                    for entry in connection.run_on_commit
                ]
                self._forget_blocks(connection, known)
            self._connections = WeakKeyDictionary()
            self._local = threading.local()
        finally:
            _only_one.release()

    def publishing(self) -> Publishing:
        """Tell what a message that this thread publishes now is published in."""
        thread = self._thread()
        scope = thread.scopes[-1] if thread.scopes else None
        hook = scope.hook if scope else None
        began = scope.serial if scope else 0
        transaction: Transaction = "on_commit" if hook else "autocommit"
        if any(block.serial > began for block in thread.blocks):
            transaction = "atomic"
        return Publishing(
            transaction=transaction,
            hook=hook.id if hook else None,
            hook_location=hook.location if hook else None,
        )

    def judge(self, message: SentTask) -> None:
        """Warn or raise if ``message``, about to be published, may overtake a commit.

        A transaction that has not written yet is no race; it is remembered until it writes.
        Blocks that are open around an on_commit hook count: the hook waited for another
        database.

        Raises:
            SentInTransactionError: The policy is ``"error"``.
        """
        __tracebackhide__ = True
        if not (transactions := self._thread().transactions) or self._policy() == "ignore":
            return
        written = next((each for each in transactions if each.wrote), None)
        if written is not None:
            self._report([message], written, late=False)
        else:
            for transaction in transactions:
                transaction.unjudged.append(message)

    @contextmanager
    def eager_task(self) -> Iterator[None]:
        """Run a task eagerly: the blocks that are open now are not the task's."""
        thread = self._thread()
        scope = _Scope(hook=None)
        thread.scopes.append(scope)
        try:
            yield
        finally:
            thread.scopes.remove(scope)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep hooks back, in every thread, until the outermost ``hold()`` ends."""
        with self._lock:
            self._holds += 1
        try:
            yield
        finally:
            with self._lock:
                self._holds -= 1
                released: list[WatchedHook] = []
                if not self._holds:
                    released, self._held = self._held, []
            self._release(released)

    def settle(self) -> None:
        """Note the hooks of this thread's connections that Django has dropped meanwhile."""
        from django.db import connections

        if self._on:
            for connection in connections.all(initialized_only=True):
                if (known := self._connections.get(_underlying(connection))) is not None:
                    self._settle(connection, known, _LOST)

    # -- the patches

    def _patch(self) -> None:
        """Put the watch into ``Atomic`` and ``on_commit``.

        Django has no public hook for the exit of a block nor for ``on_commit``. Both methods,
        ``Atomic._from_testcase`` and ``connection.atomic_blocks`` were checked on Django 4.2,
        5.2, 6.0 and 6.1.
        """
        from django.db.backends.base.base import BaseDatabaseWrapper
        from django.db.transaction import Atomic, get_connection

        enter, leave, register = Atomic.__enter__, Atomic.__exit__, BaseDatabaseWrapper.on_commit

        def __enter__(atomic: Atomic) -> None:  # noqa: N807 - stands in for it
            __tracebackhide__ = True
            enter(atomic)
            if not getattr(atomic, "_from_testcase", False):
                self._opened(get_connection(atomic.using), sys._getframe(1))

        def __exit__(  # noqa: N807 - stands in for it
            atomic: Atomic,
            exc_type: type[BaseException] | None,
            exc_value: BaseException | None,
            traceback: TracebackType | None,
        ) -> None:
            __tracebackhide__ = True
            self._leave(
                get_connection(atomic.using),
                lambda: leave(atomic, exc_type, exc_value, traceback),
                failed=exc_type is not None,
            )

        def on_commit(
            connection: BaseDatabaseWrapper,
            func: Callable[[], object],
            robust: bool = False,  # noqa: FBT001, FBT002 - Django's signature
        ) -> None:
            __tracebackhide__ = True
            self._register(connection, func, robust, register)

        self._patches.enter_context(replaced(Atomic, __enter__=__enter__, __exit__=__exit__))
        self._patches.enter_context(replaced(BaseDatabaseWrapper, on_commit=on_commit))

    def _opened(self, connection: BaseDatabaseWrapper, frame: FrameType) -> None:
        known, thread = self._of(connection), self._thread()
        began, serial = thread.task_began, next(_serials)
        transaction = next(
            (b.transaction for b in known.own if b.thread is thread and b.serial > began), None
        )
        begins = transaction is None
        if transaction is None:
            transaction = _Transaction(
                serial=serial,
                using=connection.alias,
                opener=opener_of(
                    frame, atomic_requests=bool(connection.settings_dict.get("ATOMIC_REQUESTS"))
                ),
                thread=thread,
                on_write=self._wrote,
            )
            # In front: ``connection.execute_wrapper()`` takes the last away when it ends.
            connection.execute_wrappers.insert(0, transaction)
        block = _Block(
            serial=serial,
            depth=len(connection.atomic_blocks),
            thread=thread,
            transaction=transaction,
            begins=begins,
            had_written=transaction.wrote,
        )
        known.own.append(block)
        thread.blocks.append(block)

    def _leave(
        self, connection: BaseDatabaseWrapper, leave: Callable[[], None], *, failed: bool
    ) -> None:
        __tracebackhide__ = True
        known = self._of(connection)
        if not known.own or known.own[-1].depth != len(connection.atomic_blocks):
            # A block of the test's, or one that was opened before the watch was entered.
            try:
                leave()
            finally:
                self._settle(connection, known, _ROLLED_BACK)
            return
        failed = failed or connection.needs_rollback or connection.closed_in_transaction
        # Before Django leaves it: with a real commit the hooks run in there.
        block = self._forget(connection, known.own.pop())
        outermost = not known.own
        simulated = outermost and len(connection.atomic_blocks) > 1
        if failed:
            block.transaction.wrote = block.had_written
        known.running.append(next(_serials))
        committed = False
        try:
            leave()
            committed = not failed
        finally:
            known.running.pop()
            if simulated and not committed:
                # A block with no savepoint of its own leaves them to the test's rollback.
                self._take(connection, known.pending)
            if not simulated or not committed:
                rolled_back = _ROLLED_BACK if outermost else _SAVEPOINT
                self._settle(connection, known, rolled_back if failed else _HOOK_RAISED)
        if simulated and committed:
            self._commit(connection, known)

    # -- hooks

    def _register(
        self,
        connection: BaseDatabaseWrapper,
        function: Any,  # whatever it was given: Django refuses what can't be called
        robust: bool,  # noqa: FBT001 - Django's argument
        register: Callable[..., None],
    ) -> None:
        __tracebackhide__ = True
        known = self._of(connection)
        if not callable(function) or not (
            connection.in_atomic_block or connection.get_autocommit()
        ):
            register(connection, function, robust)  # raises
            return
        number = next(_serials)
        hook = WatchedHook(
            function,
            id=number,
            location=locations.of_caller(),
            robust=robust,
            transaction=known.own[0].serial if known.own else number,
            run=self._run,
        )
        self._journal.append(
            HookRegistered(
                hook=number,
                location=hook.location,
                using=connection.alias,
                robust=robust,
                function=function_text(function),
            )
        )
        if connection.atomic_blocks and not known.own:
            run_in_autocommit(hook, register)
        else:
            if connection.in_atomic_block:
                known.pending[number] = hook
            register(connection, hook, robust)

    def _commit(self, connection: BaseDatabaseWrapper, known: _Connection) -> None:
        """Run the hooks of a transaction that ends inside the test's own."""
        __tracebackhide__ = True
        hooks = self._take(connection, known.pending)
        known.running.append(next(_serials))
        try:
            run_as_committed(hooks)
        finally:
            known.running.pop()
            self._settle(connection, known, _HOOK_RAISED)

    def _run(self, hook: WatchedHook) -> object:
        __tracebackhide__ = True
        if not self._on:
            return hook.__wrapped__()
        with self._lock:
            if self._holds:
                for _, known in self._known():
                    known.pending.pop(hook.id, None)
                self._held.append(hook)
                return None
        hook.started = True
        thread, scope = self._thread(), _Scope(hook=hook)
        thread.scopes.append(scope)
        error: BaseException | None = None
        self._journal.append(HookStarted(hook=hook.id))
        try:
            with self.around_hook():
                return hook.__wrapped__()
        except BaseException as raised:
            error = raised
            raise
        finally:
            thread.scopes.remove(scope)
            self._journal.append(HookFinished(hook=hook.id, error=error))

    def _release(self, held: list[WatchedHook]) -> None:
        __tracebackhide__ = True
        first: Exception | None = None
        for _, hooks in groupby(held, key=lambda hook: hook.transaction):
            batch = list(hooks)
            try:
                run_as_committed(batch)
            except Exception as error:  # noqa: BLE001 - raised below
                first = first or error
            for hook in batch:
                if not hook.started:
                    self._journal.append(HookDiscarded(hook=hook.id, reason=_HOOK_RAISED))
        if first is not None:
            raise first

    def _take(
        self, connection: BaseDatabaseWrapper, pending: dict[int, WatchedHook]
    ) -> list[WatchedHook]:
        """Take the pending hooks out of Django's list."""
        entries: list[Any] = connection.run_on_commit
        taken = [entry[1] for entry in entries if self._is_ours(entry) and entry[1].id in pending]
        entries[:] = [entry for entry in entries if entry[1] not in taken]
        return taken

    def _settle(self, connection: BaseDatabaseWrapper, known: _Connection, reason: str) -> None:
        """Record what is no longer in Django's list and never ran as discarded."""
        entries: list[Any] = connection.run_on_commit
        kept = {entry[1].id for entry in entries if self._is_ours(entry)}
        # While hooks run Django keeps the rest of them in a list that no one sees.
        began = max(known.running[-1:] + self._thread().hooks_running, default=0)
        for number, hook in list(known.pending.items()):
            if hook.started:
                del known.pending[number]
            elif number > began and number not in kept:
                del known.pending[number]
                self._journal.append(HookDiscarded(hook=number, reason=reason))

    def _is_ours(self, entry: Any) -> bool:
        return isinstance(entry[1], WatchedHook)

    # -- messages

    def _wrote(self, transaction: _Transaction) -> None:
        __tracebackhide__ = True
        if late := list(transaction.unjudged):
            for other in transaction.thread.transactions:
                other.unjudged = [each for each in other.unjudged if each not in late]
            self._report(late, transaction, late=True)

    def _report(self, messages: list[SentTask], transaction: _Transaction, *, late: bool) -> None:
        __tracebackhide__ = True
        policy = self._policy()
        wrote_at = locations.of_caller() if late else None
        texts = [
            sent_in_transaction(
                message,
                using=transaction.using,
                opener=transaction.opener,
                wrote_at=wrote_at,
                late=late,
            )
            for message in messages
        ]
        if policy == "error":
            raise SentInTransactionError("\n\n".join(texts))
        if policy == "warn":
            for message, text in zip(messages, texts, strict=True):
                place = message.location
                # With no registry, so that no filter takes a second message for the first.
                warnings.warn_explicit(
                    SentInTransactionWarning(text),
                    None,
                    filename=place.path if place else "<unknown>",
                    lineno=place.line if place else 1,
                )

    # -- what is known of threads and connections

    def _thread(self) -> _Thread:
        thread: _Thread | None = getattr(self._local, "thread", None)
        if thread is None:
            thread = self._local.thread = _Thread()
        return thread

    def _known(self) -> list[tuple[Any, _Connection]]:
        with self._lock:
            return list(self._connections.items())

    def _of(self, connection: BaseDatabaseWrapper) -> _Connection:
        real = _underlying(connection)
        known = self._connections.get(real)
        if known is None:
            stack = connection.atomic_blocks
            with self._lock:
                shared = [each for _, each in self._known() if each.stack is stack]
                known = self._connections[real] = shared[0] if shared else _Connection(stack)
        elif known.stack is not connection.atomic_blocks:  # ``connect()``: all its blocks are gone
            self._forget_blocks(connection, known)
            known.stack = connection.atomic_blocks
        return known

    def _forget_blocks(self, connection: BaseDatabaseWrapper, known: _Connection) -> None:
        for block in known.own:
            self._forget(connection, block)
        known.own.clear()

    def _forget(self, connection: BaseDatabaseWrapper, block: _Block) -> _Block:
        if block in block.thread.blocks:
            block.thread.blocks.remove(block)
        if block.begins:
            wrappers = connection.execute_wrappers
            wrappers[:] = [wrapper for wrapper in wrappers if wrapper is not block.transaction]
        return block


def _underlying(connection: BaseDatabaseWrapper) -> Any:
    """The connection that a proxy in ``connections`` stands for: its methods are bound to it."""
    return getattr(connection.validate_thread_sharing, "__self__", connection)


# -- SQL

_NO_CODE = re.compile(
    r"""--[^\n]*|/\*.*?\*/                    # comments
    |'(?:[^'\\]|\\.|'')*'                     # strings
    |\$(?P<tag>\w*)\$.*?\$(?P=tag)\$          # PostgreSQL's other strings
    |"[^"]*"|`[^`]*`|\[\w+\]                  # names
    """,
    re.DOTALL | re.VERBOSE,
)
_WRITES = re.compile(
    r"""[\s(]*(?:
    (?:INSERT|UPDATE|DELETE|MERGE|REPLACE|TRUNCATE|ALTER|DROP|RENAME|LOAD)\b
    |CREATE\s+(?!(?:LOCAL\s+|GLOBAL\s+)?TEMP(?:ORARY)?\b)
    |COPY\s+[^\s(]+\s*(?:\([^)]*\)\s*)?FROM\b
    |WITH\b.*?(?<!FOR\s)(?<!FOR\sNO\sKEY\s)\b(?:INSERT|UPDATE|DELETE|MERGE)\b
    )""",
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
_MAY_MATCH_NOTHING = re.compile(
    r"[\s(]*(?:UPDATE|DELETE)\b(?!.*\bRETURNING\b)", re.IGNORECASE | re.DOTALL
)


def wrote(sql: object, cursor: Any = None) -> bool:
    """Whether a statement that was executed has written.

    Args:
        sql: Text, bytes, or what psycopg composes.
        cursor: The cursor that executed it. An UPDATE or DELETE that matched no row is no write.
    """
    if isinstance(sql, bytes):
        text = sql.decode(errors="replace")
    elif hasattr(sql, "as_string"):  # a psycopg ``Composable``
        text = sql.as_string(getattr(cursor, "cursor", None))
    else:
        text = str(sql)
    writes, may_match_nothing = _classified(text)
    return writes and not (may_match_nothing and getattr(cursor, "rowcount", -1) == 0)


@lru_cache(maxsize=1024)
def _classified(sql: str) -> tuple[bool, bool]:
    bare = _NO_CODE.sub(lambda match: " " if match[0][:2] in ("--", "/*") else "x", sql)
    statements = [" ".join(each.split()) for each in bare.split(";") if each.strip()]
    return (
        any(_WRITES.match(each) for each in statements),
        len(statements) == 1 and _MAY_MATCH_NOTHING.match(statements[0]) is not None,
    )
