"""The requests that wait for their ETA, held as in a worker, but by the test's clock."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from celery.worker.request import Request

    from pytest_djcelery.brokers.memory.queues import Ready

_POLL: Final = "celery.chord_unlock"


class Turn(NamedTuple):
    """When it is a message's turn: at its ETA, and in publish order for equal ETAs."""

    eta: datetime
    order: int
    put_at: datetime

    @property
    def due(self) -> tuple[datetime, int]:
        """When it became due, comparable with `Ready.turn` of messages without an ETA."""
        return max(self.eta, self.put_at), self.order


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A request that waits, unacknowledged."""

    turn: Turn
    request: Request
    queue: str
    start: Callable[[], None]
    received_at: int  # how many tasks had been delivered at that time

    @property
    def polls(self) -> bool:
        """Whether all it does is to check whether others are done."""
        return bool(self.request.type == _POLL)


@dataclass(slots=True, kw_only=True)
class Repeated:
    """A function that is called at intervals until it is cancelled."""

    due: datetime
    interval: timedelta
    function: Callable[[], object]
    canceled: bool = False

    def cancel(self) -> None:
        """Stop calling it."""
        self.canceled = True


_Heap = list[tuple[Turn, Scheduled]]


class Timer:
    """Replaces a worker's timer, with a heap for each queue.

    Args:
        now: Returns the clock's time, an aware datetime.
    """

    def __init__(self, now: Callable[[], datetime]) -> None:
        self.receiving: tuple[str, Ready]  # the message that is being received, and its queue
        self.kept: Ready | None = None  # the last message that was received and has to wait
        self.started: Request | None = None  # the last request that was started
        self.delivered = 0  # tasks, except those that only check whether others are done
        self._now = now
        self._held = 0
        self._waiting: dict[str, _Heap] = defaultdict(list)
        self._polls: dict[str, _Heap] = defaultdict(list)
        self._repeated: list[Repeated] = []

    def __len__(self) -> int:
        return self._held

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """Hold nothing within the ``with``; then drop what is held, and hold the rest again."""
        before = dict(vars(self))
        self._held, self._waiting, self._polls = 0, defaultdict(list), defaultdict(list)
        self._repeated = []
        try:
            yield
        finally:
            vars(self).update(before)

    def call_at(
        self, _eta: float, start: Callable[..., None], args: tuple[Any, ...], **_: Any
    ) -> Scheduled:
        """Start a request at its ETA, as Celery requests."""
        return self.hold(args[0], partial(start, *args))

    def call_repeatedly(
        self,
        secs: float,
        fun: Callable[..., object],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> Repeated:
        """Call a function every so many seconds, as kombu's timer does."""
        interval = timedelta(seconds=secs)
        repeated = Repeated(
            due=self._now() + interval,
            interval=interval,
            function=partial(fun, *args, **(kwargs or {})),
        )
        self._repeated.append(repeated)
        return repeated

    def next_repeated(self) -> Repeated | None:
        """The function whose turn is next."""
        if not self._repeated:
            return None
        self._repeated = [function for function in self._repeated if not function.canceled]
        return min(self._repeated, key=attrgetter("due"), default=None)

    def repeated_due(self) -> Repeated | None:
        """The same function, if it is due now; its next call is after its interval."""
        repeated = self.next_repeated()
        if repeated is None or repeated.due > self._now():
            return None
        repeated.due += repeated.interval
        return repeated

    def hold(self, request: Request, start: Callable[[], None]) -> Scheduled:
        """Keep a request that is being received until its ETA."""
        queue, ready = self.receiving
        held = Scheduled(
            turn=Turn(request.eta, ready.order, ready.put_at),
            request=request,
            queue=queue,
            start=start,
            received_at=self.delivered,
        )
        heap = (self._polls if held.polls else self._waiting)[queue]
        heapq.heappush(heap, (held.turn, held))
        self._held += 1
        self.kept = ready
        return held

    def first(self, takes: Callable[[str], bool]) -> Scheduled | None:
        """The request whose turn is next, in the queues to deliver from."""
        heads = [heap[0] for heap in self._heaps(takes) if heap]
        return min(heads)[1] if heads else None

    def last(self, takes: Callable[[str], bool], until: datetime) -> datetime | None:
        """The last ETA up to a moment."""
        etas = (turn.eta for heap in self._heaps(takes) for turn, _ in heap if turn.eta <= until)
        return max(etas, default=None)

    def first_due(self, takes: Callable[[str], bool]) -> Scheduled | None:
        """The same request, if its ETA has come."""
        first = self.first(takes)
        return first if first is not None and first.turn.eta <= self._now() else None

    def all_due(self, takes: Callable[[str], bool]) -> list[Scheduled]:
        """The requests whose ETA has come, in the order of `Turn.due`."""
        now = self._now()
        due = (held for heap in self._heaps(takes) for _, held in _until(now, heap))
        return sorted(due, key=lambda held: held.turn.due)

    def first_poll(self, takes: Callable[[str], bool]) -> Scheduled | None:
        """A ``chord_unlock`` that may find something new, even before its ETA.

        With a backend that can't count, Celery has this task check every second whether the
        header of a chord is done. A test should not have to wait for that second.
        """
        heaps = (heap for queue, heap in self._polls.items() if takes(queue))
        polls = [
            poll for poll in chain.from_iterable(heaps) if poll[1].received_at < self.delivered
        ]
        return min(polls)[1] if polls else None

    def start(self, held: Scheduled) -> None:
        """Stop holding a request, and start it."""
        heap = (self._polls if held.polls else self._waiting)[held.queue]
        if heap[0][1] is held:
            heapq.heappop(heap)
        else:
            heap.remove((held.turn, held))
            heapq.heapify(heap)
        self._held -= 1
        self.delivered += not held.polls
        self.started = held.request
        held.start()

    def held(self) -> Iterator[Scheduled]:
        """All requests, in no particular order."""
        return (held for heap in self._heaps() for _, held in heap)

    def clear(self) -> list[Request]:
        """Drop all requests, and return them; forget the repeated functions, too."""
        self._repeated.clear()
        return self.forget()

    def forget(self) -> list[Request]:
        """Drop all requests, and return them."""
        requests = [held.request for held in self.held()]
        self._waiting.clear()
        self._polls.clear()
        self._held = 0
        return requests

    def count_later(self) -> int:
        """How many requests have an ETA in the future."""
        now = self._now()
        return self._held - sum(1 for heap in self._heaps() for _ in _until(now, heap))

    def _heaps(self, takes: Callable[[str], bool] | None = None) -> Iterator[_Heap]:
        for heaps in (self._waiting, self._polls):
            for queue, heap in heaps.items():
                if takes is None or takes(queue):
                    yield heap


def _until(moment: datetime, heap: _Heap) -> Iterator[tuple[Turn, Scheduled]]:
    """What is due by a moment. In a heap, whatever is below a later entry is later too."""
    pending = [0]
    while pending:
        index = pending.pop()
        if index < len(heap) and heap[index][0].eta <= moment:
            yield heap[index]
            pending += 2 * index + 1, 2 * index + 2
