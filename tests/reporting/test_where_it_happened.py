"""Which line of the project a text names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project

# Python 3.15 has one inner function for each kind of function that is decorated.
SEVERAL_WRAPPERS = """
import asyncio
import contextlib
import inspect
from functools import wraps

def __call__(self, func):
    wrapper = wraps(func)
    if inspect.isasyncgenfunction(func):
        async def inner(*args, **kwds):
            with self._recreate_cm():
                async for value in func(*args, **kwds):
                    yield value
    elif inspect.iscoroutinefunction(func):
        async def inner(*args, **kwds):
            with self._recreate_cm():
                return await func(*args, **kwds)
    elif inspect.isgeneratorfunction(func):
        def inner(*args, **kwds):
            with self._recreate_cm():
                return (yield from func(*args, **kwds))
    else:
        def inner(*args, **kwds):
            with self._recreate_cm():
                return func(*args, **kwds)
    return wrapper(inner)

contextlib.ContextDecorator.__call__ = __call__
"""


@pytest.mark.parametrize(
    ("kind", "wrappers"),
    [
        ("function", "of this Python"),
        ("function", "of Python 3.15"),
        ("generator", "of Python 3.15"),  # before, it is only made in the block
    ],
)
@pytest.mark.usefixtures("fresh_processes")
def test_what_a_decorator_opens_is_named_by_its_function(
    project: Project, kind: str, wrappers: str
) -> None:
    project.write(several_wrappers=SEVERAL_WRAPPERS)
    arguments = ["-p", "several_wrappers"] if wrappers == "of Python 3.15" else []
    project.write(
        **{
            "shop/services": f"""
                from django.db import transaction

                from shop.models import Order
                from shop.tasks import ship


                @transaction.atomic
                def order():
                    ship.delay(Order.objects.create().pk)
                    {"yield" if kind == "generator" else ""}
                """
        }
    )
    result = project.run(
        """
        import pytest
        from pytest_djcelery import SentInTransactionError
        from shop.services import order

        pytestmark = [pytest.mark.django_db, pytest.mark.celery_sent_in_transaction("error")]

        def test(celery_outbox):
            list(order() or ())
        """,
        *arguments,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            (
                "E *  opened by: the decorator transaction.atomic of shop.services.order "
                "(shop/services.py:8)"
            )
        ]
    )


PARCEL = {
    "env/site-packages/parcel/__init__": """
        import json

        from celery import shared_task
        from django.db import transaction

        from parcel.models_of_others import save


        def send(task, *args):
            return task.delay(*args)

        def send_later(task, *args):
            transaction.on_commit(lambda: task.delay(*args))

        def run_later(function):
            transaction.on_commit(lambda: function())

        def keep(model, after=None):
            with transaction.atomic():
                row = save(model)
                if after is not None:
                    after(row)

        def load(text):
            return json.loads(text)

        @shared_task
        def forward(name):
            from celery import current_app
            current_app.tasks[name].delay(1, 2)
        """,
    "env/site-packages/parcel/models_of_others": """
        def save(model):
            return model.objects.create()
        """,
    "env/site-packages/parcel/plugin": """
        import pytest

        @pytest.fixture
        def published(celery_outbox):
            from shop.tasks import add
            add.delay(1, 2)
            return celery_outbox
        """,
    "shop/services": """
        import parcel
        from django.db import transaction
        from shop.models import Order
        from shop.tasks import add, ship

        def direct(): parcel.send(add, 1, 2)  # line 7
        def later():
            with transaction.atomic():
                parcel.send_later(add, 1, 2)  # line 10
        def kept(): parcel.keep(Order, lambda order: ship.delay(order.pk))  # line 11
        """,
}


@pytest.fixture
def with_package(project: Project) -> Project:
    """A project beside an installed package, ``parcel``."""
    project.pytester.makeini(
        "[pytest]\nDJANGO_SETTINGS_MODULE = proj.settings\npythonpath = . env/site-packages\n"
    )
    project.write(**PARCEL)
    return project


@pytest.mark.parametrize("mode", ["celery_outbox", "celery_eager", "celery_inline"])
def test_what_an_installed_package_sends_is_attributed_to_the_projects_line(
    with_package: Project, mode: str
) -> None:
    with_package.write(conftest='pytest_plugins = ["parcel.plugin"]')
    result = with_package.run(
        f"""
        import pytest
        from shop import services

        @pytest.mark.django_db
        @pytest.mark.parametrize(("function", "line"), [("direct", 7), ("later", 10)])
        @pytest.mark.usefixtures("{mode}")
        def test_place(celery_outbox, function, line):
            getattr(services, function)()
            [sent] = celery_outbox
            place = sent.location
            assert (place.path[-16:], place.line) == ("shop/services.py", line), place

        @pytest.mark.usefixtures("{mode}")
        def test_a_fixture_of_a_plugin(published):
            place = published[0].location
            assert place.path.endswith("parcel/plugin.py"), place
        """
    )
    result.assert_outcomes(passed=3)


@pytest.mark.parametrize("mode", ["celery_eager", "celery_inline(auto=True)", "celery_worker"])
def test_what_a_task_of_a_package_sends_is_not_attributed_to_the_line_that_runs_it(
    with_package: Project, mode: str
) -> None:
    fixture, _, auto = mode.partition("(")
    mark = f"@pytest.mark.{mode}" if auto else ""
    result = with_package.run(f"""
        import pytest
        from parcel import forward
        from shop.tasks import add

        {mark}
        def test({fixture}, celery_outbox):
            forward.delay(add.name).get()
            first, second = celery_outbox
            assert first.location.path.endswith("test_it.py"), first.location
            assert second.location.path.endswith("parcel/__init__.py"), second.location
        """)
    result.assert_outcomes(passed=1)


def test_a_block_of_a_package_is_named_by_what_the_project_called(with_package: Project) -> None:
    result = with_package.run("""
        import pytest
        from shop.services import kept

        @pytest.mark.django_db
        @pytest.mark.celery_sent_in_transaction("error")
        def test(celery_outbox):
            kept()
        """)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E *  sent at:   shop/services.py:11 in *",
            "E *  opened by: parcel.keep(), called at shop/services.py:11 in kept",
        ]
    )


@pytest.mark.parametrize("sources", ["src/parcel", None])
@pytest.mark.usefixtures("fresh_processes")
def test_a_project_that_is_installed_is_the_project(
    with_package: Project, sources: str | None
) -> None:
    if sources is not None:
        with_package.write(**{f"{sources}/__init__": ""})
    with_package.pytester.makeini(
        f"[pytest]\nDJANGO_SETTINGS_MODULE = {'proj' if sources else 'parcel'}.settings\n"
        "pythonpath = . env/site-packages\n"
    )
    with_package.write(**{"env/site-packages/parcel/settings": "from proj.settings import *"})
    result = with_package.run("""
        from shop.services import direct

        def test(celery_outbox):
            direct()
            assert celery_outbox[0].location.path.endswith("parcel/__init__.py")
        """)
    result.assert_outcomes(passed=1)


def test_a_failure_in_a_package_shows_the_projects_call(with_package: Project) -> None:
    with_package.tasks("""
        import parcel

        @shared_task
        def read(text):
            return parcel.load(text)
        """)
    result = with_package.run("""
        from pytest_djcelery import Success
        from shop.tasks import read

        def test(celery_eager, celery_results):
            assert celery_results[read.delay("no JSON")] == Success(1)

        def test_unseen(celery_eager):
            read.delay("no JSON")
        """)
    result.assert_outcomes(failed=2)
    # The package's own call in two lines, as those of libraries.
    result.stdout.fnmatch_lines(
        ["* def read(text):", "> * return parcel.load(text)", "env/*parcel/__init__.py:*: in load"]
    )
