"""What is lost, where, and of which task: each case that is recorded, by its name."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import compress, product

PLACES = ("single", "chain", "header", "body")
LATE = "acks_late"
REJECT = "reject_on_worker_lost"
NOT_ON_FAILURE = "acks_on_failure_or_timeout=False"
RETRY = "retry_on_worker_lost"
#: The eight combinations of the options that every supported Celery has.
OPTIONS = tuple(
    tuple(compress((LATE, REJECT, NOT_ON_FAILURE), chosen))
    for chosen in product((False, True), repeat=3)
)
LIMITED = ("soft", "hard")
#: Options that Celery 5.7 has added.
NEWER = (
    (RETRY,),
    (LATE, RETRY),
    (LATE, REJECT, RETRY),
    (RETRY, "max_retries=0"),
    (LATE, REJECT, RETRY, "max_retries=0"),
)
SPLIT = ((LATE, "acks_on_failure=False"), (LATE, "acks_on_timeout=False"))


@dataclass(frozen=True)
class Case:
    """One loss.

    Attributes:
        place: Where the task stands: alone, first of a chain, in a chord's header, as its body.
        loss: `killed` (the child process), `host` (the whole worker), `soft` or `hard` (a time
            limit), `twice` (the whole worker, when the result is stored and the message not yet
            acknowledged, so that a broker delivers it twice), or `none`.
        at: At the `start` of the task, its `end`, or the `charge` that it calls in between.
        atomic: Whether it calls that inside of `atomic`.
        caught: Whether it catches the soft time limit.
        options: Those of the task.
    """

    place: str
    loss: str = "none"
    at: str = ""
    atomic: bool = True
    caught: bool = False
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What it is called in the record."""
        loss = f"{self.loss} at {self.at}" if self.at else self.loss
        parts = [self.place, loss, "atomic" if self.atomic else "autocommit"]
        return ", ".join(parts + ["caught"] * self.caught) + f" [{' '.join(self.options)}]"

    @property
    def late(self) -> bool:
        """Whether its message is acknowledged when it has run."""
        return LATE in self.options

    @property
    def point(self) -> str:
        """Where the process is lost, or hangs until the limit has passed."""
        if self.at != "charge":
            return self.at or "stored"
        return f"{'before' if self.loss in LIMITED else 'after'} charge"

    @property
    def takes_the_host(self) -> bool:
        """Whether the whole worker is lost."""
        return self.loss in {"host", "twice"}

    @property
    def limits(self) -> dict[str, float]:
        """The time limit that ends it, as an option of the call."""
        names = {"soft": "soft_time_limit", "hard": "time_limit"}
        return {names[self.loss]: 0.5} if self.loss in names else {}


def task_options(options: tuple[str, ...]) -> dict[str, object]:
    """Return options as `shared_task` takes them."""
    values = {"False": False, "0": 0, "": True}
    return {name: values[value] for name, _, value in (each.partition("=") for each in options)}


def _cases() -> list[Case]:
    both = (True, False)
    return [
        *(Case(place, options=options) for place, options in product(PLACES, ((), (LATE,)))),
        *(
            Case(place, "killed", at, atomic, options=options)
            for place, at, atomic, options in product(
                PLACES, ("start", "charge", "end"), both, OPTIONS
            )
        ),
        *(
            Case(place, "killed", at, options=options)
            for place, at, options in product(PLACES, ("start", "charge", "end"), NEWER)
        ),
        *(
            Case("single", loss, "charge", options=options)
            for loss, options in product((*LIMITED, "host"), NEWER)
        ),
        *(Case("single", "host", "charge", options=options) for options in SPLIT),
        *(
            Case(place, loss, at, atomic, options=options)
            for loss, place, (at, atomic), options in product(
                LIMITED, PLACES, (("start", True), ("charge", True), ("charge", False)), OPTIONS
            )
        ),
        *(
            Case(place, "soft", "charge", atomic, caught=True, options=options)
            for place, atomic, options in product(PLACES, both, ((), (LATE,)))
        ),
        *(
            Case(place, loss, "charge", options=options)
            for loss, place, options in product(("killed", *LIMITED), PLACES, SPLIT)
        ),
        *(
            Case(place, "host", at, atomic, options=options)
            for place, at, atomic, options in product(
                PLACES, ("start", "charge", "end"), both, ((), (LATE,))
            )
        ),
        *(Case(place, "twice", options=(LATE,)) for place in PLACES),
        # The other options do not matter then: once is enough.
        *(Case("single", "host", "charge", options=each) for each in OPTIONS if len(each) > 1),
        Case("single", "host", "charge", options=(NOT_ON_FAILURE,)),
        Case("single", "host", "charge", options=(REJECT,)),
    ]


CASES = {case.name: case for case in _cases()}
