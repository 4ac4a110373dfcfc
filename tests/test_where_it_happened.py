"""Which line of the project a text names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Project

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
