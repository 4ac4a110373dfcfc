"""Small programs of tasks: run by exploration, and by a model that shares no code with it.

The model knows nothing of decisions: it lists every history that a broker with any number of
workers may have, one delivery after another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from pytest_djcelery.exploration.search import Ran, Search
from pytest_djcelery.exploration.steering import Steering
from pytest_djcelery.workers.inline.guests import joined
from tests.unit import inline_project
from tests.unit.inline_project import app

if TYPE_CHECKING:
    from pytest_djcelery.exploration.schedules import Decisions
    from pytest_djcelery.exploration.steering import Bounds

MANY = 60  # histories of one program

#: What the tasks of a program have done: each one's name, at the minute of the clock.
History = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Job:
    """A message, and what its task publishes."""

    name: str
    minutes: int = 0
    queue: str = "celery"
    priority: int = 0
    late: bool = False  # acknowledged late
    children: tuple[Job, ...] = ()


@dataclass(frozen=True)
class Waiting:
    """A message of the model: one that has an ETA has left its queue."""

    job: Job
    eta: int
    timed: bool


def jobs() -> st.SearchStrategy[tuple[Job, ...]]:
    """Programs of up to four messages."""
    shape = st.recursive(
        st.just(()),
        lambda below: st.lists(below, min_size=1, max_size=2).map(tuple),
        max_leaves=3,
    )
    return st.lists(shape, min_size=1, max_size=3).flatmap(_made)


@st.composite
def _made(draw: st.DrawFn, shapes: list[Any]) -> tuple[Job, ...]:
    count = 0

    def made(children: Any) -> Job:
        nonlocal count
        count += 1
        name = str(count)
        return Job(
            name,
            minutes=draw(st.sampled_from([0, 0, 1, 2])),
            queue=draw(st.sampled_from(["celery", "mail"])),
            priority=draw(st.sampled_from([0, 0, 9])),
            late=draw(st.booleans()),
            children=tuple(map(made, children)),
        )

    return tuple(map(made, shapes))


# As the plugin explores it ------------------------------------------------------------------

_jobs: dict[str, Job] = {}
_log: list[tuple[str, int]] = []


@app.task(name="programs.early", shared=False)
def early(name: str) -> None:
    _work(name)


@app.task(name="programs.late", shared=False, acks_late=True)
def late(name: str) -> None:
    _work(name)


def _work(name: str) -> None:
    _log.append((name, _minute()))
    for child in _jobs[name].children:
        _send(child)


def _minute() -> int:
    return round((inline_project.now() - _began[0]).total_seconds() / 60)


_began: list[Any] = []


def _send(job: Job) -> None:
    _jobs[job.name] = job
    (late if job.late else early).apply_async(
        (job.name,),
        queue=job.queue,
        priority=job.priority or None,
        countdown=60 * job.minutes or None,
    )


def explored(program: tuple[Job, ...], bounds: Bounds) -> list[History]:
    """The history of each schedule that exploration runs."""
    found: list[History] = []

    def run(decisions: Decisions) -> Ran:
        _log.clear()
        with inline_project.worker() as worker:
            _began[:] = [inline_project.now()]
            for job in program:
                _send(job)
            steering = Steering(bounds, decisions)
            with joined(steering):
                worker.run(until=timedelta(hours=1))
            steering.over()
        found.append(tuple(_log))
        course = decisions.over()
        assert decisions.left is None
        return Ran(course, failed=False)

    seen = Search(run, examples=bounds.examples, draws=_never).go()
    assert seen.complete
    assert seen.schedules == len(found)
    return found


def _never(*_: object) -> None:
    msg = "more schedules than a small program can have"
    raise AssertionError(msg)


# By the model -------------------------------------------------------------------------------


def histories(program: tuple[Job, ...], bounds: Bounds) -> list[History]:
    """The history of each schedule that can happen, up to one more than `MANY`."""
    sent = [Waiting(job, job.minutes, job.minutes > 0) for job in program]
    found = _from(0, sent, (), (), bounds.duplicates, bounds.crashes)
    return list(islice(found, MANY + 1))


def _from(  # noqa: PLR0913, PLR0917 - the state of the model
    now: int,
    sent: list[Waiting],
    ran: tuple[Waiting, ...],
    done: History,
    duplicates: int,
    crashes: int,
) -> Iterator[History]:
    due = [message for message in sent if message.eta <= now]
    highest = {
        queue: max(m.job.priority for m in due if m.job.queue == queue and not m.timed)
        for queue in {m.job.queue for m in due if not m.timed}
    }
    for message in due:
        if message.timed or message.job.priority == highest[message.job.queue]:
            rest = [other for other in sent if other is not message]
            yield from _deliver(message, now, rest, ran, done, duplicates, crashes)
    for message in ran if duplicates else ():
        if not any(message.job is other.job for other in due):
            yield from _deliver(message, now, sent, ran, done, duplicates - 1, crashes)
    if not due:
        later = [message.eta for message in sent]
        if later:
            yield from _from(min(later), sent, ran, done, duplicates, crashes)
        else:
            yield done


def _deliver(  # noqa: PLR0913, PLR0917 - the state of the model
    message: Waiting,
    now: int,
    rest: list[Waiting],
    ran: tuple[Waiting, ...],
    done: History,
    duplicates: int,
    crashes: int,
) -> Iterator[History]:
    job = message.job
    after = (*done, (job.name, now))
    children = [Waiting(c, now + c.minutes, c.minutes > 0) for c in job.children]
    others = tuple(other for other in ran if other is not message)
    yield from _from(now, rest + children, (*others, message), after, duplicates, crashes)
    if crashes:
        again = [message] if job.late else []
        yield from _from(now, rest + again, others, done, duplicates, crashes - 1)
        yield from _from(now, rest + children + again, others, after, duplicates, crashes - 1)
