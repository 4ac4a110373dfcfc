"""Watch Django's transactions: when on_commit hooks run, what is sent before the commit."""

from __future__ import annotations

import sys
import threading
import warnings
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

from pytest_djcelery import locations
from pytest_djcelery.errors import (
    DjceleryError,
    SentInTransactionError,
    SentInTransactionWarning,
)
from pytest_djcelery.journal import HookDiscarded, HookFinished, HookRegistered, HookStarted
from pytest_djcelery.patching import replaced
from pytest_djcelery.transactions.blocks import (
    Block,
    OpenTransaction,
    Running,
    ThreadBlocks,
    WatchedConnection,
    serials,
)
from pytest_djcelery.transactions.hooks import WatchedHook, run_as_committed, run_in_autocommit
from pytest_djcelery.transactions.openers import function_text, opener_of, sent_in_transaction

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
        self._connections: WeakKeyDictionary[Any, WatchedConnection] = WeakKeyDictionary()
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
        scope = Running(hook=None)
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
        began, serial = thread.task_began, next(serials)
        transaction = next(
            (b.transaction for b in known.own if b.thread is thread and b.serial > began), None
        )
        begins = transaction is None
        if transaction is None:
            transaction = OpenTransaction(
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
        block = Block(
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
        known.running.append(next(serials))
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
        number = next(serials)
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

    def _commit(self, connection: BaseDatabaseWrapper, known: WatchedConnection) -> None:
        """Run the hooks of a transaction that ends inside the test's own."""
        __tracebackhide__ = True
        hooks = self._take(connection, known.pending)
        known.running.append(next(serials))
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
        thread, scope = self._thread(), Running(hook=hook)
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

    def _settle(
        self, connection: BaseDatabaseWrapper, known: WatchedConnection, reason: str
    ) -> None:
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

    def _wrote(self, transaction: OpenTransaction) -> None:
        __tracebackhide__ = True
        if late := list(transaction.unjudged):
            for other in transaction.thread.transactions:
                other.unjudged = [each for each in other.unjudged if each not in late]
            self._report(late, transaction, late=True)

    def _report(
        self, messages: list[SentTask], transaction: OpenTransaction, *, late: bool
    ) -> None:
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

    def _thread(self) -> ThreadBlocks:
        thread: ThreadBlocks | None = getattr(self._local, "thread", None)
        if thread is None:
            thread = self._local.thread = ThreadBlocks()
        return thread

    def _known(self) -> list[tuple[Any, WatchedConnection]]:
        with self._lock:
            return list(self._connections.items())

    def _of(self, connection: BaseDatabaseWrapper) -> WatchedConnection:
        real = _underlying(connection)
        known = self._connections.get(real)
        if known is None:
            stack = connection.atomic_blocks
            with self._lock:
                shared = [each for _, each in self._known() if each.stack is stack]
                known = self._connections[real] = shared[0] if shared else WatchedConnection(stack)
        elif known.stack is not connection.atomic_blocks:  # ``connect()``: all its blocks are gone
            self._forget_blocks(connection, known)
            known.stack = connection.atomic_blocks
        return known

    def _forget_blocks(self, connection: BaseDatabaseWrapper, known: WatchedConnection) -> None:
        for block in known.own:
            self._forget(connection, block)
        known.own.clear()

    def _forget(self, connection: BaseDatabaseWrapper, block: Block) -> Block:
        if block in block.thread.blocks:
            block.thread.blocks.remove(block)
        if block.begins:
            wrappers = connection.execute_wrappers
            wrappers[:] = [wrapper for wrapper in wrappers if wrapper is not block.transaction]
        return block


def _underlying(connection: BaseDatabaseWrapper) -> Any:
    """The connection that a proxy in ``connections`` stands for: its methods are bound to it."""
    return getattr(connection.validate_thread_sharing, "__self__", connection)
