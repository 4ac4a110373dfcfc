"""What a task sees around it, and what it leaves"""

from __future__ import annotations

import decimal
import os

import pytest
from django.db import connection
from django.utils import timezone, translation
from shop.contract import around

from pytest_djcelery import Success

pytestmark = pytest.mark.django_db

CALLERS = {
    "language": "de",
    "time zone": "Europe/Berlin",
    "context variable": "of the caller",
    "precision": 11,
    "thread": "of the caller",
    "thread, by a class": "of the caller",
    "connection": "of the caller",
}


@pytest.fixture
def caller(monkeypatch):
    monkeypatch.setattr(connection, "mark", None, raising=False)
    with translation.override("de"), timezone.override("Europe/Berlin"), decimal.localcontext():
        around.change(language="de", zone="Europe/Berlin", mark="of the caller", precision=11)
        yield around
    around.REQUEST.set(None)
    del around.USER.name, around.Middleware.current.name


def seen(work, *names):
    found = work(around.see.s()).value
    return [name for name in names if found[name] == CALLERS[name]]


def kept(*names):
    found = around.surroundings()
    return [name for name in names if found[name] != CALLERS[name]]


def test_no_language_of_the_caller(work, caller):
    """A task sees no language and no time zone that its caller has activated"""
    assert seen(work, "language", "time zone") == []


def test_no_context_variable_of_the_caller(work, caller):
    """A task sees no context variable of its caller, nor its decimal context"""
    assert seen(work, "context variable", "precision") == []


def test_no_thread_local_of_the_caller(work, caller):
    """A task sees nothing that its caller has put into a `threading.local`"""
    assert seen(work, "thread", "thread, by a class") == []


def test_no_attribute_of_the_callers_connection(work, caller):
    """A task sees no attribute that its caller has set on `connection`"""
    assert seen(work, "connection") == []


def test_what_importing_has_set_is_there(work):
    """A task sees what importing its module has set, in the context and in a `threading.local`"""
    assert work(around.see_imported.s()) == Success(["by the import"] * 2)


def test_no_environment_of_the_caller(work, monkeypatch, tmp_path):
    """A task sees environment and working directory of its worker, not those of its caller"""
    monkeypatch.setenv("MARK", "of the caller")
    monkeypatch.chdir(tmp_path)
    found = work(around.see.s()).value
    assert found["environment"] != "of the caller"
    assert found["folder"] != str(tmp_path)


def test_what_a_task_leaves_in_its_context(work, caller):
    """What a task sets in its context (language, variables) does not stay with its caller"""
    work(around.leave.s())
    assert kept("language", "time zone", "context variable", "precision") == []


def test_what_a_task_leaves_in_a_thread_local(work, caller):
    """What a task puts into a `threading.local` does not stay with its caller"""
    work(around.leave.s())
    assert kept("thread", "thread, by a class") == []


def test_what_a_task_leaves_on_its_connection(work, caller):
    """An attribute that a task sets on `connection` does not stay with its caller"""
    work(around.leave.s())
    assert kept("connection") == []


def test_what_a_task_leaves_in_its_process(work, monkeypatch, tmp_path):
    """What a task changes in its environment, or its working directory, stays in its process"""
    monkeypatch.setenv("MARK", "of the caller")
    monkeypatch.chdir(os.getcwd())
    before = os.getcwd()
    work(around.leave_in_process.s(str(tmp_path)))
    assert (os.environ["MARK"], os.getcwd()) == ("of the caller", before)


def test_what_a_task_leaves_the_next_one_finds(work):
    """What a task leaves in its context, the next task of its process finds"""
    found = {}
    for _ in range(30):
        pid, left = work(around.leave_for_the_next.s()).value
        if pid in found:
            break
        found[pid] = left
    assert left == "left"
