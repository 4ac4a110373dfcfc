"""The context managers without pytest: in ``manage.py test``, and in a script."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Project

MANAGE = """
    import os
    import sys

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proj.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
    """
# What a block could leave behind. Its values are compared by identity, where they are objects.
STATE = """
    import os

    import django.test  # which connects receivers of its own, once and for all
    from celery import _state, signals
    from celery.app.amqp import AMQP
    from celery.app.base import Celery
    from celery.app.task import Task
    from celery.result import AsyncResult
    from django.conf import settings
    from django.core.signals import setting_changed
    from django.db.transaction import Atomic
    from kombu.transport import TRANSPORT_ALIASES

    from proj.celery import app


    def state():
        heard = (signals.task_postrun, signals.before_task_publish, setting_changed)
        return {
            "conf": dict(app.conf.maps[0]),
            "broker": app.connection_for_write().as_uri(),
            "backend": type(app.backend).__name__,
            "pool": id(app.pool),
            "queues": sorted(app.amqp.queues),
            "settings": {
                name: getattr(settings, name) for name in dir(settings) if name.startswith("CELERY")
            },
            "environment": dict(os.environ),
            "current": id(_state._tls.current_app),
            "receivers": [len(each.receivers or ()) for each in heard],
            "transports": sorted(TRANSPORT_ALIASES),
            "patched": [
                vars(each)[name]
                for each, name in (
                    (Celery, "_load_config"), (AMQP, "_create_task_sender"), (Task, "apply"),
                    (AsyncResult, "get"), (Atomic, "__enter__"),
                )
            ],
        }
    """
SCRIPT = """
    import os
    import sys

    os.environ["DJANGO_SETTINGS_MODULE"] = "proj.settings"
    import django

    django.setup()
    import pytest_djcelery
    from shop.tasks import add
    from proj.celery import app
    from state import state

    app.finalize()
    app.conf.finalize()
    block = getattr(pytest_djcelery, sys.argv[1])
    found = state()


    def check():
        now = state()
        left = {key: (found[key], now[key]) for key in found if now[key] != found[key]}
        assert not left, left


    for turn in range(2):
        with block():
            assert state()["broker"].startswith("djcelery:")
            add.delay(1, 2)
        check()
    try:
        with block():
            raise KeyError("in the block")
    except KeyError:
        pass
    check()
    print(sys.argv[1], "left", found["broker"], found["backend"])
    """
BLOCKS = ("app", "outbox", "on_commit", "eager", "inline", "worker", "results", "beat",
          "session_app", "session_worker")  # fmt: skip


@pytest.mark.parametrize("block", BLOCKS)
def test_after_a_block_of_a_script_the_app_is_as_it_was(project: Project, block: str) -> None:
    project.write(state=STATE, script=SCRIPT)
    result = project.pytester.run(sys.executable, "-W", "error", "script.py", block)
    assert result.ret == 0, result.stderr.str()
    result.stdout.fnmatch_lines([f"{block} left amqp://nobody:*@192.0.2.1:1// RedisBackend"])


def test_which_broker_a_test_of_manage_py_reaches_depends_on_no_order(project: Project) -> None:
    project.write(
        manage=MANAGE,
        tests="""
            from django.test import SimpleTestCase

            from proj.celery import app
            from pytest_djcelery import inline, outbox, worker
            from shop.tasks import add


            class Tests(SimpleTestCase):
                def reached(self):
                    return app.connection_for_write().as_uri()

                def test_1_before_any_block(self):
                    self.assertIn("192.0.2.1", self.reached())

                def test_2_inline(self):
                    with outbox() as sent, inline() as runs:
                        add.delay(1, 2)
                        assert runs.run().succeeded == 1
                    assert sent == [add.s(1, 2)]

                def test_3_after_it(self):
                    self.assertIn("192.0.2.1", self.reached())

                def test_4_a_worker(self):
                    for turn in range(2):
                        with worker():
                            assert add.delay(turn, 2).get() == turn + 2

                def test_5_after_it(self):
                    self.assertIn("192.0.2.1", self.reached())
            """,
    )
    for order in ([], ["--reverse"]):
        result = project.pytester.run(sys.executable, "manage.py", "test", *order)
        assert result.ret == 0, result.stderr.str()
        result.stderr.fnmatch_lines(["Ran 5 tests in *"])


@pytest.mark.usefixtures("unmeasured")
def test_a_live_worker_serves_the_next_block_too(project: Project) -> None:
    project.settings('DATABASES["default"]["TEST"] = {"NAME": "test.sqlite3"}')
    project.write(
        manage=MANAGE,
        tests="""
            from django.test import TransactionTestCase

            from proj.celery import app
            from pytest_djcelery import live_worker
            from shop.tasks import add


            class Tests(TransactionTestCase):
                def test_it(self):
                    pids = set()
                    for turn in range(2):
                        with live_worker() as worker:
                            assert add.delay(turn, 2).get() == turn + 2
                            pids.add(worker.pid)
                        assert "192.0.2.1" in app.connection_for_write().as_uri()
                    assert len(pids) == 1
            """,
    )
    result = project.pytester.run(sys.executable, "manage.py", "test")
    assert result.ret == 0, result.stderr.str()
