"""Record what is published, run and looked at, by Celery's own signals where it has one.

Eager calls have none, so `Task.apply`, in which all of them end, is wrapped: by a function that
passes everything on as it came. Checked on Celery 5.4 to 5.7.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from pytest_djcelery import locations
from pytest_djcelery.audit.recorder import Sent, Taken
from pytest_djcelery.messages.journal import Ended, Looked, RaisedElsewhere
from pytest_djcelery.patching import replaced
from pytest_djcelery.recording.result_looks import watched_results

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pytest_djcelery.audit.recorder import Recorder

# What keeps Celery going, and is no work of the project's; of `celery.app.builtins`, and the ping
# of `celery.contrib.testing`.
_UPKEEP = frozenset(
    f"celery.{name}" for name in ("accumulate", "backend_cleanup", "chord_unlock", "ping")
)
_MAPS = frozenset({"celery.map", "celery.starmap", "celery.chunks"})


@contextmanager
def signals_recorded(recorder: Recorder) -> Iterator[None]:
    """Record messages that leave for a broker, and what workers of this process make of them."""
    from celery import signals

    # It imports Celery, which the suite has imported by now.
    from pytest_djcelery.recording.task_signals import signals_connected

    def about_to_publish(sender: str, body: Any, headers: Any, **_: Any) -> None:
        with recorder.errors_kept():
            if not recorder.quiet and sender not in _UPKEEP:
                recorder.judge(_message(recorder, sender, body, headers))

    def published(sender: str, body: Any, headers: Any, **_: Any) -> None:
        with recorder.errors_kept():
            if not recorder.quiet and sender not in _UPKEEP:
                recorder.append(_message(recorder, sender, body, headers))

    def received(request: Any, **_: Any) -> None:
        recorder.append(Taken(task_id=request.id))

    def started(task_id: str, **_: Any) -> None:
        recorder.append(Taken(task_id=task_id))

    with ExitStack() as stack:
        stack.enter_context(signals_connected(recorder))
        for signal, receiver in (
            (signals.task_received, received),
            (signals.task_prerun, started),
            (signals.before_task_publish, about_to_publish),
            (signals.after_task_publish, published),
        ):
            signal.connect(receiver, weak=False, dispatch_uid=recorder)
            stack.callback(signal.disconnect, dispatch_uid=recorder)
        yield


def _message(recorder: Recorder, name: str, body: Any, headers: Any) -> Sent:
    if isinstance(body, tuple):
        args, kwargs, task_id = body[0], body[1], headers.get("id")
    else:  # the first protocol keeps everything in the body
        args, kwargs, task_id = body["args"], body["kwargs"], body["id"]
    task, args, kwargs = _mapped(name, args, kwargs)
    return Sent(
        task=task,
        args=args,
        kwargs=kwargs,
        id=task_id,
        location=recorder.caller(),
        way="broker",
    )


def _mapped(name: str, args: Any, kwargs: Any) -> tuple[str, Any, Any]:
    """The task that `Task.map`, ``starmap`` and ``chunks`` call, with all values of each argument.

    Celery has built-in tasks for them (`celery.app.builtins`); checked on Celery 5.4 to 5.7.
    """
    task, items = kwargs.get("task"), kwargs.get("it")
    if name not in _MAPS or not isinstance(task, dict) or not isinstance(items, list | tuple):
        return name, args, kwargs
    if name == "celery.map":
        return task["task"], (items,), {}
    calls = [item for item in items if isinstance(item, list | tuple)]
    return task["task"], tuple(zip_longest(*calls)), {}


@contextmanager
def eager_runs_recorded(recorder: Recorder) -> Iterator[None]:
    """Record eager runs, both those in place of a publish and those of a test's own ``apply()``."""
    from celery.app.task import Task

    original = vars(Task)["apply"]

    def apply(self: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if recorder.quiet:
            return original(self, *args, **kwargs)
        with recorder.errors_kept():
            frame = locations.publishing_frame()
            if frame is not None and self.name not in _UPKEEP:
                task, given, named = _mapped(
                    self.name,
                    _argument(args, kwargs, 0, "args") or (),
                    _argument(args, kwargs, 1, "kwargs") or {},
                )
                sent = Sent(
                    task=task,
                    args=given,
                    kwargs=named,
                    location=recorder.caller(frame),
                    way="eager",
                )
                if locations.passes_by(frame, self):
                    recorder.journal.append(sent)
                else:
                    recorder.judge_and_append(sent)
        since = len(recorder.journal)
        with recorder.eager_task():
            try:
                return original(self, *args, **kwargs)
            except BaseException:
                # The caller has seen what failed: it was raised to it.
                for ended in list(recorder.journal.events(Ended, since)):
                    if ended.eager:
                        recorder.append(Looked(task_id=ended.task_id))
                raise

    with replaced(Task, apply=apply):
        yield


def _argument(args: Any, kwargs: Any, place: int, name: str) -> Any:
    return args[place] if len(args) > place else kwargs.get(name)


@contextmanager
def results_recorded(recorder: Recorder) -> Iterator[None]:
    """Record which outcomes a test has read."""
    with watched_results(_Looks(recorder), recorder.suite):
        yield


class _Looks:
    """What `watched_results` reports to."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def looked(self, task_ids: Iterable[str]) -> None:
        """Note what the test has read."""
        with self._recorder.errors_kept():
            if not self._recorder.quiet:
                for task_id in task_ids:
                    self._recorder.append(Looked(task_id=task_id))

    def raised_elsewhere(self, task_ids: Iterable[str], error: BaseException) -> None:
        """Note what was raised to code that is not the test's."""
        with self._recorder.errors_kept():
            self._recorder.append(RaisedElsewhere(task_ids=tuple(task_ids), error=error))


#: Listeners, by the module whose import they wait for.
BY_MODULE: dict[str, Callable[[Recorder], Any]] = {
    "celery.signals": signals_recorded,
    "celery.app.task": eager_runs_recorded,
    "celery.result": results_recorded,
}
