"""What Celery's integration tests have for a ``conftest``: the workers of the plugin."""

from __future__ import annotations

import os
import re
import signal
import time
from contextlib import nullcontext
from datetime import timedelta
from functools import partialmethod, wraps
from types import SimpleNamespace

import pytest
import redis
from celery import current_task
from celery.contrib.testing.manager import Manager
from celery.result import AsyncResult, ResultSet
from declared import ENGINES, declared_for
from t.integration import conftest_of_celery as of_celery
from t.integration import tasks
from t.integration.conftest_of_celery import (  # noqa: F401 - what the tests import from here
    TEST_BACKEND,
    check_for_logs,
    flaky,
    get_redis_connection,
)

from pytest_djcelery import NeverReadyError

NAME = os.environ["CELERY_SUITE_ENGINE"]
ENGINE = ENGINES[NAME]
INLINE = NAME == "inline"
DECLARED = declared_for(NAME)
#: Seconds for a test; for one that is declared to fail, which may do so by hanging.
_LONGEST, _LONGEST_DECLARED = 60, 20
#: Seconds that the tests wait for what is to come, and for what is not to come.
_WAIT = 15 if INLINE else 30
_ABSENCE = 0.2 if INLINE else 2
#: Groups of a thousand: Celery yields the processor twice for each of their messages from Redis,
#: and on a busy machine has it back late.
_WAIT_LARGE = 240


def get_active_redis_channels():
    """Those of this process, without what the plugin puts before the names of each run's keys.

    Redis lists the channels of all its databases, so those of the other engines, too.
    """
    own = re.compile(rb"djcelery-[^.]+-%d-[0-9a-f]+\." % os.getpid())
    channels = of_celery.get_active_redis_channels()
    return [own.sub(b"", channel) for channel in channels if own.match(channel)]


class _Redis(redis.StrictRedis):
    """Of the tests and their tasks, which name no database: this engine's own."""

    def __init__(self, *args, **options):
        if "connection_pool" not in options:
            options.setdefault("db", ENGINE.redis)
        super().__init__(*args, **options)


class InlineManager(Manager):
    """Celery's helper of tests, with a worker that delivers when a test waits."""

    worker = None

    def wait_for(self, *args, **options):
        self.worker.run(raise_failures=False)
        return super().wait_for(*args, **options)

    def wait_until_idle(self, *_args, **_options):
        self.worker.run(raise_failures=False)


@pytest.fixture(scope="session", autouse=True)
def own_redis():
    """The engine's own database, empty before and after."""
    server = redis.StrictRedis.from_url(ENGINE.url())
    server.flushdb()
    stock, redis.StrictRedis = redis.StrictRedis, _Redis
    yield
    redis.StrictRedis = stock
    server.flushdb()


@pytest.fixture
def app(celery_app):
    return celery_app


@pytest.fixture(autouse=True)
def suite_worker(request, monkeypatch):
    """In the place of the one worker of Celery's session, that all tests share."""
    worker = request.getfixturevalue(ENGINE.fixture)
    monkeypatch.setattr(request.module, "TIMEOUT", _WAIT_LARGE if _large(request.node) else _WAIT)
    for name in ("await_redis_echo", "await_redis_count", "await_redis_list_message_length"):
        if hasattr(request.module, name):
            monkeypatch.setattr(request.module, name, _not_for_long(getattr(request.module, name)))
    if hasattr(request.module, "sleep"):  # between sending and looking
        monkeypatch.setattr(request.module, "sleep", lambda seconds: time.sleep(min(seconds, 0.2)))
    if INLINE:
        _deliver_where_a_test_waits(request.module, request.node.name, worker, monkeypatch)
    return worker


@pytest.fixture
def subtests(request, subtests):
    """A mark does not reach subtests: the first failure of a declared test is the test's."""
    if _name(request.node) in DECLARED:
        return SimpleNamespace(test=lambda *_args, **_options: nullcontext())
    return subtests


def _not_for_long(wait):
    @wraps(wait)
    def shorter(*args, timeout=_WAIT, **kwargs):
        return wait(*args, timeout=min(timeout, _ABSENCE), **kwargs)

    return shorter


@pytest.fixture
def manager(celery_app, suite_worker):
    if not INLINE:
        yield Manager(celery_app)
        suite_worker.wait_until_idle()
        return
    manager = InlineManager(celery_app)
    manager.worker = suite_worker
    yield manager
    manager.wait_until_idle()


def _deliver_where_a_test_waits(module, test, worker, monkeypatch):
    """A test that sleeps, gets a result or asks Redis for what its tasks left lets the worker work.

    It tells the worker to, as a test of a project would; and moves the clock by what it waits.
    """
    server = module.get_redis_connection

    def sleep(seconds):
        worker.run(until=timedelta(seconds=seconds), raise_failures=False)

    def connection():
        worker.run(raise_failures=False)
        return server()

    monkeypatch.setattr(module, "get_redis_connection", connection)
    if hasattr(module, "sleep"):
        monkeypatch.setattr(module, "sleep", sleep)
    else:
        patched = SimpleNamespace(**{**vars(time), "sleep": sleep})
        monkeypatch.setattr(module, "time", patched)
    if test != "test_expired":  # which needs the seconds
        # A task that sleeps keeps the test from going on, and that is all.
        monkeypatch.setattr(tasks, "sleep", lambda _seconds: None)
    for kind in (AsyncResult, ResultSet):
        monkeypatch.setattr(kind, "get", partialmethod(_get, kind.get, sleep))
    if hasattr(module, "assert_ping"):
        # Nobody answers (see the fidelity page), and these tests are about other things.
        monkeypatch.setattr(module, "assert_ping", lambda _manager: None)


def _get(result, stock, sleep, *args, **options):
    try:
        return stock(result, *args, **options)
    except NeverReadyError:
        if current_task:
            raise
        sleep(_WAIT)
        return stock(result, *args, **options)


@pytest.fixture(autouse=True)
def ends_in_time(request):
    longest = _LONGEST_DECLARED if _name(request.node) in DECLARED else _LONGEST
    if _large(request.node):
        longest = _WAIT_LARGE

    def too_late(*_):
        pytest.fail(f"the test took longer than {longest} s")  # which no test takes for its own

    before = signal.signal(signal.SIGALRM, too_late)
    signal.alarm(longest)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def _large(item):
    return "_large_" in item.name


def _name(item):
    return item.nodeid.partition("::")[2]


@pytest.hookimpl(tryfirst=True)  # before -k takes some away
def pytest_collection_modifyitems(items):
    """A declared test has to fail, and has to be there."""
    by_name = {_name(item): item for item in items}
    for name, reason in DECLARED.items():
        if name in by_name:
            by_name[name].add_marker(pytest.mark.xfail(strict=True, reason=reason))
    whole = len({item.path for item in items}) > 1
    if whole and (missing := sorted(set(DECLARED) - set(by_name))):
        message = f"declared.py names tests that Celery does not have: {', '.join(missing)}"
        raise pytest.UsageError(message)
