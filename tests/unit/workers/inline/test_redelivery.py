"""Messages that come again: `celery_inline.redeliver`, late acknowledgement, and lost headers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from celery import chain, chord, group

from pytest_djcelery.errors import BadOptionError
from pytest_djcelery.messages.events import Published
from tests.unit import inline_project
from tests.unit.inline_project import add, app, call, done, end, functions, journal, mail, sent

if TYPE_CHECKING:
    from pytest_djcelery.api.inline import Inline


@pytest.fixture(scope="module", autouse=True)
def _session() -> Iterator[None]:
    with inline_project.session(__file__):
        yield


def test_it_is_delivered_once_more_and_before_all_others(worker: Inline) -> None:
    add.delay(1)
    [first] = worker.run().executions
    add.delay(2)
    assert first.message is not None
    worker.redeliver(first.message)
    assert [waiting.args[0] for waiting in worker.pending] == [1, 2]
    again, other = worker.run().executions
    assert (again.id, again.value, other.value) == (first.id, 1, 2)
    assert again.message is first.message
    assert done == [(1, 0), (1, 0), (2, 0)]


def test_a_redelivered_message_says_so_and_is_otherwise_unchanged(worker: Inline) -> None:
    requests: list[Any] = []
    functions["look"] = lambda: requests.append(call.request.__dict__.copy())
    call.apply_async(
        ("look",), task_id="one", priority=3, headers={"tenant": "ada"}, reply_to="replies",
        app_id="shop", link=add.si(7), link_error=mail.si("ops"), expires=600, countdown=0,
    )  # fmt: skip
    worker.run()
    worker.redeliver(sent()[0])
    worker.run()
    first, second = requests
    info, again = first.pop("delivery_info"), second.pop("delivery_info")
    assert (info.pop("redelivered"), again.pop("redelivered")) == (False, True)
    assert info == again
    own, properties = first.pop("properties"), second.pop("properties")
    for name in ("correlation_id", "reply_to", "app_id", "delivery_mode", "priority"):
        assert properties[name] == own[name]
    assert first == second
    assert done == [(7, 0), (7, 0)]


def test_a_chain_goes_on_twice_in_its_own_order(worker: Inline) -> None:
    chain(add.s(1, 1), add.s(10), add.s(100)).delay()
    worker.run()
    steps = [(1, 1), (2, 10), (12, 100)]
    assert done == steps
    worker.redeliver(sent()[0])
    worker.run()
    assert done == steps * 2


def test_an_error_of_a_redelivered_message_calls_its_errback_again(worker: Inline) -> None:
    end.apply_async(("fail",), link_error=mail.si("ops"))
    assert worker.run(raise_failures=False).failed == 1
    worker.redeliver(sent()[0])
    assert worker.run(raise_failures=False).failed == 1
    assert done == ["fail", "ops", "fail", "ops"]


def test_the_body_of_a_chord_comes_with_a_redelivered_header(worker: Inline) -> None:
    total = app.tasks["shop.add"]
    chord(group(add.s(1)), mail.si("all")).delay()
    worker.run()
    assert done == [(1, 0), "all"]
    header = sent()[0]
    assert header.task == total.name
    assert header.chord is not None
    worker.redeliver(header)
    assert worker.pending[0].chord == header.chord


@pytest.mark.parametrize("what", [None, "shop.add", 1])
def test_anything_but_a_message_is_refused(worker: Inline, what: Any) -> None:
    with pytest.raises(BadOptionError) as error:
        worker.redeliver(what)
    assert str(error.value) == f"redeliver() takes a message of the outbox, got {what!r}."


def test_a_message_of_which_the_queue_is_not_known_is_refused(worker: Inline) -> None:
    add.apply_async((1,), task_id="one")
    with pytest.raises(BadOptionError) as error:
        worker.redeliver(replace(sent()[0], queue=None))
    assert str(error.value) == "shop.add [one] went to an exchange: its queue is not known."


def test_a_redelivered_message_with_an_eta_waits_again(worker: Inline) -> None:
    add.apply_async((1,), countdown=60)
    worker.redeliver(sent()[0])
    assert len(worker.scheduled) == 2
    assert worker.run(until=timedelta(minutes=2)).succeeded == 2


def test_a_requeued_message_is_first_of_its_queue(worker: Inline) -> None:
    end.delay("requeue")
    add.delay(1)
    summary = worker.run()
    assert (summary.rejected, summary.succeeded) == (1, 2)
    assert done == ["requeue", "requeue", (1, 0)]
    assert [execution.message for execution in summary.executions[:2]] == [sent()[0]] * 2


# Finding the record of a message ------------------------------------------------------------


def without_records(worker: Inline) -> None:
    """Lose what messages carry with them, as a library does that copies the headers."""
    worker._sandbox.project.broker.records.clear()  # type: ignore[union-attr]


def test_a_message_that_has_lost_its_record_is_known_by_what_it_says(worker: Inline) -> None:
    for number in range(3):
        add.apply_async((number,), task_id="same")
    mail.apply_async(("ada",), task_id="same")
    without_records(worker)
    executions = worker.run().executions
    assert [execution.message for execution in executions] == sent()


def test_equal_messages_are_each_found_once(worker: Inline) -> None:
    for _ in range(2):
        add.apply_async((1,), task_id="same")
    without_records(worker)
    executions = worker.run().executions
    found = [execution.message for execution in executions]
    assert found[0] is not found[1]
    assert all(any(one is other for other in found) for one in sent())


def test_a_message_whose_headers_were_changed_on_the_way_is_still_found(worker: Inline) -> None:
    add.apply_async((1,), task_id="same", headers={"tenant": "ada"})
    add.apply_async((2,), task_id="same", headers={"tenant": "bob"})
    broker = worker._sandbox.project.broker
    assert broker is not None
    for ready in broker.ready(lambda _: True):
        ready.message["headers"]["trace"] = "new"
        ready.message["headers"]["argsrepr"] = "changed"
    without_records(worker)
    found = [execution.message for execution in worker.run().executions]
    assert [message and message.args for message in found] == [(1,), (2,)]


def test_what_was_not_published_through_celery_has_no_record(worker: Inline) -> None:
    with app.connection_for_write() as connection:
        connection.Producer().publish(
            [[4], {}, {}], routing_key="celery", headers={"id": "by hand", "task": "shop.add"}
        )
    assert worker.pending == []
    [execution] = worker.run().executions
    assert (execution.message, execution.id, execution.value) == (None, "by hand", 4)
    assert str(execution) == "shop.add [by hand], attempt 1"


def test_a_retry_has_a_record_for_each_attempt(worker: Inline) -> None:
    end.apply_async(("retry",), task_id="one")
    first = worker.run().executions[0]
    without_records(worker)
    [second] = worker.run(until=timedelta(minutes=5)).executions
    assert first.message is not None
    assert second.message is not None
    assert (first.message.retries, second.message.retries) == (0, 1)


def test_a_message_that_was_not_sent_leaves_no_record(
    worker: Inline, monkeypatch: pytest.MonkeyPatch
) -> None:
    add.apply_async((1,), task_id="same")
    with monkeypatch.context() as patch:
        broker = worker._sandbox.project.broker

        def fail(*_: Any, **__: Any) -> None:
            raise OSError("the broker is gone")

        patch.setattr(broker, "put", fail)
        with pytest.raises(OSError, match="the broker is gone"):
            add.apply_async((1,), task_id="same", retry=False)
    assert len(list(journal().events(Published))) == 2
    without_records(worker)
    [execution] = worker.run().executions
    assert execution.message is sent()[0]
    assert len(sent()) == 1
