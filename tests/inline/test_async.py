"""`celery_inline` in async tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Project

Run = Callable[..., pytest.RunResult]

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
