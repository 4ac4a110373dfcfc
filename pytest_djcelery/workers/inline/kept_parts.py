"""What is kept of an inline worker for that of the next test: a connection, and Celery's consumer.

They are made from the app's settings alone and take a third of a short test to make. They are used
again only while they would be made in the same way, and only if the test has left them as they
were. Strategies and tracers are never kept: they are built from the task as a test finds it.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from pytest_djcelery.session.session import current_session
from pytest_djcelery.workers.boot import starts_project_code
from pytest_djcelery.workers.inline.consumer_in_place import InlineConsumer

if TYPE_CHECKING:
    from pytest_djcelery.project.isolation import Project
    from pytest_djcelery.workers.inline.consumer_in_place import InPlaceWorker

_LOGGER = logging.getLogger("celery.worker.consumer.consumer")


class InlineParts:
    """A connection to the broker in memory, with a channel, and a consumer.

    Args:
        project: The project whose app is connected.
        worker: The worker that they are made for.
    """

    def __init__(self, project: Project, worker: InPlaceWorker) -> None:
        self._of = _read(project, worker)
        self._free = False  # for another worker
        self._stack = ExitStack()
        with ExitStack() as stack:
            self.connection = stack.enter_context(project.app.connection_for_read())
            self.consumer = InlineConsumer(worker, self.connection)
            self.channel = self.connection.channel()
            self.channel.qos.restore_at_shutdown = False  # done by the worker, and silently
            self._stack = stack.pop_all()

    def fit(self, project: Project, worker: InPlaceWorker) -> bool:
        """Whether they are free, and would be made in the same way now."""
        return self._free and self._of == _read(project, worker) and not self.channel.closed

    def serve(self, worker: InPlaceWorker) -> None:
        """Become the parts of another worker."""
        self._free = False
        self.consumer.serve(worker)

    def give_back(self, *, used_up: bool) -> None:
        """Keep them for the next worker, unless they are not as they were made.

        Args:
            used_up: Whether the worker has done more with them than to deliver messages.
        """
        left = self.channel.qos._delivered or self.channel._consumers or self.channel._queue_of
        self._free = self.consumer.put_back() and not (used_up or left)
        if not self._free:
            self.close()

    def close(self) -> None:
        """Close the connection."""
        self._free = False
        self._stack.close()


def _read(project: Project, worker: InPlaceWorker) -> tuple[Any, ...]:
    """What the parts are made from."""
    app = project.app
    return (
        app,
        app.amqp,
        worker.hostname,
        project.broker,
        dict(app.conf.maps[0]),
        _LOGGER.isEnabledFor(logging.INFO),
    )


def parts_for(project: Project, worker: InPlaceWorker) -> InlineParts:
    """The parts of a worker: those of an earlier one, or new ones."""
    session = current_session()
    kept = session.kept_beside_patches
    # The project's boot steps and receivers get to see a worker that starts.
    if (
        isinstance(kept, InlineParts)
        and not starts_project_code(project.app)
        and kept.fit(project, worker)
    ):
        kept.serve(worker)
        return kept
    parts = InlineParts(project, worker)
    session.keep_beside_patches(parts)
    return parts
