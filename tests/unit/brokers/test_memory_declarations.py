"""What kombu has declared once is declared again at once, in the same way."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import pytest
from kombu import Connection, Exchange, Queue, binding

if TYPE_CHECKING:
    from pytest_djcelery.brokers.memory.queues import Broker

MAIL = Exchange("mail", "topic")
QUEUES = {
    "direct": Queue("mail", Exchange("mail"), "mail"),
    "topic": Queue("mail", MAIL, "mail.#", binding_arguments={"x": 1}),
    "several": Queue("mail", MAIL, "mail", bindings=[binding(Exchange("post"), "post")]),
    "options": Queue("mail", MAIL, "mail", message_ttl=2, auto_delete=True),
    "without an exchange": Queue("mail"),
}


def declared(broker: Broker) -> tuple[Any, ...]:
    state = broker.state
    queues = {name: (queue.auto_delete, queue.ttl) for name, queue in broker.queues.items()}
    return queues, deepcopy(state.exchanges), dict(state.bindings), deepcopy(state.queue_index)


@pytest.fixture(params=QUEUES.values(), ids=QUEUES)
def queue(request: pytest.FixtureRequest) -> Queue:
    found: Queue = request.param
    return found


def test_it_is_as_if_kombu_had_declared_it(
    connection: Connection, broker: Broker, queue: Queue
) -> None:
    assert not broker.declarations.redeclare(queue)
    queue(connection.default_channel).declare()
    broker.declarations.note(queue)
    assert broker.declarations.redeclare(queue)
    found = declared(broker)
    assert found[0].keys() == {"mail"}

    for _ in range(2):
        broker.reset()
        assert broker.pristine
        # kombu does not compare bindings: with any, only the same object is known.
        assert broker.declarations.redeclare(queue if queue.bindings else deepcopy(queue))
        assert declared(broker) == found


def test_another_queue_or_what_is_in_its_way_is_left_to_kombu(
    connection: Connection, broker: Broker
) -> None:
    queue = QUEUES["direct"]
    queue(connection.default_channel).declare()
    broker.declarations.note(queue)
    for other in (
        Queue("post", Exchange("mail"), "mail"),
        Queue("mail", Exchange("post"), "mail"),
        Queue("mail", Exchange("mail"), "post"),
        Queue("mail", Exchange("mail"), "mail", bindings=[binding(Exchange("post"))]),
    ):
        assert not broker.declarations.redeclare(other)

    broker.reset()
    MAIL(connection.default_channel).declare()  # of the same name, and of another type
    assert not broker.declarations.redeclare(queue)
    broker.reset()
    broker.declare("mail")
    assert not broker.declarations.redeclare(queue)


def test_it_is_declared_until_anything_declared_is_removed(
    connection: Connection, broker: Broker
) -> None:
    mail, post = Queue("mail", Exchange("mail"), "mail"), Queue("post", Exchange("post"), "post")
    mail(connection.default_channel).declare()
    broker.declarations.note(mail)
    kept = broker.topology()
    post(connection.default_channel).declare()
    broker.declarations.note(post)
    assert broker.declarations.present == {"mail": mail, "post": post}

    broker.reset(kept)
    assert broker.declarations.present == {"mail": mail}
    broker.delete("mail")
    assert broker.declarations.present == {}
    broker.declarations.note(mail)  # it is gone: there is nothing to remember
    assert broker.declarations.present == {}
