"""A fault: what a test has asked to go wrong, and how often that has happened."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from pytest_djcelery import locations
from pytest_djcelery.errors import BadOptionError, FaultNotFiredError
from pytest_djcelery.fault_injection.texts import Missing, not_fired_text
from pytest_djcelery.messages.journal import FaultFired
from pytest_djcelery.recording import second_runs

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from pytest_djcelery.fault_injection.targets import Target
    from pytest_djcelery.session.sandbox import Sandbox

_numbers: Final = count(1)
_using: Final = threading.Lock()


class Fault:
    """Something that goes wrong on purpose, as one of the methods of `Faults` has set it.

    ``fired`` is how often it has happened, and ``cancel()`` ends it. In a ``with`` statement it
    lasts until the end of the block, which fails if it never happened.

    Args:
        sandbox: The sandbox of the test.
        call: The call that set it, as the test has written it.
        target: The runs that it is for; ``None`` if it is not about tasks.
        times: How often it happens at most; ``None`` for no limit.
        optional: Whether it may never happen.
    """

    #: Whether it takes its turn among the faults of a task; a stand-in is there all the time.
    takes_turns = True

    def __init__(
        self,
        sandbox: Sandbox,
        call: str,
        target: Target | None,
        *,
        times: int | None,
        optional: bool,
    ) -> None:
        __tracebackhide__ = True
        self._sandbox = sandbox
        self._call = call
        self._target = target
        self._times = _checked_times(call, times)
        self._optional = bool(optional)
        self._fired = 0
        self._canceled = False
        self._over = False
        self._reported = False
        self._number = next(_numbers)
        self._since = len(sandbox.journal)
        self._location = locations.of_caller()
        self._on_fired: Callable[[Fault], None] = _nothing
        self._on_end: Callable[[], None] = _none

    @property
    def fired(self) -> int:
        """How often it has happened."""
        return self._fired

    def cancel(self) -> None:
        """End it: it doesn't happen again, and need not have happened."""
        self._canceled = True
        self.end()

    def __enter__(self) -> Self:
        """Return itself; it ends with the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End it.

        Raises:
            FaultNotFiredError: It never happened, and need not be optional for that.
        """
        __tracebackhide__ = True
        try:
            if kind is None and not self._over:
                self._settle()
        finally:
            self.end()
        if kind is None:
            self.check()

    def __repr__(self) -> str:
        state = "canceled" if self._canceled else "over" if self._over else "waits"
        if self._fired:
            state = "fired once" if self._fired == 1 else f"fired {self._fired} times"
        return f"<{self._call}: {state}>"

    # For those who have it happen ---------------------------------------------------------

    @property
    def target(self) -> Target | None:
        """The runs that it is for."""
        return self._target

    @property
    def waits(self) -> bool:
        """Whether it is still to happen."""
        return not self._over and (self._times is None or self._fired < self._times)

    def awaits(self, args: Sequence[object], kwargs: Mapping[str, object]) -> bool:
        """Whether it may happen in a run with these arguments."""
        if self._over or (self._times is not None and self._fired >= self._times):
            return False
        return self._target is None or not self._target.excludes(args, kwargs)

    def uses_up(self, task_id: str | None = None) -> bool:
        """Note that it happens now; ``False`` if meanwhile it has happened often enough.

        Args:
            task_id: The task in whose run it happens.
        """
        with _using:
            # What happens in a second run (`djcelery_redeliver`) is taken back; a fault can't be.
            if not self.waits or second_runs.is_under_way():
                return False
            self._fired += 1
        self._on_fired(self)
        event = FaultFired(fault=self._number, text=self._call, task_id=task_id)
        self._sandbox.journal.append(event)
        return True

    def reported_to(self, listener: Callable[[Fault], None]) -> Fault:
        """Call ``listener`` with it each time it happens."""
        self._on_fired = listener
        return self

    def ended_by(self, end: Callable[[], None]) -> Fault:
        """Call ``end`` when it is to happen no more."""
        self._on_end = end
        return self

    @property
    def number(self) -> int:
        """A number that no other fault of this process has."""
        return self._number

    def check(self) -> None:
        """Fail if it should have happened and never has.

        Raises:
            FaultNotFiredError: So it is.
        """
        __tracebackhide__ = True
        if self.is_missing:
            self._reported = True
            raise FaultNotFiredError(not_fired_text([self.missing], self._sandbox))

    @property
    def is_missing(self) -> bool:
        """Whether it should have happened and never has."""
        return not (self._fired or self._optional or self._canceled or self._reported)

    @property
    def call(self) -> str:
        """The call that set it."""
        return self._call

    @property
    def missing(self) -> Missing:
        """What there is to say of it if it never happened."""
        return Missing(
            call=self._call,
            location=self._location,
            since=self._since,
            task=None if self._target is None else self._target.name,
            why=self._why_missing(),
        )

    def _why_missing(self) -> str:
        return ""

    def _settle(self) -> None:
        """Have a worker run what was published while it lasts."""
        self._sandbox.settle()

    def end(self) -> None:
        """Have it happen no more."""
        if not self._over:
            self._over = True
            self._on_end()


def _checked_times(call: str, times: Any) -> int | None:
    __tracebackhide__ = True
    if times is None or (isinstance(times, int) and not isinstance(times, bool) and times > 0):
        return times
    msg = (
        f"{call}: times={times!r} is not how often a fault can happen: expected 1 or more, or None "
        "for each time."
    )
    raise BadOptionError(msg)


def _nothing(_fault: Fault) -> None:
    pass


def _none() -> None:
    pass
