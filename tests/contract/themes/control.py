"""Remote control"""

from __future__ import annotations

import pytest
from shop.contract import plain, processes

from pytest_djcelery import Success

pytestmark = pytest.mark.django_db


@pytest.fixture
def ask(work, celery_app):
    """Ask the worker, and return what it answers."""

    def ask(command, **arguments):
        [answers] = celery_app.control.broadcast(
            command, arguments=arguments, reply=True, limit=1, timeout=work.patience
        )
        [answer] = answers.values()
        return answer

    return ask


def queues(ask):
    """The names of the queues that the worker consumes from."""
    return {queue["name"] for queue in ask("active_queues")}


def test_ping(ask):
    """`ping`"""
    assert ask("ping") == {"ok": "pong"}


def test_registered(ask):
    """`registered` lists the tasks"""
    assert "shop.contract.plain.add" in ask("registered")


def test_active_queues(ask):
    """`active_queues` lists the queues"""
    assert {"celery", "elsewhere"} <= queues(ask)


def test_stats(work, ask):
    """`stats` counts the tasks by name"""
    assert work(plain.add.s(1, 2)) == Success(3)
    work.until(lambda: ask("stats")["total"].get("shop.contract.plain.add", 0) >= 1)


def test_active(work, ask, log):
    """`active` lists what runs"""
    result = processes.meet.delay("the task", "the answer", work.too_long)
    work.until(lambda: "the task" in log)
    assert [each["id"] for each in ask("active")] == [result.id]
    log.append("the answer")
    assert work.outcome(result) == Success("together")


def test_scheduled(work, ask):
    """`scheduled` lists what waits for its ETA"""
    result = plain.add.apply_async((1, 2), countdown=2)
    work.until(lambda: ask("scheduled"))
    assert result.id in [each["request"]["id"] for each in ask("scheduled")]
    work.later(2)
    assert work.outcome(result) == Success(3)


def test_revoked(ask):
    """`revoked` lists the ids that were revoked"""
    ask("revoke", task_id="some-id")
    assert "some-id" in ask("revoked")


def test_a_rate_limit_by_remote_control(work, ask):
    """`rate_limit` changes the limit of a task"""
    ask("rate_limit", task_name=processes.tell_time.name, rate_limit="5/s")
    results = [processes.tell_time.delay() for _ in range(3)]
    times = [work.outcome(result).value for result in results]
    assert max(times) - min(times) >= 0.25  # of 0.4; the first can begin late


def test_add_and_cancel_consumer(work, ask):
    """`add_consumer` and `cancel_consumer` change the queues"""
    ask("add_consumer", queue="added")
    work.until(lambda: "added" in queues(ask))  # it is added and cancelled after the answer
    assert work(plain.add.s(1, 2).set(queue="added")) == Success(3)
    ask("cancel_consumer", queue="added")
    work.until(lambda: "added" not in queues(ask))
