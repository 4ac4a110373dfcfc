"""Django's methods that tell a watch what happens: where it has no public hook, patched."""

from __future__ import annotations

import sys
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pytest_djcelery.patching import Current, patches, replaced
from pytest_djcelery.transactions.autocommit import after_innermost_block, innermost
from pytest_djcelery.transactions.blocks import atomic_replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType, TracebackType

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.transaction import Atomic


class Watch(Protocol):
    """What the methods tell, each in the thread that has called them."""

    after_blocks: Callable[[], None]  # called when a thread has left its outermost own block
    # Called before a procedure is, which no execute wrapper sees.
    before_procedure: Callable[[BaseDatabaseWrapper], None]

    @property
    def in_blocks(self) -> bool:
        """Whether this thread is in an atomic block that the code under test opened."""

    def hook_registered(
        self,
        connection: BaseDatabaseWrapper,
        hook: Callable[[], object],
        robust: bool,
        register: Callable[..., None],
    ) -> None:
        """Register a hook, by Django's method where Django is to run it."""

    def procedure_called(self, connection: BaseDatabaseWrapper) -> None:
        """Note that a procedure may have written."""

    def block_entered(self, connection: BaseDatabaseWrapper, using: str, frame: FrameType) -> None:
        """Note a block, and the frame that has entered it."""

    def leave_block(
        self,
        connection: BaseDatabaseWrapper,
        leave: Callable[[], None],
        *,
        failed: bool,
        of_testcase: bool,
    ) -> None:
        """Leave the innermost block as Django does, with what is due then."""

    def testcase_begins(self, connection: BaseDatabaseWrapper) -> None:
        """Note that ``django.test.TestCase`` has opened its block."""

    def testcase_ends(self, connection: BaseDatabaseWrapper) -> None:
        """Note that ``django.test.TestCase`` is about to leave its block."""


_W = TypeVar("_W", bound=Watch)


@contextmanager
def methods_watched(current: Current[_W], *, passive: bool = False) -> Iterator[None]:
    """Within the ``with``, have Django's methods tell the current watch what happens.

    Args:
        current: The watch that is on; nothing between two of them.
        passive: Whether the watch only looks on, so that autocommit is not emulated.
    """
    with (
        _hooks_and_blocks_watched(current),
        nullcontext() if passive else _autocommit_emulated(),
    ):
        yield


@patches(
    "django.db.backends.base.base:BaseDatabaseWrapper.on_commit",
    "django.db.backends.utils:CursorWrapper.callproc",
    why="Hooks run when production would run them, and Django has no signal for the "
    "registration of a hook; execute_wrapper() does not see the call of a procedure.",
    checked_on="Django 4.2, 5.2, 6.0 and 6.1",
)
@contextmanager
def _hooks_and_blocks_watched(current: Current[_W]) -> Iterator[None]:
    """Patch Django where it offers no public hook.

    These methods, ``Atomic._from_testcase`` and ``connection.atomic_blocks`` were checked on
    Django 4.2, 5.2, 6.0 and 6.1.
    """
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.utils import CursorWrapper
    from django.db.transaction import Atomic

    register, callproc = BaseDatabaseWrapper.on_commit, CursorWrapper.callproc

    def on_commit(
        connection: BaseDatabaseWrapper,
        func: Callable[[], object],
        robust: bool = False,
    ) -> None:
        __tracebackhide__ = True
        watch = current.now
        if watch is None:
            register(connection, func, robust)
        else:
            watch.hook_registered(connection, func, robust, register)

    def watched_callproc(cursor: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        watch = current.now
        if watch is None:
            return callproc(cursor, *args, **kwargs)
        watch.before_procedure(cursor.db)
        result = callproc(cursor, *args, **kwargs)  # which bypasses ``execute_wrapper()``
        watch.procedure_called(cursor.db)
        return result

    enter = _watched_enter(current, Atomic.__enter__)
    leave = _watched_exit(current, Atomic.__exit__)
    with (
        replaced(CursorWrapper, callproc=watched_callproc),
        atomic_replaced(enter, leave),
        replaced(BaseDatabaseWrapper, on_commit=on_commit),
    ):
        yield


def _watched_enter(current: Current[_W], enter: Any) -> Any:
    """What replaces ``Atomic.__enter__``."""
    from django.db import DEFAULT_DB_ALIAS
    from django.db.transaction import get_connection

    def enter_watched(atomic: Atomic) -> None:
        __tracebackhide__ = True
        watch = current.now
        if watch is None:
            enter(atomic)
            return
        connection = get_connection(atomic.using)
        if (autocommit := innermost(connection)) is None:
            enter(atomic)
        else:
            autocommit.enter_block(atomic, enter)
        if getattr(atomic, "_from_testcase", False):
            watch.testcase_begins(connection)
        else:
            watch.block_entered(connection, atomic.using or DEFAULT_DB_ALIAS, sys._getframe(1))

    return enter_watched


def _watched_exit(current: Current[_W], leave: Any) -> Any:
    """What replaces ``Atomic.__exit__``."""
    from django.db.transaction import get_connection

    def leave_watched(
        atomic: Atomic,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        __tracebackhide__ = True
        watch = current.now
        if watch is None:
            leave(atomic, exc_type, exc_value, traceback)
            return
        connection = get_connection(atomic.using)
        of_testcase = getattr(atomic, "_from_testcase", False)
        if of_testcase:
            watch.testcase_ends(connection)
        autocommit = after_innermost_block(connection)

        def leave_block() -> None:
            __tracebackhide__ = True
            leave(atomic, exc_type, exc_value, traceback)

        was_in_blocks = watch.in_blocks
        watch.leave_block(
            connection,
            leave_block if autocommit is None else partial(autocommit.leave_block, leave_block),
            failed=exc_type is not None,
            of_testcase=of_testcase,
        )
        if was_in_blocks and not watch.in_blocks:
            watch.after_blocks()

    return leave_watched


@patches(
    "django.db.backends.base.base:BaseDatabaseWrapper.get_autocommit",
    why="Code that has no block open is in autocommit mode inside the test's transaction, as "
    "in production.",
    checked_on="Django 4.2, 5.2, 6.0 and 6.1",
)
@contextmanager
def _autocommit_emulated() -> Iterator[None]:
    from django.db.backends.base.base import BaseDatabaseWrapper

    get_autocommit = BaseDatabaseWrapper.get_autocommit

    def get_autocommit_of_code(connection: BaseDatabaseWrapper) -> bool:
        found = innermost(connection)
        return (found is not None and found.shown) or get_autocommit(connection)

    with replaced(BaseDatabaseWrapper, get_autocommit=get_autocommit_of_code):
        yield
