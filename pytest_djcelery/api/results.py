"""``celery_results``: outcomes of tasks, in whatever result backend is configured."""

from __future__ import annotations

import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from celery import states
from celery.backends.base import DisabledBackend
from celery.result import AsyncResult, EagerResult, ResultBase, ResultSet

from pytest_djcelery.errors import BadOptionError, UnknownResultError
from pytest_djcelery.messages.descriptions import message_text
from pytest_djcelery.messages.django_tasks import is_django_result, is_django_task
from pytest_djcelery.messages.events import (
    Ended,
    EndedWithoutOutcome,
    Event,
    Looked,
    StateStored,
    Storing,
    stores_nothing,
)
from pytest_djcelery.messages.journal import message_of_result, refuse_unseen
from pytest_djcelery.messages.matching import expectation
from pytest_djcelery.messages.outcomes import (
    Failure,
    History,
    Outcome,
    Outcomes,
    Pending,
    Progress,
    Retrying,
    Revoked,
    Started,
    StateChange,
    Success,
)
from pytest_djcelery.recording.failures import with_relatives
from pytest_djcelery.recording.losses import why_lost
from pytest_djcelery.recording.result_waits import (
    NeverReadyError,
    WaitTimeoutError,
    no_result_text,
)
from pytest_djcelery.recording.server_waits import unreachable_backend_named
from pytest_djcelery.session.opening import entered, entered_sandbox

if TYPE_CHECKING:
    from pytest_djcelery.messages.django_tasks import DjangoResult
    from pytest_djcelery.session.sandbox import Sandbox

    AnyResult: TypeAlias = ResultBase | DjangoResult | str
    #: `Outcomes`, for the result of a group: a checker lets a test use the outcome of a task.
    MaybeMany: TypeAlias = Any


class Results:
    """The outcomes of a test's tasks, to assert how they ended, whatever the result backend.

    The fixture ``celery_results`` and the context manager `results` give one.
    ``celery_results[result]`` waits for the final outcome of an `AsyncResult`, an id, a group or a
    chord (with ``celery_inline``, it delivers). Compare it with ``Success(value)``,
    ``Failure(ValueError, match=…)`` or ``Revoked()``; for a group it is a list of outcomes.
    ``now(result)`` looks without waiting, ``of(task)`` has the outcomes of all messages of a task,
    and ``history(result)`` the states that a task has passed through.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def __repr__(self) -> str:
        """How many tasks are in which state; this doesn't count as a look at their outcomes."""
        journal = self._sandbox.journal
        since = self._sandbox.began
        found = {event.message.id: states.PENDING for event in journal.published(since)}
        for event in journal.events(Event, since):
            if isinstance(event, (Storing, Ended)) and event.task_id in found:
                found[event.task_id] = event.state
        if not found:
            return "<celery_results: no messages>"
        counts = sorted(Counter(found.values()).items())
        counted = ", ".join(f"{count} {state}" for state, count in counts)
        return f"<celery_results: {len(found)} message{'s' * (len(found) > 1)}: {counted}>"

    def __getitem__(self, result: AnyResult) -> Success | Failure | Revoked | MaybeMany:
        """Wait for the final outcome.

        Args:
            result: What ``delay()`` or ``apply_async()`` returned, also of a group or a chord; or
                the id of a task.

        Raises:
            UnknownResultError: No message of this test has that id.
            WaitTimeoutError: It doesn't come in time; raised at once if no worker runs.
            NeverReadyError: It will never come.
        """
        __tracebackhide__ = True
        if isinstance(result, ResultSet):
            return Outcomes(self[member] for member in result.results)
        task_id = self._id(result)
        self._wait(result, task_id)
        self._looked(result)
        return self._outcome(task_id)

    def now(self, result: AnyResult) -> Outcome | MaybeMany:
        """The present outcome, without waiting or delivering anything.

        Args:
            result: As for ``celery_results[result]``.

        Raises:
            UnknownResultError: No message of this test has that id.
        """
        __tracebackhide__ = True
        if isinstance(result, ResultSet):
            return Outcomes(self.now(member) for member in result.results)
        task_id = self._id(result)
        if self._final(task_id):
            self._looked(result)
        return self._outcome(task_id)

    def of(self, task: Any) -> list[Success | Failure | Revoked | MaybeMany]:
        """Wait for the outcomes of all messages of a task, and return them in publish order.

        Args:
            task: The task, or its name; or a task of `django.tasks`.

        Raises:
            BridgedMessageNotSeenError: No Celery message of the Django task was seen.
            WaitTimeoutError: One of them doesn't come in time.
            NeverReadyError: One of them will never come.
        """
        __tracebackhide__ = True
        messages = [event.message for event in self._sandbox.journal.published()]
        if is_django_task(task):
            refuse_unseen(self._sandbox.journal, task.module_path)
            matcher = expectation(task)
            messages = [message for message in messages if matcher.matches(message)]
        else:
            name = getattr(task, "name", task)
            messages = [message for message in messages if message.task == name]
        return [self[task_id] for task_id in dict.fromkeys(message.id for message in messages)]

    def history(self, result: ResultBase | str) -> list[StateChange]:
        """The states that a task has passed through, as they were stored in the result backend.

        Args:
            result: As for ``celery_results[result]``.

        Raises:
            UnknownResultError: No message of this test has that id.
        """
        __tracebackhide__ = True
        task_id = self._id(result)
        return History(
            StateChange(stored.state, stored.meta)
            for stored in self._sandbox.journal.states(task_id)
        )

    def _id(self, result: ResultBase | str) -> str:
        __tracebackhide__ = True
        if isinstance(result, EagerResult):  # it contains the outcome itself
            return str(result.id)
        if is_django_result(result):
            return message_of_result(self._sandbox.journal, result)
        if not isinstance(result, AsyncResult | str):
            msg = (
                f"celery_results[{result!r}]: expected what delay() or apply_async() returned, or "
                "a task id. For every message of a task: celery_results.of(task)."
            )
            raise BadOptionError(msg)
        task_id = str(result)
        # The result of a chain or chord has the id of a message that is yet to be sent.
        ids = {task_id} if isinstance(result, str) else {*with_relatives(result)}
        if not self._known(ids):
            self._sandbox.settle()  # a running task may send it
            if not self._known(ids):
                raise UnknownResultError(self._unknown(task_id))
        return task_id

    def _known(self, ids: set[str]) -> bool:
        journal = self._sandbox.journal
        if any(journal.sent(task_id) or journal.ended(task_id) for task_id in ids):
            return True
        messages = (event.message for event in journal.published())
        return any(_names((message.chain, message.chord), ids) for message in messages) or any(
            self._stored_state(task_id) != states.PENDING for task_id in ids
        )

    def _unknown(self, task_id: str) -> str:
        known = [event.message for event in self._sandbox.journal.published()]
        listed = "\n".join(f"  {message.id}  {message.task}" for message in known[-10:]) or "  none"
        return (
            f"No message of this test has the id {task_id!r}, and the result backend does not know "
            "it.\n"
            f"Sent in this test:\n{listed}"
        )

    def _final(self, task_id: str) -> bool:
        ended = self._ended(task_id)
        if ended is not None and not isinstance(ended, EndedWithoutOutcome):
            return True
        return self._stored_state(task_id) in states.READY_STATES

    def _refuse_to_wait_in_vain(self, task_id: str) -> None:
        """Refuse to wait for a task that has raised `Ignore`, for which a worker stores nothing.

        Raises:
            NeverReadyError: It has done so without storing a final state itself.
        """
        __tracebackhide__ = True
        ended = self._ended(task_id)
        if ended is not None and not self._final(task_id):
            why = stores_nothing(ended.state)
            msg = (
                f"{self._name(task_id)} has no outcome to wait for: {why}.\n"
                f"To see that state: celery_results.now(…), which is {self._outcome(task_id)!r}."
            )
            raise NeverReadyError(msg)

    def _ending(self, task_id: str) -> Callable[[], bool]:
        """Make a function that only checks `_final` again when there is news of the task."""
        seen = 0

        def ended() -> bool:
            nonlocal seen
            new, seen = self._sandbox.journal.events(Event, seen), len(self._sandbox.journal)
            kinds = (Ended, StateStored)
            news = any(isinstance(event, kinds) and event.task_id == task_id for event in new)
            return news and (self._final(task_id) or self._ended(task_id) is not None)

        return ended

    def _ended(self, task_id: str) -> Ended | None:
        """The last attempt if no other follows it."""
        attempts = self._sandbox.journal.ended(task_id)
        runner = self._sandbox.runner
        if runner is None or not runner.in_place:
            # If attempts run side by side, one may end before the one that led to it.
            attempts.sort(key=lambda attempt: attempt.goes_on, reverse=True)
        return attempts[-1] if attempts and not attempts[-1].goes_on else None

    def _stored_state(self, task_id: str) -> str:
        __tracebackhide__ = True
        with self._backend_readable(task_id):
            return self._state_of(self._sandbox.app.AsyncResult(task_id))

    def _state_of(self, stored: AsyncResult[Any]) -> str:
        disabled = isinstance(self._sandbox.app.backend, DisabledBackend)  # it can't even be asked
        return str(states.PENDING if disabled else stored.state)

    @contextmanager
    def _backend_readable(self, task_id: str) -> Iterator[None]:
        """Enter to read what the backend has about a task, which may be nothing in eager mode."""
        __tracebackhide__ = True
        with ExitStack() as stack:
            if self._sandbox.app.conf.task_always_eager:
                # Celery then warns that nothing is stored, but the journal has the outcome.
                stack.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("ignore", "Results are not stored", RuntimeWarning)
            stack.enter_context(
                unreachable_backend_named(
                    self._sandbox.app.backend,
                    f"The outcome of {task_id} can't be read.",
                    self._sandbox,
                )
            )
            yield

    def _wait(self, result: ResultBase | str, task_id: str) -> None:
        __tracebackhide__ = True
        if self._final(task_id):
            return
        self._refuse_to_wait_in_vain(task_id)
        if isinstance(result, EagerResult):
            return
        sandbox = self._sandbox
        if sandbox.runner is not None and sandbox.runner.in_place:
            sandbox.runner.deliver_until(self._ending(task_id))
            self._refuse_to_wait_in_vain(task_id)
            if not self._final(task_id):
                raise NeverReadyError(sandbox.runner.why_never_ready(task_id))
            return
        if sandbox.runner is None or not sandbox.runner.will_run:
            msg = f"{self._name(task_id)} has no outcome yet.\n{sandbox.situation()}"
            raise WaitTimeoutError(msg)
        reason = lost = ""
        seen = 0

        def over() -> bool:
            nonlocal reason, lost, seen
            # First, so that everything the worker stored before its end is found.
            reason = sandbox.situation() if sandbox.worker_has_ended() else ""
            reason = reason or sandbox.unconsumed.blocking([task_id])
            new, seen = seen, len(sandbox.journal)
            lost = lost or why_lost(sandbox.journal, [task_id], new) or ""
            over = reason or lost or self._final(task_id) or self._ended(task_id) is not None
            return bool(over)

        in_time = sandbox.journal.wait_until(over, sandbox.options.timeout)
        self._refuse_to_wait_in_vain(task_id)
        if lost and not self._final(task_id):
            raise NeverReadyError(lost)
        if reason and not self._final(task_id):
            raise NeverReadyError(no_result_text([self._name(task_id)], reason))
        if not in_time:
            msg = (
                f"{self._name(task_id)} has no outcome after {sandbox.options.timeout:g} s.\n"
                f"{sandbox.situation()}"
            )
            raise WaitTimeoutError(msg)

    def _name(self, task_id: str) -> str:
        sent = self._sandbox.journal.sent(task_id)
        if not sent:
            return task_id
        return f"{message_text(sent[0])} [{task_id}]"

    def _looked(self, result: ResultBase | str) -> None:
        ids: Iterable[str] = [result] if isinstance(result, str) else with_relatives(result)
        for task_id in ids:
            self._sandbox.journal.append(Looked(task_id=task_id))

    def _outcome(self, task_id: str) -> Outcome:
        __tracebackhide__ = True
        with self._backend_readable(task_id):
            outcome: Outcome = replace(self._bare_outcome(task_id), task=self._name(task_id))
        return outcome

    def _bare_outcome(self, task_id: str) -> Any:  # noqa: PLR0911 - one for each state
        ended = self._ended(task_id)
        stored = self._sandbox.app.AsyncResult(task_id)
        state = self._state_of(stored)
        if (
            state not in states.READY_STATES
            and ended
            and not isinstance(ended, EndedWithoutOutcome)
        ):
            return _of_ended(ended)  # the task ignores its result, or there is no backend
        retries = ended.retries if ended else self._retries(task_id, state)
        if state == states.SUCCESS:
            return Success(stored.result, retries=retries)
        if state == states.FAILURE:
            value = ended.value if ended else None
            own = stored.traceback or (_traceback(value) if ended else None)
            raised = value if isinstance(value, BaseException) else None
            return Failure(stored.result, retries=retries, traceback=own, raised=raised)
        if state == states.REVOKED:
            return Revoked(retries=retries)
        if state == states.RETRY:
            return Retrying(stored.result)
        if state == states.PENDING:
            return Pending()
        if state == states.STARTED:
            return Started()
        return Progress(stored.info, state)

    def _retries(self, task_id: str, state: str) -> int | None:
        """How often a task was retried whose state is stored but whose end isn't yet reported."""
        stored = self._sandbox.journal.states(task_id)
        return stored[-1].retries if stored and stored[-1].state == state else None


def _names(carried: Any, ids: set[str]) -> bool:
    """Whether a signature inside a message will be sent with one of the ids."""
    if isinstance(carried, Mapping):
        return carried.get("task_id") in ids or _names(tuple(carried.values()), ids)
    return isinstance(carried, list | tuple) and any(_names(part, ids) for part in carried)


def _of_ended(ended: Ended) -> Outcome:
    if ended.state in (states.FAILURE, "REJECTED"):
        return Failure(ended.value, retries=ended.retries, traceback=_traceback(ended.value))
    if ended.state == states.REVOKED:
        return Revoked(retries=ended.retries)
    return Success(ended.value, retries=ended.retries)


def _traceback(error: Any) -> str | None:
    if getattr(error, "__traceback__", None) is None:
        return None
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))


@entered
def results() -> Iterator[Results]:
    """Look at the outcomes of a test's tasks; see `Results`.

    Raises:
        AppNotFoundError: The project has no app.
    """
    with entered_sandbox() as sandbox:
        yield Results(sandbox)
