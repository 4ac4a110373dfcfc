"""One embedded worker for the process, used by one test after another.

Between tests it is parked: it takes no message and holds no connection. What a test changed
beyond that (another queue, another pool size) ends it, and the next test starts a new one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from pytest_djcelery.brokers import servers
from pytest_djcelery.errors import WorkerError
from pytest_djcelery.project.consumed_queues import is_routed_to
from pytest_djcelery.session.runner import KeptWorker, keep, stop_others
from pytest_djcelery.session.session import current_session
from pytest_djcelery.workers.embedded.embedded_worker import EmbeddedWorker
from pytest_djcelery.workers.sqlite import threads_in_turns
from pytest_djcelery.workers.unfinished import check_worker_unless_reported, not_ended

if TYPE_CHECKING:
    from pytest_djcelery.brokers.memory.queues import Topology
    from pytest_djcelery.messages.journal import Journal
    from pytest_djcelery.project.isolation import Project
    from pytest_djcelery.session.sandbox import Sandbox
    from pytest_djcelery.workers.embedded.embedded_worker import WorkerSettings


class _Kept(KeptWorker):
    """The embedded worker that is kept, and what it was started for."""

    is_thread = True
    worker: EmbeddedWorker | None = None
    wanted: Any = None
    for_session = False

    def park(self) -> None:
        if self.worker is not None and self.worker.alive and self.worker.transport_parks:
            self.worker.park()

    @property
    def serves_session(self) -> bool:
        return self.for_session and self.worker is not None and self.worker.alive

    @property
    def takes_messages(self) -> bool:
        worker = self.worker
        return worker is not None and worker.alive and not worker.is_parked

    def serve_session_fixtures(self) -> None:
        if self.worker is not None and self.serves_session:
            self.worker.unpark()

    def topology(self) -> Topology | None:
        return self.worker.topology if self.worker else None

    def drop(self) -> None:
        """Abandon the worker, whatever it is doing."""
        worker, self.worker = self.worker, None
        if worker is not None:
            worker.abandon()

    def stop(self) -> None:
        worker, self.worker = self.worker, None
        self.for_session = False
        if worker is not None:
            worker.stop()


_kept = _Kept()


def _wanted(project: Project, settings: WorkerSettings) -> Any:
    """What a worker must have been started for to serve a test."""
    changes = project.app.conf.maps[0].items()
    # A starting worker lists all task modules in ``include``.
    relevant = sorted((str(key), repr(value)) for key, value in changes if key != "include")
    return project.virtual_host, repr(settings), relevant


def start(project: Project, settings: WorkerSettings, wake: Callable[[], None]) -> EmbeddedWorker:
    """Return the kept worker if it suits, or start a new one.

    Raises:
        WorkerError: A new worker doesn't start.
    """
    wanted = _wanted(project, settings)
    worker = _kept.worker
    if worker is not None and worker.alive and _kept.wanted == wanted:
        return worker
    _kept.stop()
    keep(_kept)
    if project.broker is None:
        stop_others(_kept)
        servers.check_broker(project.app)
    worker = EmbeddedWorker(
        project.app,
        settings,
        timeout=project.options.timeout,
        wake=wake,
        surroundings=current_session().surroundings,
    )
    worker.start()
    _kept.worker, _kept.wanted = worker, wanted
    return worker


@contextmanager
def embedded_worker_for(sandbox: Sandbox, settings: WorkerSettings) -> Iterator[EmbeddedWorker]:
    """Have a worker that consumes within the ``with``.

    Raises:
        WorkerError: It doesn't start, or a task still runs when the time for it is over.
    """
    with ExitStack() as stack:
        # Half the time that the test waits for the task, so that the test gets to see this error.
        turns = stack.enter_context(threads_in_turns(sandbox.options.timeout / 2))
        sandbox.watch.around_hook = turns
        worker = start(sandbox.project, settings, sandbox.journal.wake)
        worker.wake = sandbox.journal.wake
        worker.note = sandbox.journal.note
        worker.outstanding = lambda: _outstanding(sandbox.journal, worker.queues)
        worker.unpark()
        try:
            yield worker
        except KeyboardInterrupt:
            _end(worker)
            raise
        finally:
            if _kept.worker is worker:
                _give_back(sandbox, worker)


def _outstanding(journal: Journal, queues: list[Any]) -> bool:
    """Whether a message that is due, and goes to one of the queues, has not been run yet."""
    now = datetime.now(timezone.utc)
    return any(
        (sent.eta is None or sent.eta <= now) and any(is_routed_to(queue, sent) for queue in queues)
        for sent in not_ended(journal)
    )


def _give_back(sandbox: Sandbox, worker: EmbeddedWorker) -> None:
    __tracebackhide__ = True
    if current_session().interrupted:
        _end(worker)
    elif not worker.alive:
        _kept.drop()
        check_worker_unless_reported(sandbox, worker)
    elif not sandbox.journal.wait_until(lambda: worker.idle, sandbox.options.timeout):
        stuck = worker.describe_busy()
        _kept.drop()
        msg = (
            f"A task still runs {sandbox.options.timeout:g} s after the test; {stuck}\n"
            "Its thread is left behind; the next test starts a new worker. "
            "Wait for the task in the test, or raise djcelery_timeout."
        )
        raise WorkerError(msg)
    elif worker.transport_parks and worker.as_started:
        worker.park()
    else:
        _kept.stop()


def _end(worker: EmbeddedWorker) -> None:
    """End a worker without waiting for its task, if it runs one."""
    if worker.idle:
        _kept.stop()
    else:
        _kept.drop()


def keep_for_session() -> None:
    """Have the kept worker serve session fixtures too, from now on."""
    _kept.for_session = True
    _kept.serve_session_fixtures()


def kept_controller() -> Any:
    """Celery's `WorkController` of the kept worker; ``None`` if none is kept."""
    return _kept.worker and _kept.worker.controller


def stop() -> None:
    """Stop the kept worker, if there is one."""
    _kept.stop()
