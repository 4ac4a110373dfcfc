"""Workers that are kept from test to test: the session asks of them what it can't ask of a test.

A module that keeps a worker registers it here, so that the session need not know which kinds of
worker there are.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_djcelery.brokers.memory.queues import Topology


class HeldWorker:
    """What is asked of a worker that outlives its test. The defaults suit one that has no test."""

    #: Whether it is a thread of this process, and has changed what the process had.
    is_thread = False

    @property
    def serves_session(self) -> bool:
        """Whether it runs what session fixtures send."""
        return False

    def park(self) -> None:
        """As a test begins: leave its messages alone until it asks for the worker."""

    def serve_session_fixtures(self) -> None:
        """Before a test's fixtures are set up: consume, if a session fixture wants it."""

    def topology(self) -> Topology | None:
        """What it has declared in the broker in memory, which a clean broker keeps."""
        return None

    def stop(self) -> None:
        """End the worker, if there is one."""


_held: dict[HeldWorker, None] = {}  # in the order in which they were first kept


def hold(worker: HeldWorker) -> None:
    """Have a worker asked from now on."""
    _held[worker] = None


def park_all() -> None:
    """Keep every worker from what the coming test publishes."""
    for worker in _held:
        worker.park()


def serve_session_fixtures() -> None:
    """Let the session's worker consume."""
    for worker in _held:
        worker.serve_session_fixtures()


def serves_session() -> bool:
    """Whether a worker runs what session fixtures send."""
    return any(worker.serves_session for worker in _held)


def kept_topology() -> Topology | None:
    """What a clean broker in memory keeps."""
    return next((kept for worker in _held if (kept := worker.topology()) is not None), None)


def stop_all() -> None:
    """End every worker, also where ending one of them fails."""
    with ExitStack() as stack:
        for worker in _held:
            stack.callback(worker.stop)


def stop_threads() -> None:
    """End those that are threads of this process; one of other processes changes nothing here."""
    with ExitStack() as stack:
        for worker in _held:
            if worker.is_thread:
                stack.callback(worker.stop)


def stop_others(than: HeldWorker) -> None:
    """End every worker but one: two of one name can't be on one broker."""
    for worker in _held:
        if worker is not than:
            worker.stop()
