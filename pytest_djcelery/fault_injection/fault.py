"""A fault: what a test has asked to go wrong, and how often that has happened."""

from __future__ import annotations

import errno
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from types import EllipsisType
from typing import TYPE_CHECKING, Any, Final

from kombu.exceptions import OperationalError

from pytest_djcelery import locations
from pytest_djcelery.errors import BadOptionError, FaultNotFiredError, meant
from pytest_djcelery.messages.descriptions import message_text
from pytest_djcelery.messages.events import Ended, FaultFired, WorkerLost
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
        self._on_fired: Callable[[Fault], object] = lambda _: None
        self._on_end: Callable[[], object] = lambda: None

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
            FaultNotFiredError: It never happened, and is not optional.
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

    # For the code that makes it happen ---------------------------------------------------------

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
        return self.waits and (self._target is None or not self._target.excludes(args, kwargs))

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

    def reported_to(self, listener: Callable[[Fault], object]) -> Fault:
        """Call ``listener`` with it each time it happens."""
        self._on_fired = listener
        return self

    def ended_by(self, end: Callable[[], object]) -> Fault:
        """Call ``end`` once it can't happen any more."""
        self._on_end = end
        return self

    @property
    def number(self) -> int:
        """A number that no other fault of this process has."""
        return self._number

    def check(self) -> None:
        """Raise an error if it should have happened and never has.

        Raises:
            FaultNotFiredError: It never has.
        """
        __tracebackhide__ = True
        if self.is_missing:
            self._reported = True
            raise FaultNotFiredError(not_fired_text([self]))

    @property
    def is_missing(self) -> bool:
        """Whether it should have happened and never has."""
        return not (self._fired or self._optional or self._canceled or self._reported)

    @property
    def call(self) -> str:
        """The call that set it."""
        return self._call

    def missing_text(self) -> Iterator[str]:
        """Say that it never happened, and what happened instead."""
        where = f", set at {self._location}" if self._location is not None else ""
        yield f"{self._call} never happened{where}."
        yield from _instead(self._target, self._sandbox, self._since)

    def _settle(self) -> None:
        """Have a worker run what was published while it lasts."""
        self._sandbox.settle()

    def end(self) -> None:
        """Keep it from happening again."""
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


# A broker, or a result backend, that is down for a while ----------------------------------


class Downtime(Fault):
    """A server is down: for a number of calls, or for the block of a ``with``.

    Args:
        sandbox: The sandbox of the test.
        call: The call that set it.
        times: How many calls it lasts; an ellipsis if that isn't said: one, or a whole block.
        optional: Whether there need be no call.
    """

    def __init__(
        self, sandbox: Sandbox, call: str, *, times: int | EllipsisType | None, optional: bool
    ) -> None:
        self._is_default = times is ...
        given = 1 if isinstance(times, EllipsisType) else times
        super().__init__(sandbox, call, None, times=given, optional=optional)

    def __enter__(self) -> Self:
        if self._is_default:
            self._times = None
        return super().__enter__()

    def error(self, server: str, at: str) -> OperationalError:
        """What a call raises."""
        refused = ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        error = OperationalError(f"{refused} (the {server} is down, by {self._call}; {at})")
        error.__cause__ = refused
        return meant(error)


# Faults that never happened: the line that set each, and what ran instead -----------------

_SHOWN = 10
_RUN = "have the task run within the test: celery_inline.run(), celery_worker.wait_until_idle()"
_PUBLISH = "have a message sent, or a result used, while it lasts"


def not_fired_text(missing: Iterable[Fault]) -> str:
    """Say which faults never happened, and what happened instead."""
    lines: list[str] = []
    way = _PUBLISH
    for fault in missing:
        way = way if fault.target is None else _RUN
        lines += fault.missing_text()
    lines.append(f"If it need not happen: optional=True, or cancel(). Otherwise {way}.")
    return "\n".join(lines)


def _instead(target: Target | None, sandbox: Sandbox, since: int) -> Iterator[str]:
    if target is None:
        sent = [message_text(event.message) for event in sandbox.journal.published(since)]
        yield f"What was published since: {_listed(sent) or 'nothing'}."
        return
    ran = list(_ran(sandbox, since))
    own = [text for name, text in ran if name == target.name]
    if own:
        yield f"{target.name} ran {_times_text(len(own))}: {_listed(own)}."
    elif ran:
        yield f"{target.name} did not run. What ran: {_listed(text for _, text in ran)}."
    else:
        yield f"Nothing has run since. {sandbox.situation()}"


def _ran(sandbox: Sandbox, since: int) -> Iterator[tuple[str, str]]:
    journal = sandbox.journal
    for event in journal.events((Ended, WorkerLost), since):
        task_id = getattr(event, "task_id", None)
        sent = journal.sent(task_id) if task_id else []
        name = getattr(event, "task", None) or (sent[-1].task if sent else None)
        if name is None or (isinstance(event, Ended) and event.eager):
            continue
        state = event.state if isinstance(event, Ended) else "its worker was lost"
        call = message_text(sent[-1]) if sent else name
        yield name, f"{call}: {state}"


def _listed(texts: Iterable[str]) -> str:
    counted = Counter(texts)
    shown = [f"{text}{f' ({_times_text(n)})' * (n > 1)}" for text, n in counted.items()]
    more = f", and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more


def _times_text(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
