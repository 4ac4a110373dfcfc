"""Messages that are delivered twice: in what order, and what has no say in the second time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pytest
from celery import chain

from pytest_djcelery import inline
from pytest_djcelery.errors import NotIdempotentError
from pytest_djcelery.messages.events import RanTwice
from pytest_djcelery.session.opening import entered_sandbox
from pytest_djcelery.workers.inline import guests
from tests.unit import inline_project
from tests.unit.inline_project import add, done, functions, journal, mail
from tests.unit.inline_project import call as call_function

if TYPE_CHECKING:
    from pytest_djcelery.api.inline import Inline
    from pytest_djcelery.workers.inline.executions import Execution
    from pytest_djcelery.workers.inline.guests import Delivery, Due


@pytest.fixture(scope="module", autouse=True)
def _session() -> Iterator[None]:
    with inline_project.session(__file__):
        yield


@pytest.fixture
def twice() -> Iterator[Inline]:
    """The worker of a sandbox in which each message is delivered twice."""
    done.clear()
    functions.clear()
    with entered_sandbox(redeliver="report"), inline() as worker:
        yield worker


def test_each_second_delivery_follows_the_first_and_carries_nothing_on(twice: Inline) -> None:
    chain(add.s(1), add.s(2)).delay()
    mail.delay("ada")
    executions = twice.run().executions
    assert done == [(1, 0), (1, 0), "ada", "ada", (1, 2), (1, 2)]
    assert [each.redelivered for each in executions] == [False, True] * 3
    assert [each.counted for each in executions] == [True, False] * 3
    assert [event.effects for event in journal().events(RanTwice)] == [()] * 3


def test_guests_are_asked_about_the_first_delivery_alone(twice: Inline) -> None:
    asked: list[object] = []

    class Asked(guests.Guest):
        chooses = True

        def choose(self, due: Sequence[Due], takes: object) -> Due | None:
            asked.append([entry.redelivered for entry in due])
            return due[-1] if due else None

        def ended(self, delivery: Delivery, execution: Execution) -> Execution:
            asked.append(delivery.redelivered)
            return execution

    add.delay(1)
    add.delay(2)
    with guests.joined(Asked()):
        twice.run()
    assert done == [(2, 0), (2, 0), (1, 0), (1, 0)]
    assert asked == [[False, False], False, [False], False, []]


def test_what_the_test_has_sent_waits_while_a_task_runs_again(twice: Inline) -> None:
    depths: list[int] = []
    functions["look"] = lambda: depths.append(len(twice.pending))
    call_function.delay("look")
    add.delay(1)
    twice.step()
    assert depths == [1, 0]  # nothing of the test's is in a queue meanwhile
    assert [message.args for message in twice.pending] == [(1,)]


def test_an_error_that_ends_the_test_leaves_all_as_it_was(twice: Inline) -> None:
    def skip() -> None:
        if done:
            pytest.skip("for a reason")
        done.append("first")

    functions["skip"] = skip
    call_function.delay("skip")
    add.delay(1)
    with pytest.raises(pytest.skip.Exception):
        twice.run()
    assert [message.args for message in twice.pending] == [(1,)]
    assert not list(journal().events(RanTwice))
    assert twice.run().succeeded == 1


def test_a_block_that_ends_raises_what_made_a_difference() -> None:
    done.clear()
    functions["publish"] = lambda: add.delay(3)
    with (  # noqa: PT012 - it is raised by the end of a block
        pytest.raises(NotIdempotentError, match=r"published shop\.add\(3\)"),
        entered_sandbox(redeliver="error"),
        inline() as worker,
    ):
        call_function.delay("publish")
        worker.run()


def test_the_error_shows_the_first_messages_and_their_first_effects() -> None:
    functions["many"] = lambda: [mail.delay(str(number)) for number in range(12)] and None
    with (  # noqa: PT012 - it is raised by the end of a block
        pytest.raises(NotIdempotentError) as caught,
        entered_sandbox(redeliver="error"),
        inline() as worker,
    ):
        for _ in range(13):
            call_function.delay("many")
        worker.run()
    lines = str(caught.value).splitlines()
    assert lines.count("    published shop.mail('9')") == 10
    assert lines.count("    … and 2 more") == 10
    assert lines.count("  … and 3 more messages") == 1
    assert not any("'10'" in line for line in lines)
