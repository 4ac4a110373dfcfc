"""Tasks that will never have an outcome, since the worker of one was lost with its message."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from pytest_djcelery.messages.descriptions import message_text
from pytest_djcelery.messages.events import WorkerLost

if TYPE_CHECKING:
    from pytest_djcelery.messages.journal import Journal
    from pytest_djcelery.messages.sent_task import SentTask

_REASON: Final = (
    "its worker was lost after the message had been acknowledged, so no worker gets it again"
)


def why_lost(journal: Journal, task_ids: Collection[str], since: int = 0) -> str | None:
    """Return why one of these tasks will never have an outcome, if that is for a lost worker.

    Args:
        journal: The journal of the test.
        task_ids: The ids of the tasks that are waited for.
        since: The position in the journal from which losses count.
    """
    for lost in journal.events(WorkerLost, since):
        if not lost.for_good:
            continue
        sent = journal.sent(lost.task_id)
        name = f"{message_text(sent[-1])} [{lost.task_id}]" if sent else lost.task_id
        if lost.task_id in task_ids:
            return f"{name} will never be ready: {_REASON}."
        for waiting in set(task_ids).intersection(_that_follow(sent[-1]) if sent else ()):
            return f"{waiting} will never be ready: it waits for {name}, and {_REASON}."
    return None


def _that_follow(sent: SentTask) -> Iterator[str]:
    """The ids of the tasks that run after a message: its links, its chain, its chord's body."""
    for signature in (*sent.links, *sent.chain, sent.chord):
        yield from _ids(signature)


def _ids(signature: Any) -> Iterator[str]:
    if not isinstance(signature, Mapping):
        return
    options, kwargs = signature.get("options") or {}, signature.get("kwargs") or {}
    if options.get("task_id"):
        yield options["task_id"]
    for each in (options.get("chord"), kwargs.get("body")):
        yield from _ids(each)
    for several in (options.get("chain"), options.get("link"), kwargs.get("tasks")):
        for each in several if isinstance(several, (list, tuple)) else ():
            yield from _ids(each)
