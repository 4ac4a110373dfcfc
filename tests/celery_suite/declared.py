"""Which of Celery's own integration tests do not pass, and why; and what they run over."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A worker of the plugin, and where results are."""

    fixture: str
    redis: int  # the database of Redis that is its own
    results: str = "memory"

    def url(self) -> str:
        """Where its Redis is."""
        address = os.environ.get("REDIS_ADDRESS", "127.0.0.1:6379")
        return f"redis://{address}/{self.redis}"

    def arguments(self) -> list[str]:
        """What pytest is given."""
        where = self.url() if self.results == "redis" else self.results
        return [f"--djcelery-result-backend={where}"]


#: The last databases of Redis: the cells of the matrix have the first.
ENGINES = {
    "embedded-memory": Engine(fixture="celery_worker", redis=13),
    "embedded-redis": Engine(fixture="celery_worker", redis=14, results="redis"),
    "inline": Engine(fixture="celery_inline", redis=15, results="redis"),
}


@dataclass(frozen=True, kw_only=True)
class Declared:
    """A reason, and the tests that it is the reason of, over these engines."""

    reason: str
    tests: tuple[str, ...]  # each as ``class::function``
    engines: tuple[str, ...] = tuple(ENGINES)


_EMBEDDED = ("embedded-memory", "embedded-redis")
_INLINE = ("inline",)
_DUPLICATED = "test_chord_header_id_duplicated_on_rabbitmq_msg_duplication"

TABLE = (
    Declared(
        reason="The test publishes each message twice, with a property that JSON doesn't have:"
        " RabbitMQ drops it, and kombu's own brokers refuse the message. Over Redis the test"
        " declares itself failed.",
        tests=(f"test_chain::{_DUPLICATED}[redis-group-ids]",),
    ),
    Declared(
        reason="Two processes sleep for a minute in all; one thread doesn't get there in time, and"
        " says what it runs when it is done with that.",
        tests=("test_tasks::test_revoked_by_headers_complex_canvas",),
        engines=_EMBEDDED,
    ),
    Declared(
        reason="A task runs in the thread of the test, which has its result after that, however"
        " long it took: no wait is too short.",
        tests=("test_tasks::test_timeout", "test_result_set::test_join_exhausted_timeout"),
        engines=_INLINE,
    ),
    Declared(
        reason="The test measures seconds of the machine's clock; a wait moves the test's.",
        tests=(
            "test_tasks::test_eta",
            "test_chord::test_group_or_task_countdown_delays_header",
        ),
        engines=_INLINE,
    ),
    Declared(
        reason="Remote control is obeyed as messages are delivered, and answered by nobody.",
        tests=(
            "test_tasks::test_revoke_keeps_state_of_task_started_elsewhere[STARTED]",
            "test_tasks::test_revoke_keeps_state_of_task_started_elsewhere[PROGRESS]",
            "test_tasks::test_revoke_by_stamped_headers_no_match",
        ),
        engines=_INLINE,
    ),
    Declared(
        reason="The test asks again and again, without a pause in which messages could be"
        " delivered.",
        tests=("test_group::test_ready_with_exception",),
        engines=_INLINE,
    ),
    Declared(
        reason="A time limit is not enforced in the process of the tests; a LimitNotEnforcedWarning"
        " says so.",
        tests=("test_chain::test_chord_soft_timeout_recuperation",),
        engines=("embedded-redis", "inline"),
    ),
)


def declared_for(engine: str) -> dict[str, str]:
    """The reasons of an engine, by the test."""
    return {
        test: entry.reason for entry in TABLE if engine in entry.engines for test in entry.tests
    }
