"""The steps of a schedule, and what became of the search, in words."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from pytest_djcelery.trace import wording

if TYPE_CHECKING:
    from pytest_djcelery.exploration.schedules import Decisions, Token
    from pytest_djcelery.exploration.search import Seen
    from pytest_djcelery.exploration.steering import Step
    from pytest_djcelery.messages.sent_task import SentTask

_UNDISTURBED: Final = "each message is delivered once, in the order in which they were due"
_MOST: Final = 30  # steps in a report


def call(sent: SentTask | None, task: str = "") -> str:
    """The call of a message, in the words of the timeline: ``reserve(order=2)``."""
    return wording.short_name(task) if sent is None else wording.call(sent)


class Calls:
    """The calls of the messages of a schedule; those of equal ones are numbered.

    Args:
        steps: Of the schedule.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        messages = [sent for step in steps for sent in (step.sent, step.overtook) if sent]
        ordered = sorted({id(sent): sent for sent in messages}.values(), key=attrgetter("sent_at"))
        same = Counter(map(call, ordered))
        numbers: Counter[str] = Counter()
        self._numbers: dict[int, int] = {}
        for sent in ordered:
            text = call(sent)
            numbers[text] += 1
            if same[text] > 1:
                self._numbers[id(sent)] = numbers[text]

    def text(self, sent: SentTask | None, task: str = "") -> str:
        """The call of a message: ``reserve(2)``, or ``reserve(2) #2`` for the second of two."""
        number = self._numbers.get(id(sent))
        return f"{call(sent, task)} #{number}" if number else call(sent, task)

    def note(self, step: Step) -> str:
        """In what a step differs from that of an undisturbed worker; empty if in nothing."""
        notes = []
        if step.again:
            notes.append("delivered again")
        if step.overtook is not None:
            notes.append(f"delivered before {self.text(step.overtook)}")
        if step.lost_at is not None:
            when = "after" if step.acknowledged else "before"
            becomes = "lost" if step.acknowledged else "delivered again"
            notes.append(
                f"worker lost at the {step.lost_at}, {when} it was acknowledged: {becomes}"
            )
        return "; ".join(notes)


def step_lines(steps: Sequence[Step]) -> Iterator[str]:
    """The steps up to the last one that differs, numbered; of many only those that differ."""
    calls = Calls(steps)
    notes = [calls.note(step) for step in steps]
    until = max((number for number, note in enumerate(notes, start=1) if note), default=0)
    if not until:
        yield f"  {_UNDISTURBED}"
        return
    shown = [number for number in range(until) if notes[number] or until <= _MOST]
    texts = {number: calls.text(steps[number].sent, steps[number].task) for number in shown}
    width, digits = max(map(len, texts.values())), len(str(until))
    last = -1
    for number in shown:
        if number > last + 1:
            yield f"  {'…':>{digits}}"
        last = number
        yield f"  {number + 1:>{digits}}  {texts[number]:<{width}}   {notes[number]}".rstrip()


def all_steps(steps: Sequence[Step]) -> tuple[str, ...]:
    """Every step, in words."""
    calls = Calls(steps)
    return tuple(
        f"{calls.text(step.sent, step.task)} {calls.note(step)}".rstrip() for step in steps
    )


def losses(steps: Sequence[Step]) -> list[str]:
    """What was lost with its worker because it had been acknowledged."""
    return [
        f"{call(step.sent, step.task)} was lost with its worker at the {step.lost_at} of its run, "
        "since it had been acknowledged before"
        for step in steps
        if step.is_lost
    ]


def left_text(decisions: Decisions, steps: Sequence[Step], left: int) -> str:
    """Where a run left the schedule that it was to follow.

    Args:
        decisions: Those of the run.
        steps: Its deliveries.
        left: The number of the decision.
    """
    expected = decisions.expected[left] if left < len(decisions.expected) else None
    now = decisions.made[left] if left < len(decisions.made) else None
    is_loss = now is not None and now.what.startswith("lost ")
    number = sum(step.decision < left for step in steps) + (not is_loss)
    there = "nothing is due" if now is None else f"this run decides between {_ways(now.what)}"
    was = "" if expected is None else f"expected was a decision between {_ways(expected)}, and "
    return f"step {number} is another: {was}{there}."


def _ways(what: str) -> str:
    if what.startswith("lost "):
        return f"{what.removeprefix('lost ')} with its worker, and without"
    due, _, again = what.partition(" ")
    ways = [name or "nothing" for name in due.split("|")]
    ways += [f"{name} again" for name in again.split("|") if name]
    return ", ".join(ways)


def changed_text(before: Sequence[str], now: Sequence[str]) -> str:
    """Where two runs of one schedule differ, of which only the first fails."""
    for number, (was, is_now) in enumerate(zip(before, now, strict=False), start=1):
        if was != is_now:
            return f"step {number} was {was}, and is {is_now} now."
    if len(before) != len(now):
        return f"there were {len(before)} steps, and are {len(now)} now."
    return "a schedule that failed before passes now, with the same steps."


def report(
    seen: Seen | None, steps: Sequence[Step], error: BaseException, nodeid: str, token: Token
) -> str:
    """The text of a failure.

    Args:
        seen: What the search has seen; ``None`` if one schedule was replayed.
        steps: Those of the schedule.
        error: The test's own error in it.
        nodeid: Of the test.
        token: Replays it.
    """
    first = (
        "The schedule fails:"
        if seen is None
        else f"{seen.failing:,} of {seen.schedules:,} schedules fail; the least that does:"
    )
    replay = f"Replay: pytest {shlex.quote(nodeid)} --djcelery-schedule={token}"
    return "\n".join([first, *step_lines(steps), error_line(error), replay])


def error_line(error: BaseException) -> str:
    """An error in one line, as the last one of its traceback has it."""
    text = str(error).strip().partition("\n")[0]
    name = type(error).__name__
    return f"{name}: {text}" if text else name
