"""Tasks of `django.tasks`: the contract names them, and not the bridge that sends them."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.deploys.conftest import Shop

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("django.tasks") is None, reason="django.tasks came with Django 6.0"
)
BACKEND = """
from celery import shared_task
from django.tasks import TaskResult, TaskResultStatus
from django.tasks.backends.base import BaseTaskBackend
from django.utils.module_loading import import_string


@shared_task
def bridge(path, args, kwargs):
    return import_string(path).call(*args, **kwargs)


class Bridge(BaseTaskBackend):
    def enqueue(self, task, args, kwargs):
        bridge.delay(task.module_path, list(args), kwargs)
        return TaskResult(
            task=task, id="x" * 32, status=TaskResultStatus.READY, enqueued_at=None,
            started_at=None, finished_at=None, last_attempted_at=None, args=args, kwargs=kwargs,
            backend=self.alias, errors=[], worker_ids=[],
        )
"""
TASKS = """
from django.tasks import task

from shop.backend import bridge  # noqa: F401


@task
def welcome(name): ...


@task(takes_context=True)
def again(context, name, *, greeting="Hello"): ...
"""
TESTS = """
from shop.services import greet
from shop.tasks import again, welcome


def test_plain():
    greet("ada")


def test_fixture(celery_outbox):
    again.enqueue("ada", greeting="Hi")
    assert len(celery_outbox.of(again)) == 1
"""


def test_the_contract_of_django_tasks(shop: Shop) -> None:
    shop.write(
        **{
            "shop/backend": BACKEND,
            "shop/tasks": TASKS,
            "shop/services": "from shop.tasks import welcome\n\n\n"
            "def greet(name):\n    welcome.enqueue(name)\n",
        }
    )
    shop.settings("TASKS = {'default': {'BACKEND': 'shop.backend.Bridge'}}\n")
    assert shop.run(TESTS, "--djcelery-contract=update").ret == 0
    tasks = shop.contract()["tasks"]
    assert list(tasks) == ["shop.backend.bridge", "shop.tasks.again", "shop.tasks.welcome"]
    assert tasks["shop.backend.bridge"]["sent"] == []
    assert [each["name"] for each in tasks["shop.tasks.again"]["parameters"]] == [
        "name",
        "greeting",
    ]
    assert tasks["shop.tasks.again"]["sent"] == [
        {"args": ["name: str"], "kwargs": {"greeting": "str"}, "from": "test_it.py in test_fixture"}
    ]
    assert tasks["shop.tasks.welcome"]["sent"] == [
        {"args": ["name: str"], "kwargs": {}, "from": "shop/services.py in greet"}
    ]
    assert shop.run(TESTS, "--djcelery-contract=check").ret == 0

    shop.change("def again(context, name, *,", "def again(context, title, name, *,")
    shop.change("def welcome(", "def welcome_them(")
    red = shop.run("", "--djcelery-contract=check", "--collect-only", "-q")
    assert red.ret == 1
    red.stdout.fnmatch_lines(
        [
            " 1. shop.tasks.again: argument 1 was 'name', and would be taken as 'title', *",
            " 2. shop.tasks.welcome is gone",
            "    do: Two releases: keep 'welcome' in shop.tasks in this one, *",
        ]
    )
