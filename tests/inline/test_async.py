"""`celery_inline` in async tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project, Run

VIEWS = {
    "proj/urls": """
        from django.urls import path
        from shop.views import order

        urlpatterns = [path("order/", order)]
        """,
    "shop/views": """
        from django.http import HttpResponse
        from shop.models import Order
        from shop.tasks import ship


        async def order(request):
            made = await Order.objects.acreate(name="new")
            ship.delay(made.pk)
            return HttpResponse(made.pk)
        """,
}

SYNC_VIEWS = {
    "proj/urls": """
        from django.urls import path
        from shop import sync_views, views

        urlpatterns = [path("order/", views.order), path("sync/", sync_views.order)]
        """,
    "shop/sync_views": """
        from django.db import transaction
        from django.http import HttpResponse
        from shop.models import Order
        from shop.tasks import ship


        def order(request):
            with transaction.atomic():
                made = Order.objects.create(name="new")
                ship.delay_on_commit(made.pk)
            return HttpResponse(made.pk)
        """,
}


def test_pitfall_45_a_coroutine_delivers_with_arun(run: Run, project: Project) -> None:
    project.write(**VIEWS)
    result = run("""
        import pytest
        from django.test import TestCase, TransactionTestCase
        from pytest_djcelery import inline, outbox
        from shop.models import Order
        from shop.tasks import ship

        class TestInOneTransaction(TestCase):
            async def test_it(self):
                with inline() as worker, outbox() as sent:
                    response = await self.async_client.get("/order/")
                    pk = int(response.content)
                    assert sent == [ship.s(pk)]
                    summary = await worker.arun()
                    assert summary.succeeded == 1
                    assert (await Order.objects.aget(pk=pk)).name == "shipped"

        class TestInRealTransactions(TransactionTestCase):
            async def test_it(self):
                with inline() as worker:
                    response = await self.async_client.get("/order/")
                    await worker.arun()
                    assert (await Order.objects.aget()).name == "shipped"
    """)
    result.assert_outcomes(passed=2)


OPTIONS = {
    "anyio": ("-p", "anyio"),
    # It warns of an option that is not set; so it is loaded here alone.
    "pytest_asyncio": (
        "-p", "pytest_asyncio.plugin", "-o", "asyncio_default_fixture_loop_scope=function",
    ),
}  # fmt: skip


@pytest.mark.parametrize("plugin", ["anyio", "pytest_asyncio"])
def test_pitfall_45_fixtures_in_async_tests(run: Run, project: Project, plugin: str) -> None:
    pytest.importorskip(plugin)
    project.write(**VIEWS)
    mark = "anyio" if plugin == "anyio" else "asyncio"
    result = run(
        f"""
        import pytest
        from shop.models import Order
        from shop.tasks import ship

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest.mark.{mark}
        @pytest.mark.django_db(transaction=True)
        async def test_it(async_client, celery_inline, celery_outbox):
            response = await async_client.get("/order/")
            assert celery_outbox == [ship.s(int(response.content))]
            assert (await celery_inline.arun()).succeeded == 1
            assert (await Order.objects.aget()).name == "shipped"
    """,
        *OPTIONS[plugin],
    )
    result.assert_outcomes(passed=1)


DELIVERED_BY_ITSELF = """
import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from asgiref.sync import sync_to_async
from django.test import TestCase
from pytest_djcelery import InlineError, Success
from shop.models import Order
from shop.tasks import add, fail, ship

pytestmark = pytest.mark.celery_inline(auto=True)
database = pytest.mark.django_db(transaction=True)

@pytest.fixture
def anyio_backend():
    return "asyncio"
"""


def test_pitfall_45_automatic_delivery_reaches_the_orm_from_a_coroutine(
    run: Run, project: Project
) -> None:
    project.write(**VIEWS)
    project.write(**SYNC_VIEWS)
    project.ini("djcelery_timeout = 0.5")
    result = run(
        """
        @pytest.mark.django_db
        @pytest.mark.parametrize("path", ["/order/", "/sync/"])
        def test_a_test_without_a_loop(client, path):
            client.get(path)
            assert Order.objects.get().name == "shipped"

        @database
        @pytest.mark.anyio
        @pytest.mark.parametrize("path", ["/order/", "/sync/"])
        async def test_a_test_in_a_loop(async_client, celery_results, path):
            await async_client.get(path)
            assert (await Order.objects.aget()).name == "shipped"
            assert celery_results.of(ship) == [Success("shipped")]

        @pytest.mark.celery_inline(auto=True)
        class TestOfDjango(TestCase):
            async def test_it(self):
                await self.async_client.get("/order/")
                order = await Order.objects.aget()
                assert order.name == "shipped"
                assert ship.delay(order.pk, express=True).get() == "express"

        @pytest.mark.anyio
        @pytest.mark.celery(task_eager_propagates=True)
        async def test_a_failure_is_raised_where_the_suite_wants_it():
            with pytest.raises(ValueError, match="here"):
                fail.delay("here")
        """,
        *OPTIONS["anyio"],
        preamble=DELIVERED_BY_ITSELF,
    )
    result.assert_outcomes(passed=6)


def test_pitfall_45_automatic_delivery_needs_the_thread_of_the_orm(
    run: Run, project: Project
) -> None:
    project.write(**VIEWS)
    project.write(**SYNC_VIEWS)
    project.ini("djcelery_timeout = 0.5")
    result = run(
        """
        @pytest.mark.anyio
        async def test_the_orms_thread_is_not_free():
            go_on = threading.Event()
            busy = asyncio.ensure_future(sync_to_async(go_on.wait)(10))
            await asyncio.sleep(0)  # it starts
            with pytest.raises(InlineError, match="is not free after 0.5 s"):
                add.delay(1, 2)
            go_on.set()
            assert await busy

        def test_a_thread_of_the_codes_own_delivers_nothing(celery_inline):
            with ThreadPoolExecutor() as pool:
                pool.submit(add.delay, 1, 2).result()
            assert celery_inline.pending == [add.s(1, 2)]
        """,
        *OPTIONS["anyio"],
        preamble=DELIVERED_BY_ITSELF,
    )
    result.assert_outcomes(passed=2)
