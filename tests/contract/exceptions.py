"""What is not as the contract says, and why: the one table of it.

The runs of the contract hold it to be true. A behaviour that is declared has to fail, and one that
fails has to be declared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from tests.contract import eager_mode


class Triple(NamedTuple):
    """What the behaviours are shown with, in one run."""

    worker: str
    broker: str
    backend: str

    def __str__(self) -> str:
        return "-".join(self)


TRIPLES = (
    Triple("eager", "memory", "memory"),
    Triple("inline", "memory", "memory"),
    Triple("inline", "memory", "django-db"),
    Triple("inline", "memory", "django-cache"),
    Triple("inline", "memory", "sqlalchemy"),
    Triple("inline", "memory", "redis"),
    # The others are held to it where a second connection to the database is in play.
    Triple("embedded", "memory", "memory"),
    Triple("embedded", "memory", "django-db"),
    Triple("embedded", "memory", "django-cache"),
    Triple("embedded", "redis", "redis"),
    Triple("embedded", "rabbitmq", "rpc"),
    Triple("live", "filesystem", "memory"),
    Triple("live", "filesystem", "django-db"),
    Triple("live", "redis", "redis"),
    Triple("live", "rabbitmq", "django-db"),
)


@dataclass(frozen=True, kw_only=True)
class Declared:
    """A reason, what it is the reason of, and where it holds; nothing named is everywhere.

    Args:
        fatal: it would end the process of the test, and is shown in a copy of that.
        before: holds for the versions of Celery before this one.
    """

    reason: str
    behaviours: tuple[str, ...]
    workers: tuple[str, ...] = ()
    brokers: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    fatal: bool = False
    before: tuple[int, ...] | None = None

    def holds(self, triple: Triple, version: tuple[int, ...]) -> bool:
        """Whether it is declared of a run."""
        wanted = (self.workers, self.brokers, self.backends)
        matches = all(not want or have in want for want, have in zip(wanted, triple, strict=True))
        return matches and (self.before is None or version < self.before)

    @property
    def of_the_worker(self) -> bool:
        """Whether it is so of a worker as such, whatever its broker, backend and version."""
        return not (self.brokers or self.backends or self.before)

    def shown_by(self, triple: Triple) -> bool:
        """Whether a run shows it: what is so of a worker as such needs to be shown once."""
        first = next(each for each in TRIPLES if each.worker == triple.worker)
        return triple == first or not self.of_the_worker


_KILLED = (
    "a_killed_process_is_a_failure",
    "a_killed_process_of_a_late_task_is_a_failure",
    "reject_on_worker_lost",
)
_LIMITED = (
    "a_soft_time_limit_can_be_caught",
    "a_soft_time_limit_that_is_not_caught",
    "a_hard_time_limit",
    "a_time_limit_of_a_late_task",
    "a_worker_goes_on_after_a_time_limit",
)
_CONTROL = (
    "ping", "registered", "active_queues", "stats", "active", "scheduled", "revoked",
    "a_rate_limit_by_remote_control", "add_and_cancel_consumer",
)  # fmt: skip
_CHORDS = (
    "a_chain_as_body", "a_chain_in_a_chord", "a_chord_goes_on_in_a_chain", "a_chord_in_a_chain",
    "a_chord_in_a_chord", "a_chord_of_one", "a_chord_whose_body_fails",
    "a_chord_whose_header_fails", "a_group_after_a_group", "a_group_as_body", "a_group_of_chords",
    "a_member_that_ignores_its_result", "a_retry_in_a_chord", "add_to_chord", "chord",
    "replace_by_a_chord", "replace_by_a_group", "replace_inside_a_chord",
    "the_error_link_of_a_chords_body", "the_error_link_of_a_chords_body_that_fails",
    "the_failure_of_a_member_fails_the_body", "the_results_of_a_header_are_in_order",
    "two_chords_after_each_other",
)  # fmt: skip
_WAITS = (
    "get_inside_a_task_can_be_allowed",
    "get_inside_a_task_waits_for_a_group",
    "get_inside_a_task_that_another_waits_for",
    "get_inside_a_task_raises_the_failure",
)
_PROCESSES = (
    "a_task_runs_in_another_process",
    "worker_process_init",
    "max_tasks_per_child",
    "no_environment_of_the_caller",
)

TABLE = (
    # Eager mode
    *(
        Declared(workers=("eager",), reason=reason, behaviours=behaviours)
        for reason, behaviours in eager_mode.DECLARED.items()
    ),
    Declared(
        workers=("eager",),
        reason="the task's process is the test's, and would end it",
        behaviours=_KILLED,
        fatal=True,
    ),
    Declared(
        workers=("eager",),
        reason="there is no second process that could end the task",
        behaviours=(*_LIMITED, "revoke_terminates"),
    ),
    Declared(workers=("eager",), reason="there is no worker process", behaviours=_PROCESSES),
    Declared(workers=("eager",), reason="no worker listens", behaviours=_CONTROL),
    # Inline
    Declared(
        workers=("inline",),
        reason="the task's process is the test's, and would end it",
        behaviours=_KILLED,
        fatal=True,
    ),
    Declared(
        workers=("inline",),
        reason="no second process could end the task; a `LimitNotEnforcedWarning` says so",
        behaviours=_LIMITED,
    ),
    Declared(
        workers=("inline",),
        reason="there is no waiting for a limit; a `LimitNotEnforcedWarning` says so",
        behaviours=("a_rate_limit",),
    ),
    Declared(
        workers=("inline",),
        reason="one task at a time, and the test waits for it",
        behaviours=("two_tasks_at_a_time", "revoke_terminates"),
    ),
    Declared(
        workers=("inline",), reason="tasks run in the test's own process", behaviours=_PROCESSES
    ),
    Declared(
        workers=("inline",),
        reason="it follows remote control when it delivers, but sends no replies",
        behaviours=_CONTROL,
    ),
    Declared(
        workers=("inline",),
        reason="tasks run in the test's own transaction",
        behaviours=("a_task_sees_only_what_is_committed",),
    ),
    # Embedded
    Declared(
        workers=("embedded",),
        reason="the task's process is the test's, and would end it",
        behaviours=_KILLED,
        fatal=True,
    ),
    Declared(
        workers=("embedded",),
        reason="a thread can't be ended",
        behaviours=(*_LIMITED, "revoke_terminates"),
    ),
    Declared(
        workers=("embedded",),
        reason="it ends the worker's thread, and the test gets an error that says so",
        behaviours=("a_task_that_exits_is_a_lost_worker",),
    ),
    Declared(
        workers=("embedded",),
        reason="one thread, unless `celery_worker_pool` is `threads`",
        behaviours=("two_tasks_at_a_time", "active"),
    ),
    Declared(
        workers=("embedded",),
        brokers=("redis",),
        reason="over Redis the one thread takes no second message, and a `WorkerError` says so at "
        "once",
        behaviours=_WAITS,
    ),
    Declared(
        workers=("embedded",), reason="tasks run in the test's own process", behaviours=_PROCESSES
    ),
    Declared(
        workers=("embedded",),
        reason="over SQLite in memory the task waits for the commit",
        behaviours=("a_task_sees_only_what_is_committed",),
    ),
    Declared(
        workers=("embedded",),
        reason="tasks and test run at the same time, in one process",
        behaviours=("what_a_task_leaves_in_its_process",),
    ),
    # All that run tasks in the test's process
    Declared(
        workers=("eager", "inline", "embedded"),
        reason="each task starts as in a new process",
        behaviours=("what_a_task_leaves_the_next_one_finds",),
    ),
    # Brokers and result backends, whatever the worker
    Declared(
        backends=("django-cache",),
        reason="keeps what it is given, as a pickle",
        behaviours=(
            "a_result_goes_through_the_serializer",
            "a_result_that_cannot_be_serialized_fails_the_task",
        ),
    ),
    Declared(
        backends=("sqlalchemy",),
        before=(5, 7),
        reason="keeps what it is given, as a pickle",
        behaviours=(
            "a_result_goes_through_the_serializer",
            "a_result_that_cannot_be_serialized_fails_the_task",
        ),
    ),
    Declared(
        workers=("inline", "embedded", "live"),
        backends=("django-db", "django-cache", "sqlalchemy"),
        reason="`add_to_chord` needs the backend of Redis",
        behaviours=("add_to_chord",),
    ),
    Declared(
        workers=("inline", "embedded", "live"),
        backends=("django-db", "django-cache", "sqlalchemy"),
        reason="a chord's results are fetched when its members are over, not kept as they return, "
        "as with Redis",
        behaviours=(
            "a_member_that_ignores_its_result",
            "the_failure_of_a_member_fails_the_body",
        ),
    ),
    Declared(
        backends=("sqlalchemy",),
        before=(5, 7),
        reason="keeps no children",
        behaviours=("children_are_stored",),
    ),
    Declared(
        workers=("live",),
        before=(5, 7),
        reason="no outcome comes within 10 s",
        behaviours=(
            "a_task_that_exits_is_a_lost_worker",
            "a_failure_whose_exception_is_not_an_exception",
        ),
    ),
    Declared(
        brokers=("rabbitmq",),
        reason="RabbitMQ counts the unacknowledged messages; a connection doesn't",
        behaviours=(
            "nothing_is_left_unacknowledged",
            "a_failure_that_is_not_acknowledged_is_rejected",
        ),
    ),
    Declared(
        backends=("rpc",),
        reason="the RPC backend has no chords",
        behaviours=_CHORDS,
    ),
    Declared(
        backends=("rpc",),
        reason="an RPC result is a message to who waits for it: nothing more than value or "
        "exception, nothing to look up later",
        behaviours=(
            "a_revoked_task_stops_its_chain",
            "ignore_leaves_a_state",
            "the_traceback_is_stored",
            "the_cause_is_in_the_traceback",
            "a_retry_waits_for_its_countdown",
            "a_task_starts_pending",
            "a_group_result_is_saved_and_restored",
            "children_are_stored",
            "date_done_is_stored",
            "extended_results",
            "replace_inside_a_group",
        ),
    ),
    Declared(
        backends=("django-db",),
        reason="keeps tracebacks where `result_extended` is on, and has separate fields for "
        "name and arguments",
        behaviours=(
            "the_traceback_is_stored",
            "the_cause_is_in_the_traceback",
            "extended_results",
        ),
    ),
)


def declared(triple: Triple, version: tuple[int, ...]) -> dict[str, dict[str, object]]:
    """What a run has to know: the reason for each declared behaviour, and how to show it."""
    return {
        name: {"reason": each.reason, "fatal": each.fatal, "shown": each.shown_by(triple)}
        for each in TABLE
        if each.holds(triple, version)
        for name in each.behaviours
    }
