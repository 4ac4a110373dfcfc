"""Where a worker of one process can't lose a task as a real one does, and why.

The runs of the contract hold it to be true: what is recorded has to differ by just this.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.contract.losses.project.shop.cases import Case
    from tests.contract.losses.truth import Outcome


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A difference that there has to be.

    Attributes:
        what: What is not as it is under a real worker.
        why: The reason.
        of: Whether it is there in a case.
        apply: Changes a recorded outcome to what a worker of one process makes of it.
    """

    what: str
    why: str
    of: Callable[[Case], bool]
    apply: Callable[[Outcome], None]


def _killed_in_the_body(case: Case) -> bool:
    return case.loss in {"killed", "host"} and case.at == "charge"


def _finally_runs(outcome: Outcome) -> None:
    steps = outcome["victim"]["steps"]
    steps.insert(steps.index("charged") + 1, "finally")


def _ended_in_the_body(case: Case) -> bool:
    return case.loss == "hard" and case.at == "charge"


def _finally_runs_first(outcome: Outcome) -> None:
    steps = outcome["victim"]["steps"]
    reported = steps.index("finally")
    before = max(i for i, step in enumerate(steps[:reported]) if step in {"began", "hook"})
    steps.insert(before + 1, steps.pop(reported))


def _delivered_twice(case: Case) -> bool:
    return case.loss == "twice"


def _acknowledged_twice(outcome: Outcome) -> None:
    messages = outcome["victim"]["message"]
    messages.insert(messages.index("received") + 1, "acknowledged")


TABLE: Final = (
    Difference(
        what="The `finally` blocks of a task run, though its process is lost in the middle of it",
        why="in one process only an exception can end a task; nothing can be killed without the "
        "test",
        of=_killed_in_the_body,
        apply=_finally_runs,
    ),
    Difference(
        what="The `finally` blocks of a task that its hard time limit ends run before the worker "
        "reports the timeout, not after",
        why="the worker and the task have one thread",
        of=_ended_in_the_body,
        apply=_finally_runs_first,
    ),
    Difference(
        what="A message that `duplicate` delivers twice is acknowledged twice",
        why="a broker delivers it again since the first acknowledgement never came",
        of=_delivered_twice,
        apply=_acknowledged_twice,
    ),
)


def expected(case: Case, recorded: Outcome) -> Outcome:
    """Return what a worker of one process makes of a case."""
    outcome = deepcopy(recorded)
    for difference in TABLE:
        if difference.of(case):
            difference.apply(outcome)
    return outcome
