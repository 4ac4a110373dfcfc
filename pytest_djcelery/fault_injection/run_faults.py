"""The faults that happen in a run of a task, and stand-ins for the bodies of tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import Mock

from pytest_djcelery.errors import meant
from pytest_djcelery.fault_injection.fault import Fault
from pytest_djcelery.messages.arguments import signature_of
from pytest_djcelery.messages.listing import Messages
from pytest_djcelery.recording import second_runs
from pytest_djcelery.recording.losses import lose_process

if TYPE_CHECKING:
    from celery import Celery

    from pytest_djcelery.messages.sent_task import SentTask
    from pytest_djcelery.recording.task_bodies import CallSite


Body = Callable[[], Any]


@dataclass(slots=True, kw_only=True, eq=False)
class Run:
    """A run of a task: its request, and the fault whose turn it is."""

    task: Any
    request: Any
    fault: Fault | None = None


#: The run that the present code is part of.
CURRENT_RUN: Final[ContextVar[Run | None]] = ContextVar("djcelery_fault_run", default=None)


class RunFault(Fault):
    """A fault that happens in a run."""

    def around(self, run: Run, body: Body) -> Any:
        """Run the body of a task, with what goes wrong."""
        __tracebackhide__ = True
        return body()


class Raised(RunFault):
    """The body raises an exception."""

    exception: BaseException | type[BaseException]
    after: bool

    def around(self, run: Run, body: Body) -> Any:
        __tracebackhide__ = True
        if self.after:
            value = body()
            if not self.uses_up(run.request.id):
                return value
        elif not self.uses_up(run.request.id):
            return body()
        raise _fresh(self.exception)


def _fresh(exception: BaseException | type[BaseException]) -> BaseException:
    if isinstance(exception, type):
        return meant(exception())
    return meant(exception).with_traceback(None)  # or it would grow with each run


class AtCall(RunFault, ABC):
    """A fault that happens when the task calls a function."""

    site: CallSite | None = None  # None: at a moment of the run itself

    @abstractmethod
    def called(self, run: Run, call: Callable[[], Any]) -> Any:
        """Do what happens at a call of the function."""

    def missing_text(self) -> Iterator[str]:
        """Say that it never happened, and in which calls it was looked for."""
        yield from super().missing_text()
        if self.site is not None:
            yield (
                f"It happens in a call of {self.site.text} by the task, looked for at: "
                f"{', '.join(self.site.places)}."
            )

    def end(self) -> None:
        """Keep it from happening again, and put the function back."""
        super().end()
        if self.site is not None:
            self.site.close()


class TimedOut(AtCall):
    """A time limit is over."""

    soft: bool

    def around(self, run: Run, body: Body) -> Any:
        __tracebackhide__ = True
        if self.site is None and self.uses_up(run.request.id):
            raise self._error(run)
        return body()

    def called(self, run: Run, call: Callable[[], Any]) -> Any:
        __tracebackhide__ = True
        if not self.uses_up(run.request.id):
            return call()
        raise self._error(run)

    def _error(self, run: Run) -> BaseException:
        if not self.soft:
            return lose_process(timed_out=True)
        from celery.exceptions import SoftTimeLimitExceeded
        from celery.worker import state

        request = state.requests.get(run.request.id)
        if request is not None:  # a worker's own logging
            limits = run.request.timelimit or (None, None)
            request.on_timeout(soft=True, timeout=limits[1] or run.task.soft_time_limit)
        error: BaseException = SoftTimeLimitExceeded()
        return meant(error)


class WorkerIsLost(AtCall):
    """The process that runs the task is gone, or the whole worker."""

    host: bool
    at_end: bool = False

    def around(self, run: Run, body: Body) -> Any:
        __tracebackhide__ = True
        if self.site is not None:
            return body()
        if not self.uses_up(run.request.id):
            return body()
        if self.at_end:
            with suppress(Exception):  # whatever it raises, nobody lives to store it
                body()
        raise lose_process(host=self.host)

    def called(self, run: Run, call: Callable[[], Any]) -> Any:
        __tracebackhide__ = True
        result = call()
        if self.uses_up(run.request.id):
            raise lose_process(host=self.host)
        return result


class Duplicated(RunFault):
    """The message is delivered once more after a run that succeeded."""


# Stand-ins for the bodies of tasks, among them tasks of other services --------------------

UNSET: Final[Any] = object()


class Stub(Fault):
    """A stand-in for the body of a task, as ``celery_faults.stub()`` has made it.

    ``calls`` are the messages that it took, oldest first, to compare with signatures. It may go
    uncalled; ``cancel()`` ends it, as does the end of its ``with`` block.
    """

    takes_turns = False
    _double: Mock

    @property
    def calls(self) -> Messages:
        """The messages that it took, oldest first."""
        return Messages(self._taken)

    def returning(self, returns: Any, side_effect: Any) -> Stub:
        """Have it do what a mock does with these."""
        self._taken: list[SentTask] = []
        self._returned: dict[str, Any] = {}  # by the id of the message
        self._double = Mock(
            return_value=None if returns is UNSET else returns,
            side_effect=None if side_effect is UNSET else side_effect,
        )
        return self

    def called(
        self,
        body: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        sent: SentTask | None,
    ) -> Any:
        """Take a message in place of the body.

        Raises:
            TypeError: The body doesn't take such arguments.
        """
        __tracebackhide__ = True
        try:
            signature_of(body).bind(*args, **kwargs)
        except TypeError as error:
            name = getattr(body, "__name__", "the task")
            raise TypeError(f"{name}() {error}") from None
        again = second_runs.is_under_way()
        if again and sent is not None and sent.id in self._returned:
            return self._returned[sent.id]
        self.uses_up(None if sent is None else sent.id)
        if sent is not None and not again:
            self._taken.append(sent)
        returned = self._double(*args, **kwargs)
        if sent is not None:
            self._returned[sent.id] = returned
        return returned


@contextmanager
def registered(app: Celery, name: str) -> Iterator[None]:
    """Within the ``with``, register a task that takes any arguments, if there is none."""
    if name in app.tasks:
        yield
        return

    def elsewhere(*_: Any, **__: Any) -> None:
        """Do nothing: the stand-in does."""

    task = app.task(elsewhere, name=name, shared=False, lazy=False)
    try:
        yield
    finally:
        if app.tasks.get(name) is task:
            app.tasks.unregister(name)
