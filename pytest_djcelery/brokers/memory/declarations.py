"""Remembers which of kombu's queues are declared in a broker in memory, and what declaring did.

Each test begins with an empty broker, so its first message would declare its queue again. kombu
copies the queue and its exchange several times for that: a twentieth of a short test. What comes of
it is always the same three entries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from threading import RLock

_TABLE = "table"


class _Declared(NamedTuple):
    """What was there once a queue had been declared."""

    queue: Any  # kombu's
    options: dict[str, Any]  # of `Broker.declare`
    exchanges: dict[str, dict[str, Any]]  # without their tables
    rows: list[tuple[str, Any]]  # of the tables, by exchange
    bindings: list[tuple[Any, Any]]  # with their arguments


class Declares(Protocol):
    """The broker, as far as queues are declared in it."""

    lock: RLock
    state: Any  # `kombu.transport.virtual.BrokerState`

    @property
    def queues(self) -> Mapping[str, Any]:
        """Its queues, by name."""

    def declare(self, name: str, *, auto_delete: bool = False, ttl: float | None = None) -> Any:
        """Make a queue that is missing."""


class Declarations:
    """The queues of kombu's that are declared.

    Args:
        broker: The broker.
    """

    def __init__(self, broker: Declares) -> None:
        self._broker = broker
        self.present: dict[str, Any] = {}
        """Those that have been declared since anything was last removed, by name."""
        self._earlier: dict[str, _Declared] = {}

    def redeclare(self, queue: Any) -> bool:
        """Declare a queue as kombu has declared it before; return whether it is declared now.

        Args:
            queue: A `kombu.Queue`.
        """
        name = queue.name
        if _same(self.present.get(name), queue):
            return True
        earlier = self._earlier.get(name)
        if earlier is None or not _same(earlier.queue, queue):
            return False
        broker = self._broker
        with broker.lock:
            exchanges = broker.state.exchanges
            if name in broker.queues or not exchanges.keys().isdisjoint(earlier.exchanges):
                return False
            for exchange, entry in earlier.exchanges.items():
                exchanges[exchange] = {**entry, _TABLE: []}
            for exchange, row in earlier.rows:
                exchanges[exchange][_TABLE].append(row)
            for key, arguments in earlier.bindings:
                broker.state.binding_declare(*key, arguments)
            broker.declare(name, **earlier.options)
            self.present[name] = queue
        return True

    def note(self, queue: Any) -> None:
        """Remember a queue that kombu has just declared."""
        name, broker = queue.name, self._broker
        with broker.lock:
            declared = broker.queues.get(name)
            if declared is None:
                return
            self.present[name] = queue
            state = broker.state
            bindings = [(key, state.bindings[key]) for key in state.queue_index.get(name, ())]
            exchanges = {key.exchange: state.exchanges[key.exchange] for key, _ in bindings}
            self._earlier[name] = _Declared(
                queue=queue,
                options={"auto_delete": declared.auto_delete, "ttl": declared.ttl},
                exchanges={
                    exchange: {key: value for key, value in entry.items() if key != _TABLE}
                    for exchange, entry in exchanges.items()
                },
                rows=[
                    (exchange, row)
                    for exchange, entry in exchanges.items()
                    for row in entry.get(_TABLE, ())
                    if row[2] == name
                ],
                bindings=bindings,
            )


def _same(known: Any, queue: Any) -> bool:
    """Whether two of kombu's queues are declared in the same way."""
    return known is queue or (
        known is not None and known == queue and known.bindings == queue.bindings
    )
