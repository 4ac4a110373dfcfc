"""Autocommit inside the test's own transaction: what an error undoes there, and what it doesn't.

In production, code that has opened no block is in no transaction, and neither is a worker's task:
a statement that fails undoes only itself, an outermost block that fails undoes only that block,
and whatever comes later is unaffected. In the test's transaction the first error would spoil
everything that follows, for the code and for the test: Django refuses further statements
(``needs_rollback``), and so does PostgreSQL.
"""

from __future__ import annotations

import re
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.transaction import Atomic

_SAVEPOINT: Final = "djcelery_autocommit"
_OF_SAVEPOINTS: Final = re.compile(r"\s*(?:SAVEPOINT|RELEASE|ROLLBACK)\b", re.IGNORECASE)
_READS: Final = re.compile(r"\s*SELECT\b", re.IGNORECASE)


class Autocommit:
    """Marks where a task or a test begins among the atomic blocks of a connection.

    While it is the innermost of ``connection.atomic_blocks``, the code has no block open on the
    connection, and a savepoint takes the place of the transaction that production would have. The
    savepoint is set through the driver's own cursor, so that a test which counts queries does not
    count it.

    To Django it looks like a block of ``django.test.TestCase``, so a durable block may follow.
    ``connection.atomic_blocks``, ``needs_rollback`` and ``closed_in_transaction``, and
    ``Atomic.savepoint`` and ``_from_testcase``, were checked on Django 4.2, 5.2, 6.0 and 6.1.

    Args:
        connection: A connection that is in the test's transaction.
        of_test: Whether it stands for the test rather than for a task. There a SELECT gets no
            savepoint: one that fails is seldom meant to, and ends PostgreSQL's transaction as it
            always did; all the others are spared the cost.
    """

    _from_testcase = True

    def __init__(self, connection: BaseDatabaseWrapper, *, of_test: bool = False) -> None:
        self.of_test = of_test
        self.shown = True  # by ``get_autocommit()``, to any caller but ``Atomic``
        self._connection = connection
        self._around_block = False  # whether the savepoint was set for a block
        self._wrapper = self._execute

    def __enter__(self) -> None:
        self._forget_error()
        self._blocks.append(self)
        # In front: ``connection.execute_wrapper()`` removes the last one when it ends.
        self._connection.execute_wrappers.insert(0, self._wrapper)

    def __exit__(self, *_: object) -> None:
        still_innermost = innermost(self._connection) is self
        self.remove()
        if still_innermost:
            self._forget_error()

    def remove(self) -> None:
        """End it, but leave ``needs_rollback`` alone: the test's block, now ending, rolls back."""
        wrappers = self._connection.execute_wrappers
        wrappers[:] = [wrapper for wrapper in wrappers if wrapper is not self._wrapper]
        if self in self._blocks:  # else the connection was reopened
            self._blocks.remove(self)

    def enter_block(self, block: Atomic, enter: Callable[[Atomic], None]) -> None:
        """Enter an outermost block of the code."""
        __tracebackhide__ = True
        usable = self._forget_error()
        self._around_block = usable and not block.savepoint  # else Django sets one itself
        if self._around_block:
            self._set()
        self.shown = False
        try:
            enter(block)
        except BaseException:
            self._block_ended()
            raise
        finally:
            self.shown = True

    def leave_block(self, leave: Callable[[], None]) -> None:
        """Leave the block that was entered."""
        __tracebackhide__ = True
        self.shown = False
        try:
            leave()
        finally:
            self.shown = True
            if innermost(self._connection) is self:  # else the connection was reopened
                self._block_ended()

    def _block_ended(self) -> None:
        if self._around_block:
            self._around_block = False
            if self._connection.needs_rollback:
                self._undo()
            else:
                self._release()
        self._forget_error()

    def _execute(
        self,
        execute: Callable[[str, Any, bool, dict[str, Any]], Any],
        sql: str,
        params: Any,
        many: bool,
        context: dict[str, Any],
    ) -> Any:
        __tracebackhide__ = True
        in_block = innermost(self._connection) is not self
        if in_block or not (self._forget_error() and self._needs_savepoint(sql)):
            return execute(sql, params, many, context)
        self._set()
        try:
            result = execute(sql, params, many, context)
        except BaseException:
            self._undo()
            raise
        self._release()
        return result

    def _needs_savepoint(self, sql: str) -> bool:
        """Whether a statement, if it fails, doesn't undo itself and spoils the transaction.

        Statements on savepoints are left out: a savepoint that Django or the task sets has to
        outlast the statement that sets it.
        """
        if not self._connection.features.atomic_transactions:
            return False
        text = str(sql)
        return not (_OF_SAVEPOINTS.match(text) or (self.of_test and _READS.match(text)))

    def _forget_error(self) -> bool:
        """Make Django forget an error, now that what failed has been undone.

        Returns:
            Whether the connection can be used: ``False`` if the task has closed it.
        """
        if self._connection.closed_in_transaction:
            return False
        self._connection.needs_rollback = False
        return True

    def _set(self) -> None:
        self._run(self._connection.ops.savepoint_create_sql(_SAVEPOINT))

    def _release(self) -> None:
        from django.db import Error

        try:
            self._run(self._connection.ops.savepoint_commit_sql(_SAVEPOINT))
        except Error:  # there was an error that Django did not notice
            self._undo()
            raise

    def _undo(self) -> None:
        from django.db import Error

        with suppress(Error):  # the connection is lost: the first error is the one to report
            self._run(self._connection.ops.savepoint_rollback_sql(_SAVEPOINT))
            self._run(self._connection.ops.savepoint_commit_sql(_SAVEPOINT))

    def _run(self, sql: str) -> None:
        connection: Any = self._connection
        with connection.wrap_database_errors, closing(connection.connection.cursor()) as cursor:
            cursor.execute(sql)

    @property
    def _blocks(self) -> list[Any]:
        return self._connection.atomic_blocks


def innermost(connection: BaseDatabaseWrapper) -> Autocommit | None:
    """The `Autocommit` of a connection on which the code has no block open."""
    blocks: list[Any] = connection.atomic_blocks
    return blocks[-1] if blocks and isinstance(blocks[-1], Autocommit) else None


def after_innermost_block(connection: BaseDatabaseWrapper) -> Autocommit | None:
    """The `Autocommit` that will be innermost once the innermost block is left."""
    blocks: list[Any] = connection.atomic_blocks
    return blocks[-2] if len(blocks) > 1 and isinstance(blocks[-2], Autocommit) else None


def begin_test(connection: BaseDatabaseWrapper) -> Autocommit | None:
    """Emulate autocommit on a connection that is in ``TestCase``'s transaction and nothing else.

    pytest-django's ``db`` fixture opens the same transaction.
    """
    blocks: list[Any] = connection.atomic_blocks
    if (
        not blocks
        or isinstance(blocks[-1], Autocommit)
        or not getattr(blocks[-1], "_from_testcase", False)
        or not connection.features.uses_savepoints
    ):
        return None
    autocommit = Autocommit(connection, of_test=True)
    autocommit.__enter__()
    return autocommit
