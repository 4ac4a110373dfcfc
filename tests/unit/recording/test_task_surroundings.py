"""What tasks find around them: `Surroundings`, without Celery."""

from __future__ import annotations

import decimal
import sys
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from types import ModuleType

import pytest

from pytest_djcelery.recording.task_surroundings import Surroundings

VARIABLE: ContextVar[str] = ContextVar("variable", default="default")


class Counting(threading.local):
    def __init__(self) -> None:
        self.stack: list[str] = []


class Named(threading.local):
    def __init__(self, name: str) -> None:
        self.name = name


@pytest.fixture
def module() -> Iterator[ModuleType]:
    module = ModuleType("project_of_the_test")
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


@pytest.fixture(autouse=True)
def variable_put_back() -> Iterator[None]:
    token = VARIABLE.set("of an import")
    with decimal.localcontext():
        yield
    VARIABLE.reset(token)


def test_a_context_has_what_was_remembered_and_nothing_later() -> None:
    surroundings = Surroundings()
    assert surroundings.run(VARIABLE.get) == "default"
    surroundings.remember()
    VARIABLE.set("of the caller")
    assert surroundings.run(VARIABLE.get) == "of an import"
    surroundings.run(VARIABLE.set, "of a task")
    assert surroundings.run(VARIABLE.get) == "of an import"
    assert VARIABLE.get() == "of the caller"


def test_a_variable_can_be_carried() -> None:
    assert Surroundings().run(VARIABLE.get, carried=[VARIABLE]) == "of an import"


@pytest.mark.parametrize("precision", [decimal.DefaultContext.prec, 41])
def test_decimals_are_computed_as_an_import_has_said_whatever_a_task_does(precision: int) -> None:
    decimal.getcontext().prec = precision
    surroundings = Surroundings()
    surroundings.remember()

    def change() -> int:
        found = decimal.getcontext().prec
        decimal.getcontext().prec = 7
        return found

    decimal.getcontext().prec = 11
    assert [surroundings.run(change), surroundings.run(change)] == [precision, precision]
    assert decimal.getcontext().prec == 11


def test_a_thread_local_has_what_was_remembered_and_is_put_back(module: ModuleType) -> None:
    local = module.local = threading.local()
    local.name, local.names = "of an import", ["of an import"]
    surroundings = Surroundings()
    surroundings.remember()
    local.name = local.more = "of the caller"

    def change() -> dict[str, object]:
        found = {**vars(local), "names": list(local.names)}
        local.name = local.other = "of a task"
        local.names.append("of a task")
        return found

    for _ in range(2):
        assert surroundings.run(change) == {"name": "of an import", "names": ["of an import"]}
    assert (local.name, local.more) == ("of the caller", "of the caller")
    assert not hasattr(local, "other")


def test_a_thread_local_of_a_class_or_of_a_module_that_came_later_is_found(
    module: ModuleType,
) -> None:
    surroundings = Surroundings()
    surroundings.remember()
    later = ModuleType("project_of_the_test.later")
    local = threading.local()
    later.Middleware = type("Middleware", (), {"current": local, "__module__": later.__name__})
    local.name = "of the caller"
    sys.modules[later.__name__] = later
    try:
        assert surroundings.run(lambda: vars(local).copy()) == {}
    finally:
        del sys.modules[later.__name__]
    assert local.name == "of the caller"


def test_a_thread_local_begins_as_in_a_new_thread(module: ModuleType) -> None:
    module.counting, module.named = counting, named = Counting(), Named("a name")
    counting.stack.append("of the caller")
    surroundings = Surroundings()
    surroundings.remember()

    def push() -> list[str]:
        counting.stack.append("of a task")
        return counting.stack

    assert surroundings.run(push) == ["of a task"]
    assert surroundings.run(push) == ["of a task"]
    assert counting.stack == ["of the caller"]
    assert surroundings.run(lambda: named.name) == "a name"  # only it knows how it was made


def test_what_was_there_is_put_back_after_an_error_too(module: ModuleType) -> None:
    local = module.local = threading.local()
    local.name = "of the caller"

    def fail() -> None:
        VARIABLE.set("of a task")
        local.name = "of a task"
        raise KeyError

    surroundings = Surroundings()
    with pytest.raises(KeyError):
        surroundings.run(fail)
    assert (VARIABLE.get(), local.name) == ("of an import", "of the caller")


def test_a_run_inside_a_run_has_separate_surroundings(module: ModuleType) -> None:
    local = module.local = threading.local()
    surroundings = Surroundings()

    def outer() -> tuple[str, str | None, str | None]:
        VARIABLE.set("of the outer")
        local.name = "of the outer"
        inner = surroundings.run(VARIABLE.get), surroundings.run(getattr, local, "name", None)
        return (*inner, local.name)

    assert surroundings.run(outer) == ("default", None, "of the outer")


def test_lazy_objects_of_a_module_are_not_woken_up(module: ModuleType) -> None:
    class Lazy:
        @property
        def __class__(self) -> type:
            raise AssertionError("woken up")

    module.lazy = Lazy()
    Surroundings().run(int)
