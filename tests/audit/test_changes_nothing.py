"""An audited suite passes and fails exactly as it does without the audit."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project

SUITE = """
import sys
from unittest import mock

import pytest
from django.db import connection, transaction
from django.test import TestCase
from proj.celery import app
from shop.models import Order
from shop.services import *
from shop.tasks import *

pytestmark = pytest.mark.django_db


@pytest.fixture
def eager():
    app.conf.task_always_eager = True
    yield
    app.conf.task_always_eager = False


def test_queues_and_settings_are_the_projects():
    assert app.conf.broker_url == "memory://"
    assert app.conf.result_backend == "cache+memory://"
    order_in_transaction()
    with app.connection_for_read() as connection:
        assert connection.default_channel.basic_get("celery").headers["task"] == "shop.tasks.ship"


def test_hooks_stay_where_they_are():
    def hook():
        raise AssertionError("it ran")

    transaction.on_commit(hook)
    [(_, found, robust)] = connection.run_on_commit
    assert found == hook and hook == found and hash(found) == hash(hook)
    assert isinstance(found, type(hook)) and found.__qualname__ == hook.__qualname__
    assert repr(found) == repr(hook) and robust is False


def test_queries(django_assert_num_queries, eager):
    with django_assert_num_queries(9):
        order_in_transaction()
        order_on_commit()
        Order.objects.all().delete()


def test_mocks(monkeypatch):
    with mock.patch("shop.tasks.ship.delay", return_value=3, autospec=True) as delay:
        assert ship.delay(1) == 3
        delay.assert_called_once_with(1)

    def fake(*args):
        return args

    monkeypatch.setattr(ship, "delay", fake)
    assert ship.delay == fake
    assert ship.delay(1, 2) == (1, 2)
    monkeypatch.setattr(transaction, "on_commit", fake)
    assert transaction.on_commit is fake
    monkeypatch.undo()
    assert ship.delay != fake


def test_an_eager_failure_raises_as_it_does(eager, settings):
    app.conf.task_eager_propagates = True
    try:
        fail.delay()
    finally:
        app.conf.task_eager_propagates = False


def test_a_mock_that_raises():
    with mock.patch("shop.tasks.add.delay", side_effect=KeyError("mocked")):
        add.delay(1, 2)


def test_an_error_in_a_block():
    with transaction.atomic():
        Order.objects.create()
        ship.delay(1, 2, 3)


class Unittest(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.order = Order.objects.create()
        transaction.on_commit(print)

    def test_capture(self):
        with self.captureOnCommitCallbacks() as hooks:
            transaction.on_commit(print)
        assert hooks == [print]

    def test_failing(self):
        self.assertEqual(Order.objects.count(), 2)


@pytest.mark.django_db(transaction=True)
def test_real_transactions():
    ran = []
    with transaction.atomic():
        transaction.on_commit(lambda: ran.append(1))
        assert not ran
    assert ran == [1]


def test_modules():
    print("MODULES", *[name for name in sys.modules if name.split(".")[0] in LIBRARIES])


LIBRARIES = ("celery", "kombu", "django", "shop", "proj", "redis", "vine", "billiard", "amqp")
"""


@pytest.fixture
def suite(old: Project) -> Project:
    old.settings("CELERY_TASK_STORE_EAGER_RESULT = True\n")
    return old


def _outcomes(project: Project, *args: str) -> dict[str, tuple[str, str]]:
    project.run(SUITE, "--junitxml=out.xml", "-p", "no:xdist", *args)
    return {
        case.attrib["name"]: (
            "".join(child.tag for child in case if child.tag != "system-out"),
            # Where a traceback goes through, and what it says; an address is never the same.
            re.sub(r"0x\w+|id='\d+'", "", "".join(child.text or "" for child in case)),
        )
        for case in ET.parse(project.path / "out.xml").iter("testcase")
    }


def test_every_test_ends_as_it_does_without(suite: Project) -> None:
    without = _outcomes(suite, "-p", "no:djcelery", "-rA", "-o", "junit_logging=system-out")
    audited = _outcomes(suite, "--djcelery-audit", "-rA", "-o", "junit_logging=system-out")
    assert audited == without
    assert [outcome for outcome, _ in without.values()] == [
        "", "", "", "", "failure", "failure", "failure", "", "failure", "", "",
    ]  # fmt: skip
    assert "celery.app.task" in without["test_modules"][1]


CAPTURED_HOOK = """
import pytest
from django.db import transaction


@pytest.fixture
def hook(db, django_capture_on_commit_callbacks):
    def captured(function):
        with django_capture_on_commit_callbacks() as hooks:
            transaction.on_commit(function)
        return hooks[0]

    return captured
"""


@pytest.mark.parametrize(
    "args", [["-p", "no:djcelery"], ["--djcelery-audit"]], ids=["without", "audit"]
)
def test_hooks_and_fakes_look_to_a_test_as_they_do_without_the_audit(
    suite: Project, args: list[str]
) -> None:
    suite.write(conftest=CAPTURED_HOOK)
    result = suite.run(
        """
        import copy
        import inspect
        from unittest import mock

        from shop.tasks import ship


        def function(x=1):
            "Tell a number."
            return x


        class Calls:
            calls = ()

            def __call__(self, *args):
                self.calls = (*self.calls, args)

            def __len__(self):
                return len(self.calls)


        def test_a_function(hook):
            found = hook(function)
            assert (found.__module__, found.__doc__) == (__name__, "Tell a number.")
            assert found(x=2) == 2
            assert copy.copy(found) is function is copy.deepcopy(found)
            assert str(inspect.signature(found)) == "(x=1)"
            found.n = 5
            assert function.n == 5


        def test_a_mock(hook):
            found = hook(mock.Mock())
            found.return_value = 5
            assert found() == 5
            found.assert_called_once_with()


        def test_a_fake(hook, monkeypatch):
            monkeypatch.setattr(ship, "delay", Calls())
            ship.delay(1)
            assert len(ship.delay) == 1
            ship.delay.calls = []
            assert not ship.delay
            assert len(hook(Calls())) == 0
        """,
        *args,
    )
    result.assert_outcomes(passed=3)


def test_what_is_wrapped_has_its_own_signature_and_name(suite: Project) -> None:
    test = """
        import inspect
        from unittest import mock

        import pytest
        from celery import Task
        from celery.result import AsyncResult, EagerResult
        from django.db import transaction
        from django.db.backends.base.base import BaseDatabaseWrapper
        from kombu.messaging import Producer
        from shop.tasks import ship

        METHODS = {
            Task.apply: "(self, args=None, kwargs=None, link=None, ",
            EagerResult.get: "(self, timeout=None, propagate=True, ",
            AsyncResult._set_cache: "(self, d)",
            Producer.publish: "(self, body, routing_key=None, ",
            transaction.Atomic.__exit__: "(self, exc_type, exc_value, traceback)",
            BaseDatabaseWrapper.on_commit: "(self, func, robust=False)",
            mock._patch.__exit__: "(self, *exc_info)",
            pytest.MonkeyPatch.undo: "(self)",
        }


        @pytest.mark.parametrize("method", METHODS)
        def test_it(method):
            assert str(inspect.signature(method)).startswith(METHODS[method])
            assert "<locals>" not in method.__qualname__
            assert not method.__module__.startswith("pytest_djcelery")


        def test_autospec():
            with mock.patch.object(ship, "apply", autospec=True), pytest.raises(TypeError):
                ship.apply(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)
            with pytest.raises(TypeError):
                mock.create_autospec(EagerResult, instance=True).get(1, 2, 3, 4)
        """
    for args in (["-p", "no:djcelery"], ["--djcelery-audit"]):
        suite.run(test, *args).assert_outcomes(passed=9)


@pytest.mark.usefixtures("fresh_processes")
def test_a_suite_keeps_the_fixtures_of_celery_where_those_of_the_plugin_are_left_out(
    suite: Project,
) -> None:
    suite.write(conftest='pytest_plugins = ["celery.contrib.pytest"]\n')
    test = """
        import pytest
        from shop.tasks import ship


        @pytest.fixture(scope="session")
        def celery_config():
            return {"broker_url": "memory://"}


        @pytest.mark.celery(task_default_queue="own")
        def test_app(celery_app):
            assert celery_app.main == "celery.tests"
            assert celery_app.conf.task_default_queue == "own"


        def test_publishes():
            ship.delay(1)
        """
    without = ["-p", "no:djcelery", "-p", "no:celery"]
    suite.run(test, *without).assert_outcomes(passed=2)
    result = suite.run(test, "--djcelery-audit", "-p", "no:djcelery-fixtures", "-p", "no:celery")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["  - test_it.py:* in test_publishes: shop.tasks.ship, in 1 test"])


def test_with_the_plugin_the_same_tests_end_the_same(suite: Project) -> None:
    test = SUITE.replace('== "memory://"', "").replace('== "cache+memory://"', "")
    names = {
        way: re.findall(
            r"^(PASSED|FAILED) (\S+)", suite.run(test, *args).stdout.str(), re.MULTILINE
        )
        for way, args in {"without": ["-rA"], "audited": ["-rA", "--djcelery-audit"]}.items()
    }
    assert names["audited"] == names["without"]
    assert len(names["without"]) == 11


BESIDE_FIXTURES = """
import pytest
from proj.celery import app
from pytest_djcelery import Success, outbox
from shop.services import order_in_transaction, order_on_commit
from shop.tasks import add, ship

pytestmark = pytest.mark.django_db
"""


def test_tests_that_use_fixtures_are_served_and_the_others_find_everything_as_it_was(
    suite: Project,
) -> None:
    result = suite.run(
        """
        def test_before():
            assert app.conf.broker_url == "memory://"


        @pytest.mark.django_db
        def test_inline(celery_inline, celery_outbox):
            assert app.conf.broker_url.startswith("djcelery://")
            order = order_on_commit()
            celery_inline.run()
            assert celery_outbox == [ship.s(order.pk)]


        def test_between():
            assert app.conf.broker_url == "memory://"
            assert app.conf.result_backend == "cache+memory://"


        @pytest.mark.django_db(transaction=True)
        def test_worker(celery_worker, celery_results):
            assert celery_results[add.delay(1, 2)] == Success(3)


        def test_context_manager():
            with outbox() as sent:
                add.delay(1, 2)
            assert sent == [add.s(1, 2)]
            assert app.conf.broker_url == "memory://"


        def test_after():
            import threading

            assert app.conf.broker_url == "memory://"
            assert [each.name for each in threading.enumerate() if "celery" in each.name] == []
        """,
        "--djcelery-audit",
        preamble=BESIDE_FIXTURES,
    )
    result.assert_outcomes(passed=6)
    result.stdout.fnmatch_lines(["celery audit: 6 tests watched, nothing found."])


def test_what_a_fixture_warns_of_is_a_finding_unless_the_test_ignores_it(
    suite: Project,
) -> None:
    result = suite.run(
        """
        @pytest.mark.celery_sent_in_transaction("ignore")
        def test_meant(celery_outbox):
            order_in_transaction()


        @pytest.mark.filterwarnings("ignore::pytest_djcelery.SentInTransactionWarning")
        def test_race(celery_outbox):
            order_in_transaction()


        def test_after():
            import threading

            assert app.conf.broker_url == "memory://"
            assert [each.name for each in threading.enumerate() if "celery" in each.name] == []
        """,
        "--djcelery-audit",
        preamble=BESIDE_FIXTURES,
    )
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        [
            "3 tests watched, 1 finding.",
            "  ! shop/services.py:*in order_in_transaction: shop.tasks.ship, in 1 test",
            "      tests: test_it.py::test_race",
        ]
    )


def test_a_session_worker_is_served_and_gone_at_the_end(suite: Project) -> None:
    result = suite.run(
        """
        import pytest
        from shop.tasks import add


        @pytest.mark.django_db(transaction=True)
        @pytest.mark.parametrize("number", range(2))
        def test_it(celery_session_worker, celery_app, number):
            assert add.delay(number, 2).get() == number + 2


        def test_without():
            pass
        """,
        "--djcelery-audit",
    )
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["celery audit: 3 tests watched, nothing found."])


TOUCHY_ARGUMENTS = """
from unittest.mock import patch

import pytest
from django.utils.functional import SimpleLazyObject, lazy
from shop.models import Order
from shop.tasks import *

pytestmark = pytest.mark.django_db


class Touchy:
    def ran(self, *_, **__):
        raise KeyboardInterrupt

    __json__ = __reduce__ = __reduce_ex__ = __getstate__ = __getattr__ = __iter__ = ran
    __eq__ = __bool__ = __len__ = __str__ = __repr__ = __hash__ = ran


class TouchyDict(dict):
    items = keys = values = __iter__ = __getitem__ = __len__ = Touchy.ran


class TouchyList(list):
    __iter__ = __getitem__ = __len__ = __bool__ = Touchy.ran
"""


def test_no_code_of_an_argument_runs_and_no_query(suite: Project) -> None:
    suite.tasks("""
        @shared_task(serializer="pickle")
        def pickled(value):
            pass


        @shared_task(serializer="yaml")
        def yamled(value):
            pass
        """)
    result = suite.run(
        """
        @pytest.mark.parametrize("task", [ship, pickled, yamled], ids=str)
        @pytest.mark.parametrize(
            "made",
            [
                lambda: SimpleLazyObject(lambda: Order.objects.get()),
                lambda: lazy(lambda: Order.objects.get().name, str)(),
                lambda: Order.objects.all(),
                lambda: Order.objects,
                lambda: Touchy(),
                lambda: TouchyDict(a=Touchy()),
                lambda: TouchyList([Touchy()]),
            ],
        )
        def test_it(task, made, django_assert_num_queries):
            value = made()
            with (
                patch.object(task, "delay", lambda *args: None),
                patch.object(task, "apply_async", lambda *args, **kwargs: None),
                django_assert_num_queries(0),
            ):
                task.delay(value)
                task.delay([{"a": (value,)}])
                task.apply_async((value,))
                task.apply_async(value, value)
        """,
        "--djcelery-audit",
        preamble=TOUCHY_ARGUMENTS,
    )
    result.assert_outcomes(passed=21)
    result.stdout.no_fnmatch_line("*The audit itself failed*")


def test_an_error_in_the_audit_is_reported_and_reaches_no_test(suite: Project) -> None:
    suite.write(
        conftest="""
            import pytest
            from pytest_djcelery.audit.listeners import mocks


            @pytest.fixture(autouse=True)
            def broken(monkeypatch):
                def sent(*args):
                    raise LookupError("broken")

                monkeypatch.setattr(mocks, "sent", sent)
            """
    )
    result = suite.run(
        """
        from unittest import mock

        from shop.tasks import add


        def test_it():
            with mock.patch("shop.tasks.add.delay") as delay:
                add.delay(1)
            delay.assert_called_once_with(1)
        """,
        "--djcelery-audit",
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["The audit itself failed, and may have missed something: LookupError: broken at *.py:*"]
    )


@pytest.mark.parametrize("audit", [["--djcelery-audit"], []])
def test_a_failing_test_that_uses_nothing_loads_nothing(
    pytester: pytest.Pytester, audit: list[str]
) -> None:
    pytester.makeconftest(
        """
        import sys

        import pytest


        @pytest.hookimpl(trylast=True)
        def pytest_unconfigure():
            print("loaded:", sorted({"celery", "kombu"} & sys.modules.keys()))
        """
    )
    pytester.makepyfile(
        """
        def test_it():
            assert [1] == [2]


        def test_another():
            raise KeyError("it")
        """
    )
    result = pytester.runpytest_subprocess(*audit, "-p", "no:celery", "-p", "no:docker_tools")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["loaded: []"])


def test_nothing_is_imported_where_nothing_is_used(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys


        def test_it():
            assert "celery" not in sys.modules
            assert "kombu" not in sys.modules


        def test_that_imports():
            import celery.app.task
            from unittest import mock

            assert celery.app.task.__spec__.loader is celery.app.task.__loader__
            assert type(celery.app.task.__loader__).__name__ == "SourceFileLoader"


        def test_that_imports_a_part_of_django():
            import django.db.transaction

            assert "django.db.backends.base" not in sys.modules
        """
    )
    result = pytester.runpytest_subprocess(
        "--djcelery-audit", "-p", "no:celery", "-p", "no:docker_tools", "-p", "no:randomly"
    )
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["celery audit: 3 tests watched, nothing found."])
