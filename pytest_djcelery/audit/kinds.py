"""The kinds of what an audit finds: why each matters, and which fixture answers it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_djcelery.options import FindingName


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of finding, as options, report and page name it."""

    name: FindingName  # in options and in JSON
    title: str
    why: str
    remedy: str


IN_TRANSACTION = Kind(
    name="published-in-transaction",
    title="published inside an open transaction",
    why="A worker can run the task before the commit, and not see what was written.",
    remedy="Send it with delay_on_commit. celery_outbox warns at that very line, and "
    "djcelery_sent_in_transaction = error stops new ones.",
)
HOOKS = Kind(
    name="hooks-never-ran",
    title="on_commit hooks that never ran",
    why="Production runs them after the commit; what they do is not tested here.",
    remedy="Any fixture of this plugin runs them when production would; celery_on_commit lists "
    "them, celery_outbox what they sent.",
)
NEVER_RUN = Kind(
    name="published-never-run",
    title="published and never run",
    why="No worker, no eager mode and no mock took the message: the task is not tested here.",
    remedy="celery_inline.run() runs it in the test's own transaction; celery_outbox only "
    "compares it.",
)
FAILURES = Kind(
    name="failures-nobody-saw",
    title="task failures nobody saw",
    why="The task raised, and the test is green.",
    remedy="celery_inline.run() raises what a task fails with; with any fixture a failure that "
    "nobody looked at fails the test.",
)
MOCKED = Kind(
    name="mocked-publishes",
    title="mocked publishes",
    why="A mock takes arguments that no task has and that no serializer can encode.",
    remedy="celery_outbox records real messages: assert celery_outbox == [task.s(…)].",
)
OUTSIDE = Kind(
    name="outside-reached",
    title="outside reached: brokers and result backends",
    why="Tests that share a server with other runs, or with development, disturb one another.",
    remedy="Without --djcelery-audit the plugin keeps messages and results in memory.",
)

#: The worst first.
KINDS = (IN_TRANSACTION, FAILURES, MOCKED, HOOKS, NEVER_RUN, OUTSIDE)
#: What a finding that is marked as sure is marked for.
SURE = "an argument is the key of a row that the transaction wrote, or the call would fail"
