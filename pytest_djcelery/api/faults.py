"""``celery_faults``: what production does to tasks, on purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import EllipsisType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pytest_djcelery.api.live_worker import LiveWorker
from pytest_djcelery.errors import BadOptionError, FaultNotFiredError
from pytest_djcelery.fault_injection.fault import Downtime, Fault, not_fired_text
from pytest_djcelery.fault_injection.injector import Injector, injector_of
from pytest_djcelery.fault_injection.run_faults import (
    UNSET,
    AtCall,
    Duplicated,
    Raised,
    Stub,
    TimedOut,
    WorkerIsLost,
)
from pytest_djcelery.fault_injection.targets import (
    FUNCTION,
    at_text,
    check_choice,
    check_exception,
    exception_text,
    target_of,
)
from pytest_djcelery.recording.batches import is_batch
from pytest_djcelery.recording.task_bodies import CallSite
from pytest_djcelery.session.opening import entered, entered_sandbox
from pytest_djcelery.workers.live.losing import Kill

if TYPE_CHECKING:
    from celery.app.task import Task
    from celery.canvas import Signature

    from pytest_djcelery.fault_injection.targets import Target
    from pytest_djcelery.session.sandbox import Sandbox

    _Selected: TypeAlias = Task[Any, Any] | Signature | str
    _Raises: TypeAlias = BaseException | type[BaseException]
    _At: TypeAlias = Callable[..., Any] | str


class Faults:
    """Makes things go wrong for tasks, as they do in production.

    The fixture ``celery_faults`` and the context manager `faults` give one. Each method sets a
    fault and returns a `Fault`: ``fired`` is how often it has happened, ``cancel()`` ends it, and
    in a ``with`` statement it lasts for the block. Faults on one task are used in the order in
    which they were set. One that never happens fails the test, unless it is ``optional``.

    A task is given as itself, by its name, or as a signature (``charge.s(order.pk)``), which means
    only the runs whose call equals it.
    """

    def __init__(self, sandbox: Sandbox, injector: Injector) -> None:
        self._sandbox = sandbox
        self._injector = injector
        self._faults: list[Fault] = []
        self._fired: list[Fault] = []

    @property
    def fired(self) -> tuple[Fault, ...]:
        """The faults that have happened, in order, one entry for each time."""
        return tuple(self._fired)

    def __repr__(self) -> str:
        return f"<celery_faults: {', '.join(map(repr, self._faults)) or 'none is set'}>"

    # In a run -----------------------------------------------------------------------------

    def fail(
        self,
        task: _Selected,
        exc: _Raises,
        *,
        times: int | None = 1,
        when: Literal["before", "after"] = "before",
        optional: bool = False,
    ) -> Fault:
        """Have the next runs of a task raise an exception, inside the task's own ``run``.

        So ``autoretry_for``, back-off, ``on_failure``, error links and acknowledgement see what
        they would see.

        Args:
            task: The task, its name, or a signature of it.
            exc: What is raised: an exception, or its class.
            times: In how many runs; ``None`` for each.
            when: ``"before"`` the body of the task, or ``"after"`` it: what it did stands.
            optional: Whether it need not happen.

        Raises:
            BadOptionError: An argument is not as described above, or the tasks run eagerly.
        """
        __tracebackhide__ = True
        target = self._target("fail", task)
        check_exception(f"celery_faults.fail({target.text}, …)", exc)
        call = f"celery_faults.fail({target.text}, {exception_text(exc)})"
        check_choice(call, "when", when, ("before", "after"))
        fault = Raised(self._sandbox, call, target, times=times, optional=optional)
        fault.exception, fault.after = exc, when == "after"
        return self._set(fault)

    def stub(
        self,
        task: _Selected,
        *,
        returns: Any = UNSET,
        raises: _Raises = UNSET,
        side_effect: Any = UNSET,
    ) -> Stub:
        """Put a stand-in in the place of a task's body; its options are those of `unittest.mock`.

        With none of them it returns ``None``; that of a bound task gets no ``self``. A task that
        is not registered here, since another service has it, is registered by its name for this
        test. Calls are checked as usual: a message whose arguments don't fit the task fails.

        Args:
            task: The task, its name, or a signature of it.
            returns: What it returns.
            raises: What it raises: an exception, or its class.
            side_effect: A function that is called with the arguments, an exception, or values to
                return in turn.

        Returns:
            The stand-in, whose ``calls`` are the messages that it took.

        Raises:
            BadOptionError: Two of them contradict each other, ``raises`` is no exception, or the
                tasks run eagerly.
        """
        __tracebackhide__ = True
        target = self._target("stub", task, unknown=True)
        call = f"celery_faults.stub({target.text})"
        if raises is not UNSET:
            check_exception(call, raises)
            if returns is not UNSET or side_effect is not UNSET:
                msg = (
                    f"{call}: raises and {'returns' if returns is not UNSET else 'side_effect'} "
                    "can't both be so. Expected one of them; side_effect=[ValueError, 'fine'] "
                    "raises first, then returns."
                )
                raise BadOptionError(msg)
            side_effect = raises
        stub = Stub(self._sandbox, call, target, times=None, optional=True)
        self._set(stub.returning(returns, side_effect))
        return stub

    def time_out(
        self,
        task: _Selected,
        *,
        at: _At = "start",
        times: int | None = 1,
        soft: bool = True,
        optional: bool = False,
    ) -> Fault:
        """Make a time limit expire in the next runs of a task, without any time passing.

        Args:
            task: The task, its name, or a signature of it.
            at: ``"start"``, before the body, or a function that the task calls: the call doesn't
                return, and the function doesn't run.
            times: In how many runs; ``None`` for each.
            soft: Raise ``SoftTimeLimitExceeded`` there, for the body's own ``except``. ``False``
                ends the run as the hard limit does.
            optional: Whether it need not happen.

        Raises:
            BadOptionError: An argument is not as described above, or the tasks run eagerly.
        """
        __tracebackhide__ = True
        target = self._target("time_out", task)
        call = f"celery_faults.time_out({target.text}{at_text(at)})"
        if not callable(at):
            check_choice(call, "at", at, ("start",), FUNCTION)
        fault = TimedOut(self._sandbox, call, target, times=times, optional=optional)
        fault.soft = bool(soft)
        return self._set_at(fault, call, at)

    def lose_worker(
        self,
        task: _Selected,
        *,
        at: _At = "start",
        times: int | None = 1,
        host: bool = False,
        optional: bool = False,
    ) -> Fault:
        """Lose the process that runs a task, as if it had been killed.

        What follows is what Celery does under prefork for that task's ``acks_late``,
        ``reject_on_worker_lost`` and so on. Open transactions are rolled back, and their hooks
        discarded; what was committed stays.

        Args:
            task: The task, its name, or a signature of it.
            at: ``"start"``, before the body; ``"end"``, after it and before its outcome is stored;
                or a function that the task calls: when it has returned.
            times: In how many runs; ``None`` for each.
            host: The whole worker is gone with its connection: what it had not acknowledged is
                delivered again, what it had is lost, and no handler runs.
            optional: Whether it need not happen.

        Raises:
            BadOptionError: An argument is not as described above, or the tasks run eagerly.
        """
        __tracebackhide__ = True
        target = self._target("lose_worker", task)
        call = f"celery_faults.lose_worker({target.text}{at_text(at)}{', host=True' * bool(host)})"
        if not callable(at):
            check_choice(call, "at", at, ("start", "end"), FUNCTION)
        if isinstance(self._sandbox.runner, LiveWorker):
            killed = Fault(self._sandbox, call, target, times=times, optional=optional)
            return self._keep(self._kill(self._sandbox.runner, killed, at, times, host=host))
        fault = WorkerIsLost(self._sandbox, call, target, times=times, optional=optional)
        fault.host, fault.at_end = bool(host), at == "end"
        return self._set_at(fault, call, at)

    def duplicate(self, task: _Selected, *, times: int | None = 1, optional: bool = False) -> Fault:
        """Have the broker deliver a message once more after a run that succeeded.

        The second delivery is marked as ``redelivered``, and is not duplicated again.

        Args:
            task: The task, its name, or a signature of it.
            times: How many messages; ``None`` for each.
            optional: Whether it need not happen.

        Raises:
            BadOptionError: An argument is not as described above, or the tasks run eagerly.
        """
        __tracebackhide__ = True
        target = self._target("duplicate", task)
        call = f"celery_faults.duplicate({target.text})"
        return self._set(Duplicated(self._sandbox, call, target, times=times, optional=optional))

    # Servers ------------------------------------------------------------------------------

    def broker_down(
        self, *, times: int | EllipsisType | None = ..., optional: bool = False
    ) -> Fault:
        """Have publishing raise kombu's ``OperationalError``, as after Celery's retries.

        Args:
            times: For how many messages; ``None`` until it is cancelled. By default for one, and
                in a ``with`` statement for the block.
            optional: Whether it need not happen.

        Raises:
            BadOptionError: ``times`` is not such a number, or the tasks run eagerly.
        """
        __tracebackhide__ = True
        return self._set_down("broker_down", times, optional=optional)

    def results_down(
        self, *, times: int | EllipsisType | None = ..., optional: bool = False
    ) -> Fault:
        """Have each storing of a state, and each reading, raise kombu's ``OperationalError``.

        Args:
            times: For how many of them; ``None`` until it is cancelled. By default for one, and
                in a ``with`` statement for the block.
            optional: Whether it need not happen.

        Raises:
            BadOptionError: ``times`` is not such a number, or the tasks run eagerly.
        """
        __tracebackhide__ = True
        return self._set_down("results_down", times, optional=optional)

    # Setting ------------------------------------------------------------------------------

    def _set_down(self, method: str, times: int | EllipsisType | None, *, optional: bool) -> Fault:
        __tracebackhide__ = True
        self._refuse_eager(method)
        call = f"celery_faults.{method}()"
        fault = Downtime(self._sandbox, call, times=times, optional=optional)
        self._injector.add_downtime(fault, of_results=method == "results_down")
        return self._keep(fault)

    def _target(self, method: str, task: _Selected, *, unknown: bool = False) -> Target:
        __tracebackhide__ = True
        self._refuse_eager(method)
        runner = self._sandbox.runner
        if runner is not None and not runner.in_process and method != "lose_worker":
            msg = (
                f"celery_faults.{method}(): {runner.name} runs the tasks in other processes, where "
                "only lose_worker() can be had, as a real kill. Use celery_inline or celery_worker."
            )
            raise BadOptionError(msg)
        app = self._sandbox.app
        target = target_of(app, f"celery_faults.{method}()", task, unknown=unknown)
        if is_batch(app.tasks.get(target.name)):
            msg = (
                f"celery_faults.{method}({target.text}): the task takes its messages in batches "
                "(celery-batches), so a run is not of one message, and no fault can be had in it.\n"
                "Replace what it calls by a mock."
            )
            raise BadOptionError(msg)
        return target

    def _refuse_eager(self, method: str) -> None:
        __tracebackhide__ = True
        if self._sandbox.app.conf.task_always_eager:
            msg = (
                f"celery_faults.{method}(): the tasks of this test run eagerly, inside delay(), so "
                "no worker, broker or redelivery takes part.\n"
                "Use celery_inline, or @pytest.mark.celery_inline(auto=True) in place of eager "
                "mode."
            )
            raise BadOptionError(msg)

    def _set_at(self, fault: AtCall, call: str, at: _At) -> Fault:
        __tracebackhide__ = True
        if callable(at):
            fault.site = CallSite(call, at, partial(self._injector.on_call, fault))
        return self._set(fault)

    def _kill(
        self, worker: LiveWorker, fault: Fault, at: _At, times: int | None, *, host: bool
    ) -> Fault:
        __tracebackhide__ = True
        if worker.processes.settings.pool != "prefork":
            pool = worker.processes.settings.pool
            msg = (
                f"{fault.call}: celery_live_worker has the pool {pool!r}, where tasks run in the "
                "worker's own process. Expected 'prefork', whose children can be killed."
            )
            raise BadOptionError(msg)
        target = fault.target
        assert target is not None  # noqa: S101 - for the type checker
        kill = Kill(
            number=fault.number, text=fault.call, task=target.name, at=at, host=bool(host),
            times=times, call=target.call,
        )  # fmt: skip
        try:
            worker.processes.set_kill(kill, fault.uses_up)
        except TypeError as error:
            msg = (
                f"{fault.call}: celery_live_worker runs the task in another process, to which this "
                f"can't be sent: {error}\nUse a function of a module, or celery_worker."
            )
            raise BadOptionError(msg) from None
        return fault.ended_by(partial(worker.processes.end_kill, fault.number))

    def _set(self, fault: Fault) -> Fault:
        self._injector.add(fault)
        return self._keep(fault)

    def _keep(self, fault: Fault) -> Fault:
        self._faults.append(fault.reported_to(self._fired.append))
        return fault

    # The end ------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise an error if a fault never happened.

        Raises:
            FaultNotFiredError: One didn't; the text has the line that set it, and what ran instead.
        """
        __tracebackhide__ = True
        missing = [fault for fault in self._faults if fault.is_missing]
        if missing:
            raise FaultNotFiredError(not_fired_text(missing))

    def end(self) -> None:
        """End all that are set."""
        for fault in reversed(self._faults):
            fault.end()


@entered
def faults(*, whole_test: bool = False) -> Iterator[Faults]:
    """Make things go wrong for tasks in a part of a test; see `Faults`.

    At the end of the ``with`` all faults are over.

    Args:
        whole_test: Leave it to the end of the test to check that each has happened; the fixture
            does.

    Raises:
        FaultNotFiredError: One never happened, and no other error ends the block.
        AppNotFoundError: The project has no app.
    """
    __tracebackhide__ = True
    with entered_sandbox() as sandbox, injector_of(sandbox).used() as injector:
        found = Faults(sandbox, injector)
        if whole_test:
            sandbox.last_checks.append(found.check)
        try:
            yield found
            if not whole_test:
                sandbox.settle()
                found.check()
        finally:
            found.end()
            if whole_test:
                sandbox.last_checks.remove(found.check)
