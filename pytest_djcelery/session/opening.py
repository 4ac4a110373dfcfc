"""Opens the sandbox of a test: fixtures and public context managers share the one that is open."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from types import MethodType, TracebackType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from pytest_djcelery import options as options_module
from pytest_djcelery.errors import NotEnteredError, NotEnteredWarning
from pytest_djcelery.session.session import Session, current_session

if TYPE_CHECKING:
    from pytest_djcelery.session.sandbox import Sandbox


# Context managers that say so when they are used without having been entered --------------

P = ParamSpec("P")
T = TypeVar("T")

# What each is called in a ``with``, for texts.
_NAMES = {
    "app": "app", "beat": "beat", "eager": "app", "faults": "faults", "inline": "worker",
    "live_worker": "worker", "on_commit": "hooks", "outbox": "sent", "results": "results",
    "session_app": "app", "session_worker": "worker", "worker": "worker",
}  # fmt: skip


def entered(function: Callable[P, Iterator[T]]) -> Callable[P, Block[T]]:
    """Make a context manager of a generator function, as `contextlib.contextmanager` does."""
    make = contextmanager(function)

    @wraps(function)
    def block(*args: P.args, **kwargs: P.kwargs) -> Block[T]:
        __tracebackhide__ = True
        caller = sys._getframe(1)
        place = caller.f_code.co_filename, caller.f_lineno
        return Block(function.__name__, lambda: make(*args, **kwargs), place)

    return block


class _Entering:
    """The method ``__enter__``: whoever gets it may call it later, as an ``ExitStack`` does."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __get__(self, block: Any, owner: type) -> Any:
        if block is None:
            return self._function
        block.mark_used()
        return MethodType(self._function, block)


class Block(AbstractContextManager[T], Generic[T]):
    """A part of a test, to be entered with ``with``; it can also decorate a function.

    Args:
        name: The name of the function that returned it.
        make: Makes the context manager that does the work.
        place: The file and the line where that function was called.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], AbstractContextManager[T]],
        place: tuple[str, int],
    ) -> None:
        self.__name = name
        self.__make = make
        self.__place = place
        self.__used = True
        self.__block = make()  # which checks the arguments
        self.__used = False

    def __enter__(self) -> T:
        __tracebackhide__ = True
        self.mark_used()
        return self.__block.__enter__()

    if not TYPE_CHECKING:
        __enter__ = _Entering(__enter__)

    def mark_used(self) -> None:
        """Note that it is entered, or may be later."""
        self.__used = True

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        __tracebackhide__ = True
        return self.__block.__exit__(exc_type, exc_value, traceback)

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        self.__used = True

        @wraps(function)
        def within(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            with self.__make():
                return function(*args, **kwargs)

        return within

    def __getattr__(self, name: str) -> Any:
        __tracebackhide__ = True
        if name.startswith("__"):  # asked for by Python and by debuggers
            raise AttributeError(name)
        raise self.__refusal(f".{name}")

    def __eq__(self, other: object) -> bool:
        __tracebackhide__ = True
        if other is self:
            return True
        raise self.__refusal(" == …")

    def __hash__(self) -> int:
        return id(self)

    def __iter__(self) -> Any:
        __tracebackhide__ = True
        raise self.__refusal(", iterated over,")

    def __len__(self) -> int:
        __tracebackhide__ = True
        raise self.__refusal(", asked for its length,")

    def __bool__(self) -> bool:
        return True

    def __contains__(self, item: object) -> bool:
        __tracebackhide__ = True
        raise self.__refusal(", asked what is in it,")

    def __getitem__(self, index: object) -> Any:
        __tracebackhide__ = True
        raise self.__refusal("[…]")

    def __repr__(self) -> str:
        return f"<{self.__name}(), a context manager>"

    def __refusal(self, use: str) -> NotEnteredError:
        self.__used = True  # this says enough
        return NotEnteredError(
            f"{self.__name}(){use} is used like what the context manager {self.__name}() yields, "
            f"but it was not entered.\n{self.__remedy()}"
        )

    def __remedy(self) -> str:
        yields = _NAMES.get(self.__name, "it")
        return (
            f"Write `with {self.__name}() as {yields}:` and use {yields} inside, or ask for the "
            f"fixture celery_{self.__name}."
        )

    def __del__(self) -> None:
        if not self.__used and not sys.is_finalizing():
            path, line = self.__place
            warnings.warn_explicit(
                f"{self.__name}() was called, but not entered, so it did nothing.\n"
                f"{self.__remedy()}",
                NotEnteredWarning,
                path,
                line,
            )


def entered_sandbox(*, checks: bool = True, **changes: Any) -> AbstractContextManager[Sandbox]:
    """Yield the open sandbox, or open one; each example of Hypothesis's `@given` is clean.

    Args:
        checks: Whether unseen task failures are raised at the end of a sandbox opened here, or of
            an example; for one that a fixture opens, the pytest hooks do that.
        **changes: Replace options of the run, in a sandbox that is opened here.
    """
    session = current_session()
    if session.sandbox is not None and not session.sandbox.awaits_example:
        return session.sandbox.shared_by_block()
    return _opened_sandbox(session, changes, checks=checks)


@contextmanager
def _opened_sandbox(
    session: Session, changes: Mapping[str, Any], *, checks: bool
) -> Iterator[Sandbox]:
    __tracebackhide__ = True
    opening = (
        _new_sandbox(session, changes, of_fixture=not checks)
        if session.sandbox is None
        else session.sandbox.new_example()
    )
    with opening as sandbox:
        yield sandbox
        if checks:
            sandbox.check_failures()


def sandbox_of_test(**changes: Any) -> AbstractContextManager[Sandbox]:
    """Enter the sandbox of a test's fixtures: its own, or that of a block wider than the test.

    Args:
        **changes: Replace options of the run for the test.
    """
    wider = current_session().sandbox
    return (
        entered_sandbox(checks=False, **changes)
        if wider is None
        else wider.options_changed(**changes)
    )


@contextmanager
def _new_sandbox(
    session: Session, changes: Mapping[str, Any], *, of_fixture: bool
) -> Iterator[Sandbox]:
    options = options_module.replace(session.options, **changes) if changes else session.options
    project = session.use_project()
    # This imports Celery, which a run that uses no fixture must not do.
    from pytest_djcelery.session.sandbox import Sandbox, rolled_back_example

    sandbox = Sandbox(project, options, session)
    audit = nullcontext() if session.audit is None else session.audit.paused_for(sandbox)
    project.check_settings()
    with (
        audit,
        session.app_isolated(project),
        rolled_back_example() if session.is_in_example() else nullcontext(),
        session.patched(project, stay=of_fixture) as patches,
        sandbox.recording(patches),
        session.sandbox_opened(sandbox),
    ):
        yield sandbox
