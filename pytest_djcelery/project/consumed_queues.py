"""Which queues the workers of production consume: one rule for every way to run tasks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_djcelery.errors import BadOptionError

if TYPE_CHECKING:
    from celery import Celery
    from kombu import Queue

    from pytest_djcelery.messages.sent_task import SentTask


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumedQueues:
    """Queues that workers consume, as kombu's.

    ``source`` says where that is written down. ``stock``: a worker started without ``-Q`` consumes
    exactly these queues. ``of_worker``: they were given to the worker of this test, whatever
    production has.
    """

    queues: tuple[Queue, ...]
    names: frozenset[str]
    source: str
    stock: bool = False
    of_worker: bool = False

    @property
    def shown(self) -> list[str]:
        """The names that a person gives them: a broadcast queue's own is made up by kombu."""
        return [getattr(queue, "alias", None) or queue.name for queue in self.queues]

    def receives(self, sent: SentTask) -> bool:
        """Whether a message comes to one of them, as far as its exchange and key tell."""
        return sent.queue in self.names or (
            bool(sent.exchange or sent.queue is None)
            and any(comes_to(queue, sent) for queue in self.queues)
        )


def of_project(app: Celery, chosen: Collection[str]) -> ConsumedQueues:
    """What ``djcelery_queues`` says, alone; else what is declared and what static routes name.

    Args:
        app: the project's app.
        chosen: the names that ``djcelery_queues`` or its marker gives.
    """
    declared = _declared(app)
    if chosen:
        return _known(declared, chosen, "djcelery_queues", of_worker=False)
    found = {queue.name: queue for queue in declared.values()}
    stock = len(found)
    for route in _static_routes(app):
        queue = _entity(declared, route)
        if queue is not None:
            found.setdefault(queue.name, queue)
    return ConsumedQueues(
        queues=tuple(found.values()),
        names=frozenset(found),
        source="those that the settings declare, and those that static task_routes name",
        stock=len(found) == stock,
    )


def named(app: Celery, names: Iterable[str], source: str) -> ConsumedQueues:
    """The queues of one worker by their names, as ``celery worker -Q`` takes them."""
    return _known(_declared(app), names, source, of_worker=True)


def _known(declared: Any, names: Iterable[str], source: str, *, of_worker: bool) -> ConsumedQueues:
    queues = [queue for name in names if (queue := _entity(declared, name)) is not None]
    return ConsumedQueues(
        queues=tuple(queues),
        names=frozenset(queue.name for queue in queues),
        source=source,
        of_worker=of_worker,
    )


def check(app: Celery, chosen: Iterable[str]) -> None:
    """Check what ``djcelery_queues`` or its marker gives.

    Raises:
        BadOptionError: a queue that the app does not declare, and may not make.
    """
    __tracebackhide__ = True
    declared = _declared(app)
    missing = [name for name in chosen if _entity(declared, name) is None]
    if missing:
        known = ", ".join(map(repr, declared)) or "none"
        msg = (
            f"djcelery_queues names the queue {missing[0]!r}, which task_queues does not declare, "
            "and task_create_missing_queues is off: `celery worker -Q` would not start.\n"
            f"There are: {known}."
        )
        raise BadOptionError(msg)


def _declared(app: Celery) -> Any:
    """A table of the app's queues as its settings have it.

    Not ``app.amqp.queues``: each message to an unknown queue, and each worker, adds to that.
    """
    return app.amqp.Queues(app.conf.task_queues)


def _entity(declared: Any, queue: Any) -> Queue | None:
    if hasattr(queue, "exchange"):
        found: Queue = queue
        return found
    try:
        found = declared[queue]  # makes it as Celery would, where that is allowed
    except KeyError:
        return None
    return found


def _static_routes(app: Celery) -> Iterator[Any]:
    """The queues that ``task_routes`` name without being asked about a task.

    Private API (``MapRoute.map`` and ``patterns``), checked on Celery 5.4 to 5.7.
    """
    from celery.app.routes import MapRoute

    for router in app.amqp.routes:
        if isinstance(router, MapRoute):
            for route in (*router.map.values(), *router.patterns.values()):
                queue = route.get("queue") if isinstance(route, Mapping) else route
                if isinstance(route, (list, tuple)):
                    queue = dict(route).get("queue")
                if queue:
                    yield queue


def comes_to(queue: Any, sent: SentTask) -> bool:
    """Whether a message goes to a queue, as far as its exchange and routing key tell."""
    if not sent.exchange:
        return bool(queue.name == sent.routing_key)
    bindings = [(queue.exchange, queue.routing_key), *queue.bindings]
    return any(
        exchange.name == sent.exchange and (exchange.type != "direct" or key == sent.routing_key)
        for exchange, key in (
            (binding.exchange, binding.routing_key) if hasattr(binding, "exchange") else binding
            for binding in bindings
        )
    )
