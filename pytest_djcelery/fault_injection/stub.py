"""Stand-ins for the bodies of tasks, among them tasks of other services."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import Mock

from pytest_djcelery.fault_injection.fault import Fault
from pytest_djcelery.messages.arguments import signature_of
from pytest_djcelery.messages.listing import Messages
from pytest_djcelery.recording import second_runs

if TYPE_CHECKING:
    from celery import Celery

    from pytest_djcelery.messages.sent_task import SentTask

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
