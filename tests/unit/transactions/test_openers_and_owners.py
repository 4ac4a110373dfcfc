"""Who opened a block, whose a hook is, and what both are called."""

# ruff: noqa: E402 - Django is configured before anything asks for a setting

from __future__ import annotations

import os
import sys
from functools import partial, wraps
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from tests.unit import django_in_process

assert django_in_process.is_ours

import django
from django.db.transaction import atomic
from django.utils.decorators import method_decorator
from django.views import View

from pytest_djcelery import locations
from pytest_djcelery.transactions.hooks import owning_package
from pytest_djcelery.transactions.openers import (
    Opener,
    _qualified,
    function_text,
    opener_of,
    task_of,
)

app = Celery("openers", broker="memory://", set_as_current=False)
HERE = locations.relative(__file__)


@app.task(shared=False, name="shop.ship")
def ship(order: int) -> None:
    """Never run here."""


def installed(source: str, name: str = "parcel.mod", **known: Any) -> dict[str, Any]:
    """The names of a module of an installed package."""
    path = f"/env/lib/site-packages/{name.replace('.', '/')}.py"
    module = {"__name__": name, **known}
    exec(compile(source, path, "exec"), module)
    return module


def in_django(source: str, *path: str, **known: Any) -> dict[str, Any]:
    """The names of a module of Django's."""
    file = os.path.join(os.path.dirname(django.__file__), *path)
    module: dict[str, Any] = {"__name__": "django.module", **known}
    exec(compile(source, file, "exec"), module)
    return module


def frame_here(depth: int = 1) -> FrameType:
    return sys._getframe(depth)


def of_frame(frame: FrameType | None = None, *, atomic_requests: bool = False) -> Opener:
    return opener_of(frame or sys._getframe(1), atomic_requests=atomic_requests)


class Entered:
    """Keeps the opener of the block that a decorator, or whoever enters it, has opened."""

    def __init__(self, *, atomic_requests: bool = False) -> None:
        self.openers: list[Opener] = []
        self.atomic_requests = atomic_requests
        self.decorated = self._context()

    def _context(self) -> Any:
        from contextlib import ContextDecorator

        entered = self

        class Block(ContextDecorator):
            def __enter__(self) -> None:
                entered.openers.append(
                    opener_of(sys._getframe(1), atomic_requests=entered.atomic_requests)
                )

            def __exit__(self, *_: object) -> None:
                pass

        return Block()

    @property
    def opener(self) -> Opener:
        [opener] = self.openers
        return opener


# Openers -----------------------------------------------------------------------------------


def test_a_with_block_has_the_line_that_opened_it() -> None:
    opener = of_frame()
    assert (opener.kind, opener.call, opener.function) == ("with", None, None)
    assert opener.location is not None
    assert opener.path == __file__
    line = opener.location.line
    function = "test_a_with_block_has_the_line_that_opened_it"
    assert str(opener) == f"`with transaction.atomic()` at {HERE}:{line} in {function}"
    assert opener.text(os.path.basename) == (
        f"`with transaction.atomic()` at {os.path.basename(__file__)}:{line} in {function}"
    )


def test_a_block_of_nobodys_line_has_none() -> None:
    opener = opener_of(None, atomic_requests=True)
    assert (opener.kind, opener.location, opener.path) == ("with", None, None)
    assert str(opener) == "`with transaction.atomic()`"
    assert str(Opener(kind="call", call="parcel.send")) == "parcel.send()"


def test_a_decorated_function_is_named_with_its_line() -> None:
    entered = Entered()

    @entered.decorated
    def place_order() -> None:
        pass

    place_order()
    opener = entered.opener
    line = place_order.__wrapped__.__code__.co_firstlineno
    assert (opener.kind, opener.location, opener.path) == ("decorator", None, __file__)
    name = "test_a_decorated_function_is_named_with_its_line.<locals>.place_order"
    assert str(opener) == (f"the decorator transaction.atomic of {__name__}.{name} ({HERE}:{line})")


def test_a_function_that_is_decorated_twice_opens_both() -> None:
    entered = Entered()
    entered.decorated(entered.decorated(len))("four")
    for opener in entered.openers:
        assert str(opener) == "the decorator transaction.atomic of builtins.len"
        assert opener.path is None
    assert len(entered.openers) == 2


@pytest.mark.parametrize(
    ("path", "atomic_requests", "kind"),
    [
        (("core", "handlers", "base.py"), True, "request"),
        (("core", "handlers", "base.py"), False, "decorator"),
        (("core", "management", "base.py"), True, "decorator"),
        (("db", "base.py"), True, "decorator"),
    ],
)
def test_around_a_view_it_is_the_request(
    path: tuple[str, ...], *, atomic_requests: bool, kind: str
) -> None:
    entered = Entered(atomic_requests=atomic_requests)

    @entered.decorated
    def view() -> None:
        pass

    in_django("def respond(view): view()", *path)["respond"](view)
    assert entered.opener.kind == kind
    if kind == "request":
        assert str(entered.opener).startswith(f"ATOMIC_REQUESTS, around the view {__name__}.")


def test_under_asgi_a_view_is_called_by_a_thread_of_asgiref() -> None:
    entered = Entered(atomic_requests=True)

    @entered.decorated
    def view() -> None:
        pass

    installed("def run(view): view()", "asgiref.sync")["run"](view)
    assert entered.opener.kind == "request"


def test_what_the_project_called_of_an_installed_package_is_named() -> None:
    source = "def inner(frame): return frame()\ndef send_all(frame): return inner(frame)\n"
    opener = installed(source)["send_all"](lambda: of_frame(frame_here(2)))
    assert opener.kind == "call"
    assert opener.call == "parcel.mod.send_all"
    assert opener.location is not None
    assert opener.location.path == __file__
    assert str(opener).startswith(f"parcel.mod.send_all(), called at {HERE}:")


def test_of_two_packages_the_one_that_the_project_called_is_named() -> None:
    inner = installed("def inner(frame): return frame()", "library.mod")["inner"]
    outer = installed("def outer(frame): return inner(frame)", "parcel.mod", inner=inner)["outer"]
    opener = outer(lambda: of_frame(frame_here(2)))
    assert opener.call == "parcel.mod.outer"


def test_what_the_project_called_of_django_is_the_outermost_of_its_methods() -> None:
    source = """
class Model:
    def delete(self, frame):
        return Collector()._collect(frame)

class Collector:
    def _collect(self, frame):
        return self.finish(frame)

    def finish(self, frame):
        return frame()

class Query:
    @classmethod
    def of_class(cls, frame):
        def inner():
            return frame()
        return inner()

def manager_method(frame):
    return _hidden(frame)

def _hidden(frame):
    return Model().delete(frame)
"""
    module = in_django(source, "db", "models", "base.py")
    opener = module["manager_method"](lambda: of_frame(frame_here(2)))
    assert (opener.kind, opener.call) == ("call", "Model.delete")
    elsewhere = in_django("def handle(f, frame): return f(frame)", "core", "base.py")["handle"]
    opener = elsewhere(module["manager_method"], lambda: of_frame(frame_here(2)))
    assert opener.call == "Model.delete"  # what called the ORM is none of it
    # Code has no qualified name before Python 3.11.
    name = "Query.of_class" if sys.version_info >= (3, 11) else "of_class"
    assert module["Query"].of_class(lambda: of_frame(frame_here(3))).call == name
    assert module["Query"].of_class(lambda: of_frame(frame_here(2))).call == name


def test_a_function_inside_another_is_named_without_it() -> None:
    source = "def outer(frame):\n def inner(): return frame()\n return inner()\n"
    module = in_django(source, "core", "base.py")
    opener = module["outer"](lambda: of_frame(frame_here(2)))
    assert opener.call == "inner"


def test_before_python_3_11_a_method_is_found_in_the_classes_of_its_object() -> None:
    code = SimpleNamespace(co_name="save", co_filename=__file__)

    class Base:
        save = SimpleNamespace(__code__=code)
        other = SimpleNamespace(__code__=None)

    class Child(Base):
        save = SimpleNamespace(__code__=None)

    frame: Any = SimpleNamespace(f_code=code, f_locals={"self": Child()})
    test = "test_before_python_3_11_a_method_is_found_in_the_classes_of_its_object"
    assert Base.__qualname__ == f"{test}.<locals>.Base"
    assert _qualified(frame) == "Base.save"
    assert _qualified(SimpleNamespace(f_code=code, f_locals={})) == "save"  # type: ignore[arg-type]


# What functions are called ------------------------------------------------------------------


def plain() -> None:
    pass


class Service:
    """Of the project."""

    def method(self) -> None:
        pass

    def __call__(self) -> None:
        pass


class Heir(Service):
    """Inherits what it decorates."""


@wraps(plain)
def wrapper() -> None:
    pass


class Wrapping:
    """Wraps a function, and has neither its name nor its module."""

    __wrapped__ = staticmethod(plain)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (plain, "plain"),
        (wrapper, "plain"),
        (Wrapping(), "plain"),
        (partial(plain), "plain"),
        (partial(partial(wrapper), 1), "plain"),
        (Service, "Service"),
        (Service().method, "Service.method"),
        (Service(), "Service"),
        (partial(Heir().method), "Service.method"),
        (View.as_view(), None),
    ],
)
def test_a_callable_is_named_as_a_person_would(function: Any, name: str | None) -> None:
    expected = f"{__name__}.{name}" if name else "django.views.generic.base.View"
    assert function_text(function) == expected


def test_methods_of_tasks_and_signatures_are_named_by_the_task() -> None:
    assert function_text(ship.delay) == "shop.ship.delay"
    assert function_text(partial(ship.apply_async, (1,))) == "shop.ship.apply_async"
    assert function_text(ship.s(1).delay) == "shop.ship.delay"
    assert task_of(ship.delay) == task_of(ship.s(1).delay) == "shop.ship"
    assert task_of(Service().method) is None


def test_without_celery_nothing_is_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "celery.app.task")
    assert task_of(ship.delay) is None
    monkeypatch.delitem(sys.modules, "celery.canvas")
    assert task_of(ship.s(1).delay) is None


def test_a_view_that_decorates_an_inherited_method_is_named_itself() -> None:
    entered = Entered(atomic_requests=False)

    @method_decorator(entered.decorated, name="dispatch")
    class Checkout(View):
        """The project's."""

    request: Any = SimpleNamespace(method="OPTIONS")
    Checkout.as_view()(request)
    opener = entered.opener
    assert f"{__name__}." in str(opener)
    assert "Checkout.dispatch" in str(opener)
    assert f"({HERE}:" in str(opener)
    assert opener.path == __file__


def test_where_a_view_is_written_is_where_its_class_is() -> None:
    class Checkout(View):
        """The project's."""

    opener = Opener(kind="request", function=Checkout.as_view())
    assert str(opener).startswith(f"ATOMIC_REQUESTS, around the view {__name__}.")
    assert f"Checkout ({HERE}:" in str(opener)


@pytest.mark.parametrize("function", [partial(plain), partial(partial(plain)), wrapper, plain])
def test_where_a_function_is_written_is_found_through_what_wraps_it(function: Any) -> None:
    line = plain.__code__.co_firstlineno
    text = str(Opener(kind="decorator", function=function))
    assert text == f"the decorator transaction.atomic of {__name__}.plain ({HERE}:{line})"


def test_a_partial_that_wraps_another_function_is_that_function() -> None:
    decorated: Any = partial(Service())
    decorated.__wrapped__ = plain
    line = plain.__code__.co_firstlineno
    assert f"({HERE}:{line})" in str(Opener(kind="decorator", function=decorated))


def test_what_was_made_at_run_time_is_written_nowhere() -> None:
    module: dict[str, Any] = {"__name__": "made"}
    exec(compile("def made(): pass", "/no/such/file.py", "exec"), module)
    opener = Opener(kind="decorator", function=module["made"])
    assert str(opener) == "the decorator transaction.atomic of made.made"


# Whose a hook is ---------------------------------------------------------------------------


PARCEL = """
def own(): pass

def holds(function):
    def held(): return function()
    return held

def empty():
    if 0:
        later = 1
    def held(): return later
    return held

class Client:
    def send(self): pass
"""


def test_a_function_of_an_installed_package_is_its_own_business() -> None:
    parcel = installed(PARCEL)
    assert owning_package(parcel["own"]) == "parcel"
    assert owning_package(partial(parcel["own"], 1, x=2)) == "parcel"
    assert owning_package(parcel["Client"]().send) == "parcel"
    assert owning_package(parcel["holds"](parcel["own"])) == "parcel"
    assert owning_package(parcel["holds"](parcel["Client"]().send)) == "parcel"
    assert owning_package(parcel["holds"](1)) == "parcel"
    assert owning_package(parcel["empty"]()) == "parcel"


@pytest.mark.parametrize("of_project", [plain, Service().method, ship.delay, ship.s(1).delay])
def test_one_that_calls_the_projects_or_sends_a_task_is_the_projects(of_project: Any) -> None:
    parcel = installed(PARCEL)
    assert owning_package(parcel["holds"](of_project)) is None
    assert owning_package(partial(parcel["own"], of_project)) is None
    assert owning_package(partial(parcel["own"], key=of_project)) is None
    assert owning_package(partial(partial(parcel["own"], of_project), 1, x=2)) is None
    twice = partial(parcel["own"], of_project)
    assert owning_package(partial(parcel["holds"](1), twice.args[0])) is None


def test_what_wraps_the_projects_function_is_the_projects() -> None:
    parcel = installed(PARCEL)
    wrapped: Any = wraps(plain)(parcel["own"])
    assert owning_package(wrapped) is None
    reverse: Any = wraps(installed(PARCEL)["own"])(lambda: None)
    assert owning_package(reverse) == "parcel"


@pytest.mark.parametrize(
    "function", [plain, partial(plain), Service().method, Service(), len, os.path.join, atomic]
)
def test_all_else_is_no_packages(function: Any) -> None:
    assert owning_package(function) is None
