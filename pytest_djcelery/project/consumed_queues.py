"""Which queues production's workers consume: one rule for every way to run tasks."""

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
    """The queues that workers consume, as kombu's objects.

    ``source`` says where this is specified. ``stock`` means that a worker started without ``-Q``
    consumes exactly these queues, ``of_worker`` that they were given to this test's worker,
    whatever production has.
    """

    queues: tuple[Queue, ...]
    names: frozenset[str]
    source: str
    stock: bool = False
    of_worker: bool = False

    @property
    def shown(self) -> list[str]:
        """The names that people know: kombu makes up the name of a broadcast queue."""
        return [getattr(queue, "alias", None) or queue.name for queue in self.queues]

    def receives(self, sent: SentTask) -> bool:
        """Whether a message is routed to one of them, judged by its exchange and key."""
        return sent.queue in self.names or (
            bool(sent.exchange or sent.queue is None)
            and any(is_routed_to(queue, sent) for queue in self.queues)
        )


def of_project(app: Celery, chosen: Collection[str]) -> ConsumedQueues:
    """The queues in ``djcelery_queues``, or else those that are declared or in static routes.

    Args:
        app: The project's app.
        chosen: The names in ``djcelery_queues`` or its marker.
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
    """Check the queues in ``djcelery_queues`` or its marker.

    Raises:
        BadOptionError: The app doesn't declare one of them, and must not create it.
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
    """The app's queues according to its settings.

    That is not ``app.amqp.queues``, to which each worker, and each message to an unknown queue,
    adds.
    """
    return app.amqp.Queues(app.conf.task_queues)


def declared_names(app: Celery) -> tuple[str, ...]:
    """The names of the queues that the app's settings declare, in order.

    If they declare none, that is the default queue.
    """
    queues = _declared(app).values()
    return tuple(sorted(getattr(queue, "alias", None) or queue.name for queue in queues))


def _entity(declared: Any, queue: Any) -> Queue | None:
    if hasattr(queue, "exchange"):
        found: Queue = queue
        return found
    try:
        found = declared[queue]  # creates it as Celery would, where that is allowed
    except KeyError:
        return None
    return found


def _static_routes(app: Celery) -> Iterator[Any]:
    """The queues that ``task_routes`` name whatever the task.

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


def is_routed_to(queue: Any, sent: SentTask) -> bool:
    """Whether a message is routed to a queue, judged by its exchange and routing key."""
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
