"""dramatiq's StubBroker and a Worker, as its guide to unit tests has them."""

import dramatiq
import pytest
from django.contrib.auth.models import User
from django.db import transaction
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import GroupCallbacks
from dramatiq.rate_limits.backends import StubBackend as Limits
from dramatiq.results import Results
from dramatiq.results.backends import StubBackend

broker = StubBroker(middleware=[GroupCallbacks(Limits())])
broker.add_middleware(Results(backend=StubBackend()))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def add(x: int, y: int) -> int:
    """Cost nothing."""
    return x + y


done: list[str] = []


@dramatiq.actor
def total() -> None:
    """Be called when a group has ended."""
    done.append("total")


@dramatiq.actor
def welcome(pk: int) -> None:
    """Need a row."""
    done.append(User.objects.get(pk=pk).username)


def sign_up() -> None:
    """Be the code under test."""
    with transaction.atomic():
        user = User.objects.create(username="ada")
        transaction.on_commit(lambda: welcome.send(user.pk))


@pytest.fixture
def stub_broker():
    """The broker, empty."""
    broker.flush_all()
    done.clear()
    return broker


@pytest.fixture
def stub_worker(stub_broker):
    """A worker in threads."""
    worker = dramatiq.Worker(stub_broker, worker_timeout=100)
    worker.start()
    yield worker
    worker.stop()


def messages(stub_broker) -> list[dramatiq.Message]:
    """What waits in the queue, taken from it."""
    queue = stub_broker.queues["default"]
    found = [dramatiq.Message.decode(queue.get()) for _ in range(queue.qsize())]
    for _ in found:
        queue.task_done()
    return found


@pytest.mark.says(
    "Name, arguments and options of the encoded message, by hand. Not whether the call fits the "
    "actor; nor the transaction."
)
def test_publish_seen(stub_broker) -> None:
    add.send(4, 4)
    [message] = messages(stub_broker)
    assert (message.actor_name, message.args) == ("add", (4, 4))


@pytest.mark.says("A worker in threads; the result. `join()` raises what failed.")
def test_run_one(stub_broker, stub_worker) -> None:
    message = add.send(4, 4)
    stub_broker.join("default")
    stub_worker.join()
    assert message.get_result(block=True) == 8


@pytest.mark.says("")
@pytest.mark.skip("it would wait for three real hours")
def test_retry_with_an_hour_of_back_off() -> None:
    """Not possible: delays are real."""


@pytest.mark.says("That a callback runs after a group of ten. It gets no results: no chord.")
def test_chord(stub_broker, stub_worker) -> None:
    group = dramatiq.group([add.message(n, n) for n in range(10)])
    group.add_completion_callback(total.message())
    group.run()
    assert sum(group.get_results(block=True)) == 90
    stub_broker.join("default")
    stub_worker.join()
    assert done == ["total"]


@pytest.mark.django_db
@pytest.mark.says(
    "That a hook sends it, where the test captures the hooks. Not when, and not the task: a worker "
    "in a thread doesn't see the rows of a rollback test."
)
def test_after_commit(stub_broker, django_capture_on_commit_callbacks) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        sign_up()
    [message] = messages(stub_broker)
    assert message.args == (User.objects.get().pk,)


@pytest.mark.says("Each as a message, through its worker's code, in threads.")
def test_1000_jobs(stub_broker, stub_worker) -> None:
    sent = [add.send(number, 1) for number in range(1000)]
    stub_broker.join("default")
    stub_worker.join()
    assert sent[-1].get_result(block=True) == 1000
