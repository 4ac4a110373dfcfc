"""What the contract's project has for a ``conftest``: the workers, and what is declared of them."""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

KIND = os.environ["CONTRACT_WORKER"]
DECLARED = json.loads(os.environ["CONTRACT_DECLARED"])
OUTCOMES = Path(os.environ["CONTRACT_OUTCOMES"])
_DEADLINE = 10  # seconds, for what has to happen


class NotSeenError(Exception):
    """What a behaviour needs to see can't be seen of this worker."""


def _held_of(channel):
    qos = getattr(channel, "qos", None)
    if not hasattr(qos, "_delivered"):
        msg = "the broker keeps the count"
        raise NotSeenError(msg)
    return len(qos._delivered) - len(qos._dirty)


class Eager:
    fixture = "celery_eager"
    #: Seconds for which a task lasts that is to be cut short.
    too_long = 0.5
    #: Seconds for an answer of remote control.
    patience = 0.1
    #: What remote control takes, so that it has been obeyed when the call returns.
    obeyed = {}  # noqa: RUF012 - read only

    def __init__(self, worker):
        self.worker = worker

    def settle(self):
        pass

    def later(self, seconds):
        pass

    def until(self, condition):
        self.settle()
        assert condition()

    def unacknowledged(self):
        msg = "there are no messages"
        raise NotSeenError(msg)


class Inline(Eager):
    fixture = "celery_inline"

    def settle(self):
        assert self.worker.run(raise_failures=False).executions is not None  # looked at

    def later(self, seconds):
        self.worker.run(until=timedelta(seconds=seconds), raise_failures=False)
        self.settle()

    def unacknowledged(self):
        return _held_of(self.worker._runs.worker._channel)


class Embedded(Eager):
    fixture = "celery_worker"
    patience = _DEADLINE
    obeyed = {"reply": True, "limit": 1, "timeout": _DEADLINE}  # noqa: RUF012 - read only

    def settle(self):
        self.worker.wait_until_idle()

    def later(self, seconds):
        time.sleep(seconds)
        self.worker.wait_until_idle()

    def until(self, condition):
        deadline = time.monotonic() + _DEADLINE
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)  # a file of another process, which tells nobody

    def unacknowledged(self):
        return _held_of(self.worker.consumer.task_consumer.channel)


class Live(Embedded):
    fixture = "celery_live_worker"
    too_long = 30

    def unacknowledged(self):
        [answers] = self.app.control.broadcast("unacknowledged", **self.obeyed)
        [count] = answers.values()
        if not isinstance(count, int):
            raise NotSeenError(count)
        return count


KINDS = {"eager": Eager, "inline": Inline, "embedded": Embedded, "live": Live}


@pytest.fixture
def work(request, celery_app, celery_results, celery_outbox):
    class Work(KINDS[KIND]):
        kind = KIND
        app = celery_app
        broker = os.environ["CONTRACT_BROKER"]
        backend = os.environ["CONTRACT_BACKEND"]

        def __call__(self, signature):
            return self.outcome(signature.apply_async())

        def outcome(self, result):
            outcome = celery_results[result]
            self.settle()  # handlers and signals come after the outcome
            return outcome

        def get(self, canvas):
            return canvas.apply_async().get(timeout=_DEADLINE)

        def looked_at_everything(self):
            for sent in celery_outbox:
                celery_results.now(sent.id)

    return Work(request.getfixturevalue(KINDS[KIND].fixture))


@pytest.fixture(autouse=True)
def outbox(celery_outbox):
    return celery_outbox


@pytest.fixture(autouse=True)
def log():
    from shop.contract.log import LOG

    LOG.clear()
    return LOG


@pytest.fixture
def signals_log(log):
    from shop.contract.heard import LISTENING

    LISTENING.touch()
    yield log
    LISTENING.unlink()


def pytest_itemcollected(item):
    item.user_properties.append(("behaviour", item.originalname.removeprefix("test_")))
    if KIND in ("embedded", "live"):
        # A second connection to the database is in play.
        item.fixturenames.insert(0, "transactional_db")


def pytest_collection_modifyitems(config, items):
    """A declared behaviour has to fail; one that is shown by another run is left out."""
    left_out = [item for item in items if not _declared(item).get("shown", True)]
    config.hook.pytest_deselected(items=left_out)
    kept = [item for item in items if item not in left_out]
    # Those that end their process come first: its copy is made before any thread is started.
    items[:] = sorted(kept, key=lambda item: not _declared(item).get("fatal"))
    for item in items:
        if _declared(item):
            item.add_marker(pytest.mark.xfail(strict=True, reason=_declared(item)["reason"]))
            item.add_marker(pytest.mark.celery_unhandled_failures("ignore"))


def _behaviour(item):
    return dict(item.user_properties)["behaviour"]


def _declared(item):
    return DECLARED.get(_behaviour(item), {})


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item):
    """Show a behaviour that ends its process in a copy of this one."""
    if not _declared(item).get("fatal"):
        return None
    copy = os.fork()
    if copy == 0:
        try:
            runtestprotocol(item, log=False, nextitem=None)
        finally:
            os._exit(0)
    _, status = os.waitpid(copy, 0)
    ended = os.WIFSIGNALED(status)
    report = pytest.TestReport(
        item.nodeid, item.location, {}, "skipped" if ended else "failed", None, "call"
    )
    if ended:
        report.wasxfail = _declared(item)["reason"]
    else:
        report.longrepr = "It ended nothing."
    item.ihook.pytest_runtest_logreport(report=report)
    _record(item, report)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "teardown" and report.failed and _declared(item):
        report.outcome = "passed"  # what a failed test has left half done is no news
    if report.when == "call" or report.failed or report.skipped:
        _record(item, report)
    return report


def _record(item, report):
    outcome = "declared" if hasattr(report, "wasxfail") else report.outcome
    with OUTCOMES.open("a") as file:
        line = {"behaviour": _behaviour(item), "outcome": outcome, "when": report.when}
        file.write(json.dumps(line) + "\n")
