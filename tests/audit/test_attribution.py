"""Of which test and of which line a finding is, and which code is the tests' own."""

from __future__ import annotations

import json
import sys
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

from tests.audit.suites import EAGER, QUEUED

if TYPE_CHECKING:
    from tests.audit.conftest import Audited
    from tests.support.project import Project

BLOCK = """
import pytest
from django.db import transaction
from shop.models import Order
from shop.tasks import ship


def of_the_test():
    with transaction.atomic():
        ship.delay(Order.objects.create().pk)


@pytest.fixture
def block():
    with transaction.atomic():
        yield
"""


def _audited(old: Project, *args: str, passed: int = 1) -> list[str]:
    result = old.pytester.runpytest_subprocess(
        "--djcelery-audit", "--djcelery-audit-report=audit.json", "-p", "no:randomly", *args
    )
    result.assert_outcomes(passed=passed)
    found = json.loads((old.path / "audit.json").read_text())["findings"]
    return [
        f"{each['function']} {each['kind']}"
        for each in found
        if each["kind"] != "published-never-run"
    ]


def test_where_every_module_may_hold_tests_the_code_under_test_is_still_recognised(
    old: Project,
) -> None:
    old.ini("python_files = *.py")
    test = "import pytest\nfrom shop.services import *\n\n@pytest.mark.django_db\n"
    (old.path / "check.py").write_text(test + "def test_it():\n    order_in_transaction()\n")
    assert _audited(old) == ["order_in_transaction published-in-transaction"]


@pytest.mark.parametrize("args", [["spec/it.py"], ["-o", "python_files=spec/*.py"]])
def test_a_file_of_any_name_that_holds_tests_is_the_tests_own(
    old: Project, args: list[str]
) -> None:
    test = f"{BLOCK}\n\n@pytest.mark.django_db\ndef test_it():\n    of_the_test()\n"
    old.write(**{"spec/it": test})
    assert _audited(old, *args) == []


def test_blocks_that_fixtures_and_plugins_open_belong_to_the_test(old: Project) -> None:
    old.write(**{"shop/plugged": BLOCK, "shop/shared": BLOCK.replace("def block", "def other")})
    test = """
    import pytest
    from shop.models import Order
    from shop.plugged import of_the_test
    from shop.shared import other
    from shop.tasks import ship

    pytest_plugins = ["shop.plugged"]
    pytestmark = pytest.mark.django_db

    def test_a_plugin():
        of_the_test()

    def test_a_fixture(block):
        ship.delay(Order.objects.create().pk)

    def test_an_imported_fixture(other):
        ship.delay(Order.objects.create().pk)
    """
    old.pytester.makepyfile(test_it=test)
    assert _audited(old, passed=3) == []


def test_the_tests_of_a_sure_finding_are_named_first(audited: Audited, old: Project) -> None:
    old.write(
        **{"shop/sends": "from shop.tasks import add\n\ndef send(*args):\n    add.delay(*args)\n"}
    )
    [found] = audited("""
        import pytest
        from shop.sends import send
        from shop.tasks import add

        @pytest.fixture(autouse=True)
        def mocked(monkeypatch):
            monkeypatch.setattr(add, "delay", lambda *args: None)

        @pytest.mark.parametrize("number", range(5))
        def test_a(number):
            send(1, 2)

        def test_z():
            send()
    """)
    assert found["tests"] == 6
    assert found["examples"] == [
        "test_it.py::test_z", "test_it.py::test_a[0]", "test_it.py::test_a[1]",
    ]  # fmt: skip


def test_a_worker_that_outlives_the_test_runs_its_tasks_for_it(
    audited: Audited, old: Project
) -> None:
    old.tasks("""
        import celery.contrib.testing.tasks  # the worker of Celery asks for it
        from threading import Event

        GO = Event()


        @shared_task
        def fail_late():
            assert GO.wait(10)
            raise ValueError("late")
        """)
    found = audited(
        QUEUED
        + """
from celery.contrib.testing.worker import start_worker
from shop.tasks import GO
pytestmark = pytest.mark.django_db(transaction=True)

@pytest.fixture(scope="module", autouse=True)
def worker():
    with start_worker(app, perform_ping_check=False):
        yield


def test_1():
    fail_late.delay()
    add.delay(1, 2)  # waits for the other


def test_2():
    GO.set()
    assert add.delay(3, 4).get(timeout=10) == 7
""",
        *("-p", "no:djcelery-fixtures", "-p", "no:randomly"),
    )
    assert [(each["kind"], each["function"]) for each in found] == [
        ("failures-nobody-saw", "fail_late")
    ]
    assert found[0]["examples"] == ["test_it.py::test_1"]


def test_the_standard_library_is_not_the_project(audited: Audited) -> None:
    found = audited(
        EAGER.replace("django_db", "django_db(transaction=True)")
        + """
from concurrent.futures import ThreadPoolExecutor
from unittest import mock


def test_it():
    with mock.patch("shop.tasks.add.delay"), ThreadPoolExecutor(1) as pool:
        pool.submit(add.delay, 1, 2).result()
"""
    )
    assert [(each["kind"], each["path"]) for each in found] == [("mocked-publishes", "")]


OWN_TASKS = """
import functools

from celery import Task
from django.db import transaction


class Base(Task):
    def apply_async(self, *args, **kwargs):
        return super().apply_async(*args, **kwargs)


class AfterCommit(Task):
    def apply_async(self, *args, **kwargs):
        parent = super()
        transaction.on_commit(lambda: parent.apply_async(*args, **kwargs))


class Wrapped(Task):
    pass


def apply_async(*args, **kwargs):  # as Sentry calls it
    return Task.apply_async(*args, **kwargs)


Wrapped.apply_async = functools.wraps(Task.apply_async)(apply_async)


@shared_task(base=Base)
def own(pk):
    pass


@shared_task(base=Wrapped)
def wrapped(pk):
    pass


@shared_task(base=AfterCommit)
def after_commit(pk):
    pass


@transaction.atomic
def by_delay(task):
    task.delay(Order.objects.create().pk)


@transaction.atomic
def by_apply_async(task):
    task.apply_async((Order.objects.create().pk,))


@transaction.atomic
def by_signature(task):
    task.s(Order.objects.create().pk).delay()
"""


def test_a_task_class_that_overrides_apply_async_is_not_what_sends(old: Project) -> None:
    old.tasks(OWN_TASKS)
    test = """
    @pytest.mark.parametrize("send", [by_delay, by_apply_async, by_signature])
    @pytest.mark.parametrize("task", [own, wrapped, after_commit])
    def test_it(send, task):
        send(task)
    """
    old.write(test_it=QUEUED + dedent(test))
    found = _audited(old, passed=9)
    assert sorted(found) == [
        "by_apply_async hooks-never-ran",
        "by_apply_async published-in-transaction",
        "by_apply_async published-in-transaction",
        "by_delay hooks-never-ran",
        "by_delay published-in-transaction",
        "by_delay published-in-transaction",
        "by_signature hooks-never-ran",
        "by_signature published-in-transaction",
        "by_signature published-in-transaction",
    ]
    [hook, *_] = [
        each
        for each in json.loads((old.path / "audit.json").read_text())["findings"]
        if each["kind"] == "hooks-never-ran"
    ]
    assert hook["facts"]["would send"] == ["shop.tasks.after_commit"]
    assert hook["facts"]["what"] == ["the apply_async of a task"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="needs a lambda's qualified name")
def test_a_hook_that_a_tasks_method_registers_is_attributed_to_its_caller(old: Project) -> None:
    old.tasks(OWN_TASKS)
    old.run("""
        import pytest
        from shop.tasks import after_commit, by_delay

        @pytest.mark.django_db
        def test_it(celery_outbox):
            by_delay(after_commit)
            [message] = celery_outbox
            assert message.after_commit
            assert message.location.function == "by_delay"
    """).assert_outcomes(passed=1)


@pytest.mark.parametrize("audited", [True, False], ids=["audit", "fixture"])
def test_a_workflow_in_eager_mode_does_not_overtake_what_its_tasks_wait_for(
    old: Project, *, audited: bool
) -> None:
    old.tasks(OWN_TASKS)
    test = """
    from celery import chain

    def test_it({fixture}):
        with transaction.atomic():
            order = Order.objects.create()
            order_in_chain(order)
    """
    old.tasks("""
        from celery import chain


        @transaction.atomic
        def order_in_chain(order):
            order.save()
            chain(after_commit.si(order.pk), after_commit.si(order.pk)).delay()
        """)
    if audited:
        old.write(test_it=EAGER + dedent(test.format(fixture="")))
        assert _audited(old) == []
    else:
        test = EAGER.replace("autouse=True", "") + dedent(test.format(fixture="celery_eager"))
        old.run(test, "-W", "error").assert_outcomes(passed=1)
