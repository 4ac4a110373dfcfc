"""A message as a worker would receive it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from celery.canvas import Signature

    from pytest_djcelery.locations import Location

Transaction = Literal["on_commit", "atomic", "autocommit"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SentTask:
    """One message that the test's code published.

    Arguments are what came out of the real serializer; times are aware and in UTC.

    Compare it with a Celery signature: same task, same call once bound to the task's own
    signature, and each option that the signature sets.
    """

    task: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    id: str
    queue: str | None
    routing_key: str | None
    exchange: str | None
    eta: datetime | None
    expires: datetime | None
    priority: int | None
    retries: int
    headers: Mapping[str, Any]
    root_id: str | None
    parent_id: str | None
    group_id: str | None
    links: tuple[Signature, ...]
    link_errors: tuple[Signature, ...]
    chain: tuple[Signature, ...]  # what follows, in the order it will run
    chord: Signature | None
    sent_at: datetime
    location: Location | None
    transaction: Transaction
    serializer: str = field(default="json", repr=False)

    @property
    def after_commit(self) -> bool:
        """Whether an on_commit hook sent it."""
        return self.transaction == "on_commit"

    def __eq__(self, other: object) -> bool:
        from celery.canvas import Signature

        if isinstance(other, Signature):
            from pytest_djcelery.matching.signatures import matches

            return matches(other, self)
        if isinstance(other, SentTask):
            return self is other or self._identity() == other._identity()
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[str, int, datetime]:
        # A retry keeps the id of its task, so the id alone is not enough.
        return self.id, self.retries, self.sent_at
