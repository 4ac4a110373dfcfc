"""The Celery messages of tasks of `django.tasks` that a test has enqueued."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from pytest_djcelery.errors import BridgedMessageNotSeenError, UnknownResultError
from pytest_djcelery.messages.events import Enqueued, Event, HookFinished, Published

if TYPE_CHECKING:
    from pytest_djcelery.messages.journal import Journal


def refuse_unseen(journal: Journal, path: str, since: int = 0, until: int | None = None) -> None:
    """Refuse to answer for a Django task whose messages can't be seen.

    Args:
        journal: The journal of the test.
        path: The ``module_path`` of the task.
        since: The position in the journal from which calls of ``enqueue()`` count.
        until: The position up to which they count; ``None`` for the end.

    Raises:
        BridgedMessageNotSeenError: It was enqueued, but no Celery message of it was seen, and none
            waits for a commit.
    """
    __tracebackhide__ = True
    events = islice(journal.events(Event, since), None if until is None else until - since)
    enqueued = [event for event in events if isinstance(event, Enqueued) and event.path == path]
    if not enqueued:
        return
    seen = _seen(journal)
    finished = {event.hook for event in journal.events(HookFinished)}
    for event in enqueued:
        waits = event.hooks and not finished.issuperset(event.hooks)
        if event.id not in seen and not waits:
            raise BridgedMessageNotSeenError(_text(event))


def message_of_result(journal: Journal, result: Any) -> str:
    """The id of the Celery message that was sent for a result of a Django task.

    Raises:
        BridgedMessageNotSeenError: It was enqueued, but no Celery message of it was seen.
        UnknownResultError: It was not enqueued in this test, or its message isn't sent yet.
    """
    __tracebackhide__ = True
    path, number = result.task.module_path, str(result.id)
    for event in journal.events(Enqueued):
        if event.result == number and event.path == path:
            if event.id in (seen := _seen(journal)):
                return seen[event.id]
            refuse_unseen(journal, path)
            raise UnknownResultError(
                f"{path} was enqueued at {event.location}, but its message is only sent after the "
                "commit, which is yet to come: see celery_on_commit.pending and "
                "celery_on_commit.discarded."
            )
    raise UnknownResultError(f"No enqueue() of {path} in this test returned the result {number!r}.")


def _seen(journal: Journal) -> dict[str, str]:
    """The id of the first message of each call of ``enqueue()``."""
    seen: dict[str, str] = {}
    for event in journal.events(Published):
        call = event.message.django_call
        if call is not None:
            seen.setdefault(call.enqueued, event.message.id)
    return seen


def _text(event: Enqueued) -> str:
    return (
        f"{event.path} was enqueued at {event.location or 'no line of the project'}, but no Celery "
        "message of it was seen.\n"
        f"Its backend is {event.backend}. If that does not send through Celery, look at the task "
        "without this plugin, or name in TASKS a backend that does. If it sends later, or in "
        "another thread, the messages can't be told apart: find them by the Celery task that it "
        "sends, celery_outbox.of('name.of.that.task')."
    )
