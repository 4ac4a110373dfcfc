"""What goes wrong with a worker that runs beside the tests."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project, Run

ENDLESS = """
    import threading

    never = threading.Event()

    @shared_task
    def wait_for_ever(order):
        never.wait()
"""


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_pitfalls_15_and_16_a_task_that_never_ends_is_named_and_the_next_test_runs(
    run: Run, project: Project, pool: str
) -> None:
    project.tasks(ENDLESS)
    project.ini("djcelery_timeout = 1")
    result = run(f"""
        import pytest
        from celery.worker import state
        from shop.models import Order
        from shop.tasks import add, count_orders, wait_for_ever

        @pytest.fixture(scope="session")
        def celery_worker_pool():
            return {pool!r}

        def test_endless(celery_worker):
            wait_for_ever.delay("A-1")

        def test_next(celery_worker):
            assert state.should_stop is None
            assert state.should_terminate is None
            assert add.delay(1, 2).get() == 3

        @pytest.mark.django_db
        def test_after_it(celery_worker):
            Order.objects.create()
            assert count_orders.delay().get() == 1
    """)

    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(
        [
            (
                "*WorkerError: A task still runs 1 s after the test; "
                "running: shop.tasks.wait_for_ever[[]*]"
            ),
            "*Thread 'celery-*' is at:",
            '*shop*tasks.py", line *, in wait_for_ever',
            "*never.wait()*",
            (
                "*the next test starts a new worker. "
                "Wait for the task in the test, or raise djcelery_timeout."
            ),
            "ERROR test_it.py::test_endless*",
        ]
    )


def test_pitfall_15_waiting_for_a_task_that_never_ends_shows_where_it_stands(
    run: Run, project: Project
) -> None:
    project.tasks(ENDLESS)
    project.ini("djcelery_timeout = 1")
    result = run("""
        from shop.tasks import never, wait_for_ever

        def test_get(celery_worker):
            result = wait_for_ever.delay("A-1")
            try:
                result.get()
            finally:
                never.set()

        def test_idle(celery_worker):
            never.clear()
            wait_for_ever.delay("A-2")
            try:
                celery_worker.wait_until_idle(timeout=0.1)
            finally:
                never.set()
    """)

    result.assert_outcomes(failed=2)
    stack = [
        "E *running: shop.tasks.wait_for_ever[[]*]",
        "E *in wait_for_ever",
        "E *never.wait()",
    ]
    result.stdout.fnmatch_lines(["E *WaitTimeoutError: No result for * after 1 s.", *stack])
    result.stdout.fnmatch_lines(
        ["E *WaitTimeoutError: celery_worker is not idle after 0.1 s.", *stack]
    )


STEP = """
import threading

import pytest

from celery import bootsteps
from celery.worker import state
from pytest_djcelery import worker
from shop.tasks import add

class Starting(bootsteps.StartStopStep):
    def start(self, parent):
        {start}

@pytest.fixture
def stuck(celery_app):
    celery_app.steps["worker"].add(Starting)
    yield
    celery_app.steps["worker"].discard(Starting)

"""


def test_pitfall_16_a_start_is_bounded_and_needs_no_clean_state(run: Run, project: Project) -> None:
    project.ini("djcelery_timeout = 1")
    result = run(
        STEP.format(start="threading.Event().wait()  # for ever")
        + """
def test_stuck(stuck, celery_worker):
    pass

def test_left_over(celery_app):
    state.should_stop = state.should_terminate = 0
    with worker():
        assert add.delay(1, 2).get() == 3

def test_next(celery_worker):
    assert add.delay(1, 2).get() == 3
"""
    )

    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*WorkerError: The embedded worker was not ready after 1 s. Its thread is at:",
            "*threading.Event().wait()  # for ever*",
        ]
    )


def test_pitfall_17_a_worker_serves_one_test_after_another_and_is_clean_for_each(
    run: Run, project: Project
) -> None:
    project.tasks("""
        @shared_task
        def tell_thread():
            import threading
            return threading.get_ident()
    """)
    result = run("""
        import pytest
        from celery.worker import state
        from shop.tasks import add, tell_thread

        threads = set()

        @pytest.mark.parametrize("number", range(4))
        def test_many(celery_worker, number):
            assert not state.revoked
            assert not getattr(state, "scheduled_requests", ())
            assert not state.reserved_requests
            assert state.total_count == {}
            threads.add(tell_thread.delay().get())
            later = add.apply_async((1, 2), countdown=3600)
            other = add.apply_async((1, 2), countdown=3600)
            other.revoke()
            celery_worker.wait_until_idle()

        def test_it_was_one_worker():
            assert len(threads) == 1

        def test_a_queue_added_in_one_test(celery_app, celery_worker):
            celery_app.control.add_consumer("extra", reply=True)
            assert add.apply_async((1, 2), queue="extra").get() == 3

        def test_is_not_consumed_in_the_next(celery_worker):
            assert [queue.name for queue in celery_worker.consumer.task_consumer.queues] == [
                "celery"
            ]
            assert add.delay(1, 2).get() == 3
    """)

    result.assert_outcomes(passed=7)


def test_pitfall_18_start_result_and_stop_wait_on_events_and_never_sleep(run: Run) -> None:
    result = run("""
        import sys
        import threading
        import time

        import pytest
        from pytest_djcelery.recording import result_waits as waiting
        from pytest_djcelery import worker
        from shop.tasks import add

        slept, timed_out = [], []
        real_wait = threading.Condition.wait

        def sleep(seconds):
            slept.append(seconds)
            raise AssertionError(f"sleeps for {seconds} s")

        def wait(self, timeout=None):
            notified = real_wait(self, timeout)
            if not notified and threading.current_thread() is threading.main_thread():
                timed_out.append(timeout)
            return notified

        @pytest.fixture
        def no_polls(monkeypatch):
            real_sleep = time.sleep
            for module in list(sys.modules.values()):
                for name, value in list(getattr(module, "__dict__", {}).items()):
                    if value is real_sleep:
                        monkeypatch.setattr(module, name, sleep)
            monkeypatch.setattr(threading.Condition, "wait", wait)
            monkeypatch.setattr(waiting, "_RECHECK", 3600.0)  # results of other processes

        @pytest.mark.parametrize("pool", ["solo", "threads"])
        def test_life(celery_app, no_polls, pool):
            with worker(pool=pool) as running:
                assert [add.delay(number, 1).get() for number in range(20)] == list(range(1, 21))
                add.delay(1, 2)
                running.wait_until_idle()
            assert time.sleep is sleep
            assert slept == []
            assert timed_out == []
    """)

    result.assert_outcomes(passed=2)


def test_pitfall_18_a_worker_is_not_idle_while_a_task_is_late(run: Run, project: Project) -> None:
    """A timer's thread that the machine has no time for is held here for as long as it takes."""
    project.tasks("""
        ran = []

        @shared_task
        def note(text):
            ran.append(text)
    """)
    result = run("""
        import threading

        import pytest
        from pytest_djcelery import WaitTimeoutError, worker
        from shop.tasks import note, ran

        @pytest.mark.parametrize("pool", ["solo", "threads"])
        def test_late(celery_app, pool):
            ran.clear()
            held, go_on = threading.Event(), threading.Event()
            with worker(pool=pool) as running:
                running.timer.call_after(0, lambda: held.set() or go_on.wait(30))
                assert held.wait(10)
                note.apply_async(("soon",), countdown=0.001)
                note.apply_async(("some time",), countdown=3600)
                note.apply_async(("now",)).get()
                with pytest.raises(WaitTimeoutError):
                    running.wait_until_idle(timeout=0.2)
                assert ran == ["now"]
                go_on.set()
                running.wait_until_idle()
                assert ran == ["now", "soon"]
    """)

    result.assert_outcomes(passed=2)


def test_pitfall_19_logging_is_left_alone_and_caplog_has_the_logs_of_tasks(
    run: Run, project: Project
) -> None:
    project.tasks("""
        from celery.utils.log import get_task_logger

        logger = get_task_logger(__name__)

        @shared_task
        def log(text):
            logger.warning("task says %s", text)
            print("printed by a task")
    """)
    result = run("""
        import logging
        import sys

        import pytest
        from pytest_djcelery import worker
        from shop.tasks import log

        def state_of_logging():
            root = logging.getLogger()
            names = ["celery", "celery.task", "celery.worker", "celery.redirected"]
            return root.level, list(root.handlers), [
                (logging.getLogger(name).handlers[:], logging.getLogger(name).propagate)
                for name in names
            ], sys.stdout, sys.stderr

        @pytest.mark.parametrize("number", [1, 2])
        def test_caplog(celery_app, caplog, capsys, number):
            before = state_of_logging()
            with worker():
                assert state_of_logging() == before
                with caplog.at_level(logging.INFO):
                    log.delay("hello").get()
                assert state_of_logging() == before
            assert state_of_logging() == before
            assert "task says hello" in caplog.messages
            assert any("Task shop.tasks.log" in m and "succeeded" in m for m in caplog.messages)
            assert capsys.readouterr().out == "printed by a task\\n"
    """)

    result.assert_outcomes(passed=2)


def test_pitfall_40_a_worker_traces_as_before_once_attributes_of_tasks_have_changed(
    run: Run, project: Project
) -> None:
    project.settings("CELERY_TASK_TRACK_STARTED = True\n")
    result = run("""
        import logging
        import pytest
        from celery import shared_task
        from shop.tasks import add

        @pytest.fixture
        def info(caplog):
            with caplog.at_level(logging.INFO):
                yield caplog

        def check(worker, results, caplog):
            result = add.delay(1, 2)
            assert result.get() == 3
            worker.wait_until_idle()
            [started] = [each for each in results.history(result) if each.state == "STARTED"]
            assert started.meta["hostname"] == worker.hostname
            assert any("shop.tasks.add" in m and "received" in m for m in caplog.messages)
            assert any("shop.tasks.add" in m and "succeeded" in m for m in caplog.messages)

        def test_first(info, celery_worker, celery_results):
            check(celery_worker, celery_results, info)

        def test_eager_mode_between(celery_eager):
            assert add.delay(1, 2).get() == 3

        def test_after_eager_mode(info, celery_worker, celery_results):
            check(celery_worker, celery_results, info)

        @pytest.mark.celery(task_acks_late=True)
        def test_with_a_change_of_its_own(celery_worker, celery_results, caplog):
            with caplog.at_level(logging.INFO):
                check(celery_worker, celery_results, caplog)

        def test_with_a_change_while_it_runs(celery_app, celery_worker, celery_results, caplog):
            celery_app.conf.task_acks_late = True
            with caplog.at_level(logging.INFO):
                check(celery_worker, celery_results, caplog)

        def test_a_task_that_comes_later_is_logged_too(celery_worker, caplog):
            @shared_task
            def late():
                return 1

            assert late.delay().get() == 1
            with caplog.at_level(logging.INFO):
                assert late.delay().get() == 1
                celery_worker.wait_until_idle()
            assert any("late" in m and "received" in m for m in caplog.messages)
            assert any("late" in m and "succeeded" in m for m in caplog.messages)
    """)

    result.assert_outcomes(passed=6)


def test_pitfall_20_no_message_or_result_of_one_test_reaches_the_next(
    run: Run, project: Project
) -> None:
    project.tasks("""
        ran = []

        @shared_task
        def note(text):
            ran.append(text)
            return text
    """)
    result = run("""
        from shop.tasks import note, ran

        first = []

        def test_that_only_publishes():
            note.delay("published with no fixture")

        def test_that_runs_nothing(celery_app):
            note.delay("published with no worker")
            note.apply_async(("later",), countdown=0.001)

        def test_with_a_worker(celery_worker):
            first.append(note.delay("own"))
            assert first[0].get() == "own"
            celery_worker.wait_until_idle()
            assert ran == ["own"]

        def test_results(celery_app):
            assert celery_app.AsyncResult(first[0].id).state == "PENDING"
    """)

    result.assert_outcomes(passed=4)


LEFT_OVERS = """
    import pytest
    from celery import shared_task
    from celery.worker import state
    from shop.tasks import add

    def check(app):
        assert app.conf.task_default_queue == "celery"
        assert app.conf.result_expires.days == 1
        assert list(app.amqp.queues) == ["celery"]
        assert list(app.amqp.queues.consume_from) == ["celery"]
        assert not state.revoked
        assert add.rate_limit is None
        assert app.control.purge() == 0

    def test_pollute_configuration(celery_app):
        celery_app.conf.task_default_queue = "other"
        celery_app.conf.result_expires = 1
        add.delay(1, 2)

    def test_pollute_worker(celery_app, celery_worker):
        celery_app.control.revoke("never-sent")
        celery_app.control.rate_limit("shop.tasks.add", "1/h", reply=True)
        celery_app.control.add_consumer("extra", reply=True)
        celery_app.control.pool_grow(1)
        add.apply_async((1, 2), countdown=3600)

    def test_check(celery_app, celery_worker):
        check(celery_app)
        results = [add.delay(number, 1) for number in range(3)]
        assert [result.get() for result in results] == [1, 2, 3]

    def test_check_without_a_worker(celery_app):
        check(celery_app)
"""


@pytest.mark.parametrize("order", ["checks last", "checks first", "one alone"])
def test_pitfall_40_a_test_passes_alone_and_after_those_that_leave_everything_changed(
    run: Run, order: str
) -> None:
    pollute = ["test_pollute_configuration", "test_pollute_worker"]
    check = ["test_check", "test_check_without_a_worker"]
    names = {
        "checks last": pollute + check,
        "checks first": check + pollute,
        "one alone": ["test_check"],
    }[order]

    result = run(LEFT_OVERS, *(f"test_it.py::{name}" for name in names))

    result.assert_outcomes(passed=len(names))


@pytest.mark.parametrize("runner", ["worker", "inline", "eager"])
def test_pitfall_40_a_task_that_a_test_defines_is_gone_with_it(
    run: Run, project: Project, runner: str
) -> None:
    """Celery keeps the first task of a name: the next test would run it in place of its own."""
    project.write(
        **{
            "shop/late": """
                from celery import shared_task

                def made():
                    @shared_task
                    def late():
                        return "late"
                    return late

                late = made()
                """
        }
    )
    result = run(f"""
        import importlib

        import pytest
        from celery import Task, shared_task

        @pytest.fixture(scope="module")
        def of_the_module(celery_session_app):
            @celery_session_app.task
            def shout(text):
                return text.upper()
            return shout

        @pytest.mark.parametrize("number", [1, 2, 3])
        def test_it(celery_{runner}, celery_app, celery_outbox, of_the_module, number):
            class OfAClass(Task):
                name = "of.a.class"

                def run(self):
                    return number

            @shared_task
            def own(x):
                return x * number

            assert celery_app.register_task(OfAClass()).delay().get() == number
            assert own.delay(2).get() == 2 * number
            assert celery_outbox.of(own) == [own.s(2)]
            assert of_the_module.delay("a").get() == "A"
            late = importlib.import_module("shop.late")
            assert late.late.delay().get() == "late"

        def test_none_is_left(celery_app):
            assert "of.a.class" not in celery_app.tasks
            assert "test_it.own" not in celery_app.tasks
            assert "shop.late.late" in celery_app.tasks
    """)
    result.assert_outcomes(passed=4)


def test_pitfall_17_a_task_that_takes_the_place_of_another_is_run_by_a_worker_that_runs(
    run: Run,
) -> None:
    result = run("""
        from celery import Task
        from shop.tasks import add

        class Tripled(Task):
            name = add.name

            def run(self, x, y):
                return 3 * (x + y)

        def test_it(celery_worker, celery_app):
            assert add.delay(1, 2).get() == 3
            before = celery_app.tasks[add.name]
            tripled = celery_app.tasks[add.name] = Tripled()
            tripled.bind(celery_app)
            try:
                assert add.delay(1, 2).get() == 9
            finally:
                celery_app.tasks[add.name] = before
            assert add.delay(1, 2).get() == 3
    """)
    result.assert_outcomes(passed=1)


def test_pitfall_43_processes_of_xdist_never_see_each_others_messages(
    run: Run, project: Project
) -> None:
    result = run("""
        import os
        from pathlib import Path

        import pytest
        from celery.signals import task_prerun
        from shop.tasks import add

        ran = []

        @task_prerun.connect
        def note(task_id, **kwargs):
            ran.append(task_id)

        @pytest.mark.parametrize("number", range(12))
        def test_own(celery_app, celery_worker, number):
            ran.clear()
            results = [add.delay(number, 1) for _ in range(5)]
            celery_worker.wait_until_idle()
            assert ran == [result.id for result in results]
            with open(os.environ["PYTEST_XDIST_WORKER"], "a") as seen:
                seen.write(celery_app.conf.broker_url + "\\n")
    """, "-n", "2")  # fmt: skip

    result.assert_outcomes(passed=12)
    urls = [set((project.path / name).read_text().splitlines()) for name in ("gw0", "gw1")]
    assert [len(each) for each in urls] == [1, 1]
    assert urls[0] != urls[1]


def test_pitfall_46_coverage_sees_the_bodies_of_tasks(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("coverage", reason="coverage is not installed")
    for name in (
        "COVERAGE_PROCESS_START",
        "COVERAGE_PROCESS_CONFIG",
        "COVERAGE_FILE",
    ):  # of a measured run
        monkeypatch.delenv(name, raising=False)
    project.write(
        test_it="""
        from shop.tasks import add

        def test_add(celery_worker):
            assert add.delay(1, 2).get() == 3
        """
    )

    command = [sys.executable, "-m", "coverage"]
    run = [*command, "run", "--rcfile=", "--include=shop/tasks.py", "-m", "pytest"]
    assert project.pytester.run(*run, "-p", "no:cacheprovider").ret == 0
    assert project.pytester.run(*command, "json", "--rcfile=", "-o", "coverage.json").ret == 0

    report = json.loads((project.path / "coverage.json").read_text())
    [measured] = report["files"].values()
    lines = (project.path / "shop/tasks.py").read_text().splitlines()
    body = 1 + next(number for number, line in enumerate(lines) if "return x + y" in line)
    other = 1 + next(number for number, line in enumerate(lines) if "raise ValueError" in line)
    assert body in measured["executed_lines"]
    assert other in measured["missing_lines"]


def test_pitfall_47_patches_settings_and_mails_reach_the_worker(run: Run, project: Project) -> None:
    project.tasks("""
        from django.conf import settings
        from django.core.mail import send_mail

        def charge():
            raise RuntimeError("the real gateway")

        @shared_task
        def pay():
            send_mail("Paid", charge(), None, ["ada@example.com"])
            return settings.SHOP_NAME
    """)
    result = run("""
        from unittest import mock

        import pytest
        from shop import tasks

        @pytest.mark.parametrize("name", ["first", "second"])
        def test_patches(celery_worker, settings, mailoutbox, name):
            settings.SHOP_NAME = name
            with mock.patch("shop.tasks.charge", return_value=name) as charge:
                assert tasks.pay.delay().get() == name
            charge.assert_called_once_with()
            assert [mail.body for mail in mailoutbox] == [name]

        def test_without_the_patch(celery_worker):
            with pytest.raises(RuntimeError, match="the real gateway"):
                tasks.pay.delay().get()
    """)

    result.assert_outcomes(passed=3)


RECEIVERS_COUNTED = """
import weakref

import pytest

def receivers():
    from celery import signals
    from celery.utils.dispatch import Signal
    from django.core import signals as of_requests
    from django.db import models
    from django.db.backends.signals import connection_created
    from django.test.signals import setting_changed
    from proj.celery import app

    found = {
        name: len(signal._live_receivers(None))
        for name, signal in vars(signals).items()
        if isinstance(signal, Signal)
    }
    found["configure"] = len(app.on_after_configure._live_receivers(None))
    found["finalize"] = len(app.on_after_finalize._live_receivers(None))
    for name, signal in {
        "connection_created": connection_created,
        "setting_changed": setting_changed,
        "request_finished": of_requests.request_finished,
        "post_save": models.signals.post_save,
    }.items():
        found[name] = count_ours(signal)  # Django connects its own when they load
    return found

def count_ours(signal):
    found = [entry[1] for entry in signal.receivers]
    found = [each() if isinstance(each, weakref.ref) else each for each in found]
    return sum(
        each is not None and each.__module__.startswith("pytest_djcelery")
        for each in found
    )

class Bracket:
    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self):
        self.before = receivers()

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self):
        after = receivers()
        left = {name for name in after if after[name] != self.before[name]}
        print("receivers left:", sorted(left))

def pytest_configure(config):
    config.pluginmanager.register(Bracket())

@pytest.fixture
def count():
    return receivers
"""


def test_pitfall_51_signal_receivers_are_put_back(run: Run, project: Project) -> None:
    project.write(conftest=RECEIVERS_COUNTED)
    result = run("""
        import pytest
        from shop.models import Order
        from shop.tasks import add

        def test_none(count):
            count.first = count()

        def test_no_worker(celery_outbox, celery_on_commit, celery_results, celery_eager):
            assert add.delay(1, 2).get() == 3

        def test_as_before(count):
            assert count() == count.first

        @pytest.mark.django_db
        def test_worker(celery_worker):
            assert add.delay(1, 2).get() == 3

        def test_after_one(count):
            count.one = count()

        @pytest.mark.django_db
        @pytest.mark.parametrize("number", range(5))
        def test_workers(celery_worker, celery_outbox, celery_results, number):
            Order.objects.create()
            assert add.delay(1, 2).get() == 3

        def test_after_many(count):
            assert count() == count.one
    """, "-s")  # fmt: skip

    result.assert_outcomes(passed=11)
    result.stdout.fnmatch_lines(["*receivers left: [[]]"])


def test_pitfall_54_a_worker_that_cannot_start_shows_its_own_exception_at_once(run: Run) -> None:
    result = run(
        STEP.format(start="raise RuntimeError('no licence for this worker')")
        + """
def test_broken(stuck, celery_worker):
    pass

def test_unknown_queue(celery_app):
    with worker(parameters={"queues": "nowhere"}):
        pass

@pytest.mark.celery(task_create_missing_queues=False)
def test_missing_queue(celery_app):
    with worker(parameters={"queues": "nowhere"}):
        pass

def test_next(celery_worker):
    assert add.delay(1, 2).get() == 3
"""
    )

    result.assert_outcomes(passed=2, failed=1, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*RuntimeError: no licence for this worker",
            "*WorkerError: The embedded worker died: RuntimeError: no licence for this worker",
        ]
    )
    result.stdout.fnmatch_lines(
        ["*WorkerError: The embedded worker died: ImproperlyConfigured: *nowhere*"]
    )
    result.stdout.no_fnmatch_line("E *was not ready after*")
