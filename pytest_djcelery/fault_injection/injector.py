"""Makes the faults of a test happen: in the runs of their tasks, at publishes, at results."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from celery.signals import task_success

from pytest_djcelery.fault_injection.run_faults import (
    CURRENT_RUN,
    AtCall,
    Duplicated,
    Run,
    RunFault,
    Stub,
    registered,
)
from pytest_djcelery.recording.losses import body_in_process, losses_possible
from pytest_djcelery.recording.outages import outages_possible
from pytest_djcelery.recording.task_bodies import body_wrapped

if TYPE_CHECKING:
    from celery import Celery

    from pytest_djcelery.fault_injection.fault import Downtime, Fault
    from pytest_djcelery.messages.sent_task import SentTask
    from pytest_djcelery.recording.task_bodies import OnCall
    from pytest_djcelery.session.sandbox import Sandbox


class Injector:
    """The faults of a test, in the order in which they were set.

    Args:
        sandbox: The sandbox of the test.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._faults: dict[str, list[Fault]] = defaultdict(list)  # by the name of the task
        self._brokers: list[Downtime] = []
        self._results: list[Downtime] = []
        self._duplicated: dict[str, Fault] = {}  # by the id of the running task
        self._users = 0
        self._stack = ExitStack()
        self._prepared: set[str] = set()

    @contextmanager
    def used(self) -> Iterator[Injector]:
        """Keep its faults as long as any block uses it."""
        self._users += 1
        try:
            yield self
        finally:
            self._users -= 1
            if not self._users:
                self._faults.clear()
                self._brokers, self._results = [], []
                self._prepared.clear()
                self._stack.close()

    # Setting ------------------------------------------------------------------------------

    def add(self, fault: Fault) -> None:
        """Make a fault happen in the runs of its task, after those that were set before."""
        target = fault.target
        assert target is not None  # noqa: S101 - for the type checker
        self._once(target.name, partial(registered, self._sandbox.app, target.name))
        task = self._sandbox.app.tasks[target.name]
        self._once(f"body of {target.name}", lambda: body_wrapped(task, partial(self._run, task)))
        self._once("losses", losses_possible)
        if isinstance(fault, Duplicated):
            self._once("successes", self._successes_noted)
        self._faults[target.name].append(fault)

    def add_downtime(self, fault: Downtime, *, of_results: bool) -> None:
        """Make the broker, or the result backend, unreachable."""
        self._once(
            "outages", partial(outages_possible, publish=self._publish, result=self._use_result)
        )
        (self._results if of_results else self._brokers).append(fault)

    def _once(self, what: str, change: Callable[[], Any]) -> None:
        if what not in self._prepared:
            self._stack.enter_context(change())
            self._prepared.add(what)

    # Happening ----------------------------------------------------------------------------

    def _run(
        self, task: Any, body: Callable[[], Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        __tracebackhide__ = True
        waiting = [fault for fault in self._faults[task.name] if fault.awaits(args, kwargs)]
        if not waiting:
            return body()
        request = task.request
        if request.called_directly or request.is_eager:
            return body()
        run = Run(task=task, request=request)
        stub = self._choose(run, waiting)
        call = body if stub is None else partial(self._stand_in, stub, run, body, args, kwargs)
        token = CURRENT_RUN.set(run)
        try:
            if not isinstance(run.fault, RunFault):
                return call()
            return body_in_process(partial(run.fault.around, run, call))
        finally:
            CURRENT_RUN.reset(token)

    def _choose(self, run: Run, waiting: Sequence[Fault]) -> Stub | None:
        """Find whose turn it is in a run, and the stand-in for its body."""
        stub: Stub | None = None
        sent: SentTask | None = None
        looked = False
        for fault in waiting:
            if fault.takes_turns and run.fault is not None:
                continue
            if fault.target is not None and fault.target.is_call:
                if not looked:
                    sent, looked = self._sent(run), True
                if not fault.target.takes(sent):
                    continue
            if isinstance(fault, Stub):
                stub = fault
            elif not isinstance(fault, Duplicated):
                run.fault = fault
            elif not (run.request.delivery_info or {}).get("redelivered"):
                run.fault = self._duplicated[run.request.id] = fault
        return stub

    def _stand_in(
        self, stub: Stub, run: Run, body: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        __tracebackhide__ = True
        return stub.called(_bare(run.task), args, kwargs, self._sent(run))

    def _sent(self, run: Run) -> SentTask | None:
        """The record of the message that a run is of: an id has one for each attempt."""
        sent = self._sandbox.journal.sent(run.request.id)
        retries = run.request.retries or 0
        found = [message for message in sent if message.retries == retries]
        return found[-1] if found else next(iter(sent), None)

    def on_call(self, fault: AtCall) -> OnCall | None:
        """What a call of a function does in the present run, if it is this fault's turn."""
        run = CURRENT_RUN.get()
        if run is None or run.fault is not fault or not fault.waits:
            return None
        return partial(fault.called, run)

    @contextmanager
    def _successes_noted(self) -> Iterator[None]:
        task_success.connect(self._succeeded, weak=False, dispatch_uid=self)
        try:
            yield
        finally:
            task_success.disconnect(dispatch_uid=self)

    def _succeeded(self, sender: Any, **_: Any) -> None:
        task_id = sender.request.id
        fault = self._duplicated.pop(task_id, None)
        runner = self._sandbox.runner
        if fault is not None and runner is not None and fault.uses_up(task_id):
            runner.deliver_again(task_id)

    def _publish(self, sent: SentTask) -> None:
        for fault in self._brokers:
            if fault.uses_up(sent.id):
                raise fault.error("broker", f"{sent.task} was not sent")

    def _use_result(self, app: Celery, task_id: str, what: str) -> None:
        if not self._sandbox.project.knows(app):
            return
        for fault in self._results:
            if fault.uses_up(task_id):
                at = "nothing was read" if what == "read" else f"{what} was not stored"
                raise fault.error("result backend", f"{at} for {task_id}")


def _bare(task: Any) -> Callable[..., Any]:
    """The function that stands for a task's body, whose parameters a call must fit."""
    wrapped: Any = getattr(task, "_orig_run", task.run)
    body: Callable[..., Any] = getattr(wrapped, "__wrapped__", wrapped)
    return body


_injectors: WeakKeyDictionary[Sandbox, Injector] = WeakKeyDictionary()


def injector_of(sandbox: Sandbox) -> Injector:
    """The injector of a test."""
    found = _injectors.get(sandbox)
    if found is None:
        found = _injectors.setdefault(sandbox, Injector(sandbox))
    return found
