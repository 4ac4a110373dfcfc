"""A message that compares with the signature of its task."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from celery.canvas import Signature

from pytest_djcelery.messages import unittest_failures
from pytest_djcelery.messages.django_tasks import is_django_task
from pytest_djcelery.messages.matching import matches
from pytest_djcelery.messages.task_message import TaskMessage, quickly_made


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SentTask(TaskMessage):
    """One message that the test's code published, as a worker would receive it.

    `Outbox` is a sequence of them. Compare one with a Celery signature: the task has to be the
    same, the call (bound to the task's own signature), and each option that the signature sets.
    The signatures in ``links``, ``link_errors``, ``chain`` and ``chord`` compare in the same way.

    Arguments are those that came out of the real serializer, and times are aware UTC datetimes.
    ``location`` is the project's line that sent it. ``transaction`` is ``"on_commit"`` if an
    on_commit hook sent it, ``"atomic"`` if it was sent inside an open block, and otherwise
    ``"autocommit"``.
    """

    def __eq__(self, other: object) -> bool:
        unittest_failures.compared()
        if isinstance(other, Signature) or is_django_task(other):
            return matches(other, self)
        if isinstance(other, SentTask):
            return self is other or self._identity() == other._identity()
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[str, int, datetime]:
        # A retry keeps the id of its task, so the id alone is not enough.
        return self.id, self.retries, self.sent_at
