"""What is said of faults that never happened: the line that set each, and what ran instead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_djcelery.messages.descriptions import message_text
from pytest_djcelery.messages.journal import Ended, WorkerLost

if TYPE_CHECKING:
    from pytest_djcelery.locations import Location
    from pytest_djcelery.session.sandbox import Sandbox

_SHOWN = 10
_RUN = "have the task run within the test: celery_inline.run(), celery_worker.wait_until_idle()"
_PUBLISH = "have a message sent, or a result used, while it lasts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A fault that never happened.

    ``call`` set it, at ``location``, when the journal had ``since`` events; ``task`` is the name
    of the task that it is for, if it is for one, and ``why`` what else is known.
    """

    call: str
    location: Location | None
    since: int
    task: str | None
    why: str


def not_fired_text(missing: Iterable[Missing], sandbox: Sandbox) -> str:
    """Say which faults never happened, and what happened instead."""
    lines, way = [], _PUBLISH
    for fault in missing:
        way = way if fault.task is None else _RUN
        where = f", set at {fault.location}" if fault.location is not None else ""
        lines.append(f"{fault.call} never happened{where}.")
        lines += _instead(fault, sandbox)
        if fault.why:
            lines.append(fault.why)
    lines.append(f"If it need not happen: optional=True, or cancel(). Otherwise {way}.")
    return "\n".join(lines)


def _instead(fault: Missing, sandbox: Sandbox) -> Iterator[str]:
    if fault.task is None:
        sent = [message_text(event.message) for event in sandbox.journal.published(fault.since)]
        yield f"What was published since: {_listed(sent) or 'nothing'}."
        return
    ran = list(_ran(sandbox, fault.since))
    own = [text for name, text in ran if name == fault.task]
    if own:
        yield f"{fault.task} ran {_times(len(own))}: {_listed(own)}."
    elif ran:
        yield f"{fault.task} did not run. What ran: {_listed(text for _, text in ran)}."
    else:
        yield f"Nothing has run since. {sandbox.situation()}"


def _ran(sandbox: Sandbox, since: int) -> Iterator[tuple[str, str]]:
    journal = sandbox.journal
    for event in journal.events((Ended, WorkerLost), since):
        task_id = getattr(event, "task_id", None)
        sent = journal.sent(task_id) if task_id else []
        name = getattr(event, "task", None) or (sent[-1].task if sent else None)
        if name is None or (isinstance(event, Ended) and event.eager):
            continue
        state = event.state if isinstance(event, Ended) else "its worker was lost"
        call = message_text(sent[-1]) if sent else name
        yield name, f"{call}: {state}"


def _listed(texts: Iterable[str]) -> str:
    counted = Counter(texts)
    shown = [f"{text}{f' ({_times(n)})' * (n > 1)}" for text, n in counted.items()]
    more = f", and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
