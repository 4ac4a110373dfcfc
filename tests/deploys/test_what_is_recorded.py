"""Which tasks and messages a contract has: of all kinds of tasks, routes, senders and schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.deploys.conftest import Shop

UPDATE, CHECK = "--djcelery-contract=update", "--djcelery-contract=check"
NO_TEST = "def test_it(): ...\n"
TASKS = """
import warnings

from celery import Task, shared_task

from proj.celery import app

warnings.warn("old", DeprecationWarning)  # which ends no worker


@app.task
def by_dict(): ...


@app.task(bind=True, name="billing.by_glob")
def by_glob(self, a, /, b=1, *rest, c, d=2, **more): ...


@shared_task(serializer="pickle")
def by_regex(): ...


@shared_task
def by_function(a): ...


@shared_task
def by_object(a): ...


@shared_task
def by_exchange(): ...


class ByItself(Task):
    name = "shop.by_itself"

    def run(self, a): ...


app.register_task(ByItself())


@app.task(name="celery.of_the_project")
def of_the_project(): ...
"""
SETTINGS = """
import re

from kombu import Exchange, Queue


class Router:
    def route_for_task(self, task, args=None, kwargs=None):
        return {"queue": "objects"} if task.endswith("by_object") else None


def route(name, args, kwargs, options, task=None, **rest):
    return {"queue": f"shard-{args[0]}"} if name.endswith("by_function") else None


TOPICS = Queue("topics", Exchange("topics", "topic"), "#")
CELERY_TASK_QUEUES = [Queue("celery"), Queue("dicts"), TOPICS]
CELERY_TASK_ROUTES = (
    route,
    Router(),
    {"shop.tasks.by_dict": {"queue": "dicts"}, "billing.*": "globs"},
    [(re.compile(r"shop\\..*regex"), {"queue": "patterns"})],
    {"shop.tasks.by_exchange": {"exchange": "topics", "routing_key": "a.b"}},
)
"""


@pytest.fixture
def of_all_kinds(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A project with tasks and routes of all kinds, and a library with tasks."""
    site = tmp_path_factory.mktemp("venv") / "site-packages"
    (site / "library").mkdir(parents=True)
    (site / "library/__init__.py").touch()
    (site / "library/tasks.py").write_text(
        "from celery import shared_task\n\n\n@shared_task\ndef of_a_library(): ...\n\n\n"
        "@shared_task(name='django.of_django')\ndef of_django(): ...\n"
    )
    shop.write(
        **{
            "proj/celery": """
                from celery import Celery


                class App(Celery):
                    def gen_task_name(self, name, module):
                        return super().gen_task_name(name, module.removeprefix("shop."))


                app = App("proj")
                app.config_from_object("django.conf:settings", namespace="CELERY")
                app.autodiscover_tasks()
                """,
            "shop/tasks": TASKS.replace('"shop.tasks.by_dict"', '"tasks.by_dict"'),
            "shop/services": "",
            "conftest": "from celery import shared_task\n\n@shared_task\ndef of_conftest(): ...\n",
        }
    )
    shop.settings(SETTINGS.replace("shop.tasks.", "tasks.").replace(r"shop\..*regex", ".*regex"))
    shop.settings("INSTALLED_APPS.append('library')\n")
    shop.ini(f"pythonpath = . {site}", "djcelery_contract_include = celery.of_the*, django.*")
    shop.change("pythonpath = .\n", "", "tox.ini")
    return shop


def test_tasks_of_all_kinds_and_routes_of_all_kinds(of_all_kinds: Shop) -> None:
    shop = of_all_kinds
    assert shop.run(NO_TEST, UPDATE).ret == 0
    contract = shop.contract()
    tasks = contract["tasks"]

    assert contract["queues"] == ["celery", "dicts", "topics"]
    assert {name: task["queue"] for name, task in tasks.items()} == {
        "billing.by_glob": "globs",
        "celery.of_the_project": "celery",
        "django.of_django": "celery",
        "library.tasks.of_a_library": "celery",
        "shop.by_itself": "celery",
        "tasks.by_dict": "dicts",
        "tasks.by_exchange": None,
        "tasks.by_function": "celery",
        "tasks.by_object": "objects",
        "tasks.by_regex": "patterns",
    }
    assert [
        (each["name"], each["kind"], each["default"])
        for each in tasks["billing.by_glob"]["parameters"]
    ] == [
        ("a", "positional only", False),
        ("b", "positional or keyword", True),
        ("rest", "any positional", False),
        ("c", "keyword only", False),
        ("d", "keyword only", True),
        ("more", "any keyword", False),
    ]
    assert tasks["billing.by_glob"]["function"] == "shop.tasks.by_glob"
    assert tasks["tasks.by_dict"]["function"] == "shop.tasks.by_dict"
    assert tasks["shop.by_itself"]["function"] == "shop.tasks.ByItself"
    assert tasks["shop.by_itself"]["parameters"][0]["name"] == "a"
    assert tasks["tasks.by_regex"]["serializer"] == "pickle"
    assert [name for name, task in tasks.items() if "self" in task] == [
        "billing.by_glob",
        "shop.by_itself",
    ]

    # Without the option what is Celery's and Django's is no longer looked at, and not gone.
    red = shop.run(NO_TEST, CHECK, "-o", "djcelery_contract_include=")
    red.stdout.fnmatch_lines([" 1. tasks.by_regex was sent as application/x-python-serialize, *"])
    red.stdout.no_fnmatch_line(" 2. *")


SENDERS = """
import threading
from functools import partial

import pytest
from celery import chord, group
from django.db import transaction
from django.test import TestCase
from pytest_djcelery import inline, outbox
from shop.tasks import *

pytestmark = pytest.mark.filterwarnings("ignore::pytest_djcelery.DjceleryWarning")


class Orders(TestCase):
    def test_on_commit(self):
        with self.captureOnCommitCallbacks(execute=True):
            on_commit(1)


def test_fixture(db, celery_on_commit):
    on_commit("x")


def test_block():
    with outbox():
        [add.delay(n, None) for n in range(2)]


def test_canvas(celery_inline):
    chord([add.s(1, 1), add.s(2, 2)], total.s(start=0))()
    group(add.s(1.5, 1), add.s(1, 2)).apply_async()
    celery_inline.run()


def test_items(celery_app):
    add.starmap([(1, "a"), ("b", 2)]).apply_async()
    add.chunks([(b"", b"")], 10).apply_async(serializer="pickle")


def test_thread():
    thread = threading.Thread(target=partial(celery_send, "shop.tasks.add", {}, []))
    thread.start()
    thread.join()


def test_protocol_1(settings):
    settings.CELERY_TASK_PROTOCOL = 1
    add.delay((), y=True)


def test_that_fails(celery_inline):
    flaky.delay(succeed_at=1)
    celery_inline.run()
    celery_send("shop.tasks.total")  # which no worker can run
    fail.apply_async(link_error=total.s())
    assert False
"""
SENDING = """

def celery_send(name, *args):
    add.app.send_task(name, args)


def on_commit(number):
    with transaction.atomic():
        ship.delay_on_commit(number)


@shared_task
def total(numbers, *, start=1): ...
"""


def test_messages_of_all_kinds_of_senders(shop: Shop) -> None:
    shop.tasks(SENDING)
    shop.change("from celery", "from django.db import transaction\nfrom celery")
    assert shop.run(SENDERS, UPDATE, "-p", "no:warnings").ret == 1  # as one of them fails
    sent = {name: task["sent"] for name, task in shop.contract()["tasks"].items()}

    assert sent["shop.tasks.ship"] == [
        {"args": ["order_id: int"], "kwargs": {}, "from": "test_it.py in test_on_commit"},
        {"args": ["order_id: str"], "kwargs": {}, "from": "shop/tasks.py in on_commit"},
    ]
    assert sent["shop.tasks.total"] == [
        {"args": [], "kwargs": {}, "as": "error link", "from": "test_it.py in test_that_fails"},
        {
            "args": ["numbers: list"],
            "kwargs": {"start": "int"},
            "from": "test_it.py in test_canvas",
        },
    ]
    assert sent["shop.tasks.flaky"] == [
        {"args": [], "kwargs": {"succeed_at": "int"}, "from": "shop/tasks.py in flaky"}
    ]
    calls = {
        (*each["args"], *each["kwargs"].items()): each["from"] for each in sent["shop.tasks.add"]
    }
    assert calls == {
        ("x: int", "y: None"): "test_it.py in test_block",
        ("x: int", "y: int"): "test_it.py in test_canvas",
        ("x: float", "y: int"): "test_it.py in test_canvas",
        ("x: int", "y: str"): "test_it.py in test_items",
        ("x: str", "y: int"): "test_it.py in test_items",
        ("x: bytes", "y: bytes"): "test_it.py in test_items",
        ("x: dict", "y: list"): "shop/tasks.py in celery_send",
        ("x: list", ("y", "bool")): "test_it.py in test_protocol_1",
    }


BEAT = """
INSTALLED_APPS.append("django_celery_beat")
CELERY_BEAT_SCHEDULE = {
    "nightly": {"task": "shop.tasks.add", "schedule": 60, "args": (1,), "kwargs": {"y": 2}},
    "hourly": {"task": "shop.tasks.count_orders", "schedule": 60},
    "other": {"task": "of.another.service", "schedule": 60},
}
"""
MIGRATION = """
from django.db import migrations


def forwards(apps, schema_editor):
    every = apps.get_model("django_celery_beat", "IntervalSchedule").objects.create(every=1)
    tasks = apps.get_model("django_celery_beat", "PeriodicTask").objects
    tasks.create(name="of a row", task="shop.tasks.ship", interval=every, args='["1"]')
    tasks.create(name="off", task="shop.tasks.fail", interval=every, enabled=False)


class Migration(migrations.Migration):
    dependencies = [
        ("shop", "0001_initial"),
        ("django_celery_beat", "0019_alter_periodictasks_options"),
    ]
    operations = [migrations.RunPython(forwards)]
"""


def test_the_messages_of_beat(shop: Shop) -> None:
    pytest.importorskip("django_celery_beat")
    shop.settings(BEAT)
    shop.write(**{"shop/migrations/0002_schedule": MIGRATION})
    test = "def test_it(db): ...\n"
    assert shop.run(test, UPDATE).ret == 0
    tasks = shop.contract()["tasks"]
    assert tasks["shop.tasks.add"]["sent"] == [
        {"args": ["x: int"], "kwargs": {"y": "int"}, "from": "the beat entry 'nightly'"}
    ]
    assert tasks["shop.tasks.ship"]["sent"] == [
        {"args": ["order_id: str"], "kwargs": {}, "from": "the beat entry 'of a row'"}
    ]
    assert not tasks["shop.tasks.fail"]["sent"]

    for name in ("count_orders", "ship", "fail"):
        shop.change(f"@shared_task\ndef {name}(", f"def {name}(")
    shop.write(**{"shop/services": ""})
    gone = {f"shop.tasks.{name}": "planned" for name in ("count_orders", "ship", "fail")}
    shop.edit(retired=gone)
    red = shop.run(test, CHECK)
    assert red.ret == 1
    red.stdout.fnmatch_lines(
        [
            " 1. the beat entry 'hourly' sends shop.tasks.count_orders, which is gone",
            "    do: Change or remove the entry (in beat_schedule, *",
            '    planned? "retired": {"beat:hourly": "the reason"}',
            " 2. the beat entry 'of a row' sends shop.tasks.ship, which is gone",
        ]
    )
    shop.edit(retired=gone | {"beat:hourly": "planned", "beat:of a row": "planned"})
    assert shop.run(test, CHECK, "-n", "1").ret == 0
